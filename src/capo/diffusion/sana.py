"""Sana."""

from inspect import signature
from typing import Any, ClassVar

from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor
from transformers import Gemma2Model

from capo.diffusion.family import Family
from capo.diffusion.flow import RectifiedFlow

INSTRUCTION = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""The instruction that the pipeline puts before every prompt, as in Sana's training."""


class Sana(Family):
    """A `SanaPipeline`: a linear transformer on the latents of a VAE that compresses 32-fold.

    Conditioning is Gemma's `prompt_embeds` [P, tokens, D] and `prompt_attention_mask` [P, tokens].
    """

    pipeline_class = SanaPipeline
    denoiser_name = "transformer"
    denoiser_class = SanaTransformer2DModel
    text_encoders: ClassVar = {"text_encoder": Gemma2Model}
    vae_class = AutoencoderDC
    process_class = RectifiedFlow
    pixel_multiple = 32
    sequence_length = 300
    plain_latents = "noise.to(pipe.device)"
    sampling: ClassVar = {
        "negative_prompt": None,  # already encoded
        "use_resolution_binning": False,  # images of exactly the requested size
    }

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = self._pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self._tokens(),
            complex_human_instruction=INSTRUCTION,
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def _unconditional(self) -> dict[str, Tensor]:
        _, _, embeds, mask = self._pipeline.encode_prompt(
            [""], device=self.device, max_sequence_length=self._tokens()
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def _reach(self) -> tuple[Any, int]:
        return self._pipeline.tokenizer, self._tokens() - 1  # the end of the instruction takes one

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        config: Any = self.denoiser.config
        prediction: Tensor = self.denoiser(
            x_t,
            timestep=t * 1000 * config.timestep_scale,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            return_dict=False,
        )[0]
        return prediction

    def _packed(self, noise: Tensor) -> Tensor:
        return noise.to(self.device)  # this pipeline keeps latents in float32
