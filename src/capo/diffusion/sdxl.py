"""Stable Diffusion XL."""

from typing import Any, ClassVar

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from capo.diffusion.assembly import absent_parts
from capo.diffusion.family import Family
from capo.diffusion.process import DDPM


class SDXL(Family):
    """A `StableDiffusionXLPipeline`.

    Conditioning is `prompt_embeds` [P, tokens, D] and `pooled_prompt_embeds` [P, E]. SDXL is also conditioned
    on size and crop, which are those of the images themselves.
    """

    pipeline_class = StableDiffusionXLPipeline
    denoiser_name = "unet"
    denoiser_class = UNet2DConditionModel
    text_encoders: ClassVar = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    process_class = DDPM

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _unconditional(self) -> dict[str, Tensor]:
        # Zeros or the empty prompt, as the checkpoint's index says.
        _, embeds, _, pooled = self._pipeline.encode_prompt(
            [""], device=self.device, do_classifier_free_guidance=True
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _reach(self) -> tuple[Any, int]:
        tokenizer = self._pipeline.tokenizer_2
        return tokenizer, tokenizer.model_max_length

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        height, width = self._pixels(x_t)
        # Original size, crop, target size: the pipeline's values for images of this size. Filled in on the
        # device, since a copy from main memory would wait for all of its work.
        time_ids = x_t.new_zeros(len(x_t), 6)
        time_ids[:, 0::4], time_ids[:, 1::4] = height, width
        prediction: Tensor = self.denoiser(
            x_t,
            t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": conditioning["pooled_prompt_embeds"],
                "time_ids": time_ids,
            },
            return_dict=False,
        )[0]
        return prediction

    def _check_denoiser(self) -> None:
        super()._check_denoiser()
        if "text_encoder" in absent_parts(self.pipeline_class, self.source):
            raise ValueError(
                "model.checkpoint: it lacks SDXL's first text encoder, like the refiner, which only improves "
                "images; use a base model"
            )

    def _fixed_parts(self) -> dict[str, Any]:
        return {"add_watermarker": False}
