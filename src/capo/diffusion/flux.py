"""FLUX.1-dev and FLUX.1-schnell."""

import math
from inspect import signature
from typing import Any, ClassVar

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from capo.diffusion.family import Family
from capo.diffusion.flow import RectifiedFlow
from capo.recipe import GenerateSection

TRAINING_GUIDANCE = 1.0
"""FLUX.1-dev's guidance input in training.

At 1 the network acts as the conditional model that guidance was distilled from, whose error the objective
measures. With larger values it acts as a guided combination, which belongs in sampling only.
"""


class Flux(Family):
    """A `FluxPipeline`: -dev, with guidance as an input of the network, or -schnell, without guidance.

    Conditioning is T5's `prompt_embeds` [P, tokens, D] and CLIP's `pooled_prompt_embeds` [P, E]. Latents are
    the VAE's; packing 2 × 2 of them into a token is internal.
    """

    pipeline_class = FluxPipeline
    denoiser_name = "transformer"
    denoiser_class = FluxTransformer2DModel
    text_encoders: ClassVar = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}
    process_class = RectifiedFlow
    packed_side = 2
    sequence_length = 512
    longest_sequence = 512
    plain_latents = "pipe._pack_latents(noise, *noise.shape).to(pipe.device, pipe.dtype)"

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = self._pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self._tokens()
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _unconditional(self) -> dict[str, Tensor]:
        return {}

    def _reach(self) -> tuple[Any, int]:
        return self._pipeline.tokenizer_2, self._tokens()

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        rows, channels, height, width = x_t.shape
        embeds = conditioning["prompt_embeds"]
        guidance = torch.full((rows,), TRAINING_GUIDANCE, device=x_t.device) if self._guided() else None
        prediction: Tensor = self.denoiser(
            hidden_states=FluxPipeline._pack_latents(x_t, rows, channels, height, width),
            timestep=t,  # in [0, 1]: the transformer itself converts to thousandths
            guidance=guidance,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=x_t.device, dtype=x_t.dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(
                rows, height // 2, width // 2, x_t.device, x_t.dtype
            ),
            return_dict=False,
        )[0]
        return self._unpacked(prediction, x_t)

    def _grid(self) -> tuple[int, int, int]:
        config: Any = self.denoiser.config
        # The network has no size of its own; the pipeline's default is 128, or 1024 pixels.
        return config.in_channels // 4, 128, 2

    def _sampler(self, settings: GenerateSection) -> Any:
        if settings.guidance_scale > 1 and not self._guided():
            raise ValueError(
                "generate.guidance_scale: this model (like FLUX.1-schnell) was distilled to work without "
                "guidance; set it to 0"
            )
        scheduler = super()._sampler(settings)
        # The pipeline always passes its scheduler "mu", the logarithm of a shift.
        if "mu" not in signature(scheduler.set_timesteps).parameters:
            raise ValueError(
                f"generate.scheduler: {type(scheduler).__name__} does not work with FLUX, whose pipeline "
                "sets the shift itself; choose FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler"
            )
        scheduler.register_to_config(**_fixed_shift(scheduler.config))
        return scheduler

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        changes = super().sampler_changes(settings)
        return changes | _fixed_shift(self.process.sampler(settings).config)

    def _packed(self, noise: Tensor) -> Tensor:
        return FluxPipeline._pack_latents(super()._packed(noise), *noise.shape)

    def _unpacked(self, latents: Tensor, noise: Tensor) -> Tensor:
        # The pipeline converts from pixels; sizes are already in latents, so the factor is 1.
        return FluxPipeline._unpack_latents(latents, *noise.shape[-2:], vae_scale_factor=1)

    def _guided(self) -> bool:
        config: Any = self.denoiser.config
        return bool(config.guidance_embeds)

    def _tokens(self) -> int:
        """Return the tokens per prompt; -schnell was trained with half of -dev's."""
        return super()._tokens() if self._guided() or self._section.max_sequence_length else 256


def _fixed_shift(config: Any) -> dict[str, Any]:
    """Settings by which a general solver keeps its shift, although the pipeline always sets one."""
    if "flow_shift" not in config or config["use_dynamic_shifting"]:
        return {}
    mu = math.log(config["flow_shift"])
    return {"use_dynamic_shifting": True, "base_shift": mu, "max_shift": mu}
