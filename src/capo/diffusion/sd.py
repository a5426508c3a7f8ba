"""Stable Diffusion 1.x and 2.x."""

from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from capo.diffusion.family import Family
from capo.diffusion.process import DDPM


class StableDiffusion(Family):
    """A `StableDiffusionPipeline`, with ε (1.x, 2.x base) or v prediction (2.x at 768 pixels).

    Conditioning is `prompt_embeds` [P, tokens, D]. The safety checker is disabled: black images cannot be
    compared with others.
    """

    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"
    denoiser_class = UNet2DConditionModel
    text_encoders: ClassVar = {"text_encoder": CLIPTextModel}
    process_class = DDPM

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self._pipeline.encode_prompt(
            prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds}

    def _reach(self) -> tuple[Any, int]:
        tokenizer = self._pipeline.tokenizer
        return tokenizer, tokenizer.model_max_length

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.denoiser(
            x_t, t, encoder_hidden_states=conditioning["prompt_embeds"], return_dict=False
        )[0]
        return prediction

    def _fixed_parts(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
