"""Stable Diffusion 3 and 3.5."""

from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from capo.diffusion.family import Family
from capo.diffusion.flow import RectifiedFlow


class SD3(Family):
    """A `StableDiffusion3Pipeline`, with or without T5.

    Conditioning is `prompt_embeds` [P, CLIP's tokens + T5's, D] (zeros for an absent T5) and
    `pooled_prompt_embeds` [P, E].
    """

    pipeline_class = StableDiffusion3Pipeline
    denoiser_name = "transformer"
    denoiser_class = SD3Transformer2DModel
    text_encoders: ClassVar = {
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    process_class = RectifiedFlow
    sequence_length = 256
    longest_sequence = 512

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._tokens(),
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _reach(self) -> tuple[Any, int]:
        pipeline = self._pipeline
        if pipeline.text_encoder_3 is None:
            return pipeline.tokenizer, pipeline.tokenizer_max_length
        return pipeline.tokenizer_3, self._tokens()

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.denoiser(
            hidden_states=x_t,
            timestep=t * 1000,  # the transformer measures time in thousandths
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return prediction
