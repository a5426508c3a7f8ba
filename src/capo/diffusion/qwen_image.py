"""Qwen-Image."""

from typing import Any, ClassVar

from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from capo.diffusion.chat_prompts import encode_padded
from capo.diffusion.family import Family
from capo.diffusion.flow import EulerFlow
from capo.recipe import GenerateSection

NOTHING = " "
"""The negative prompt of the model's authors, for guidance toward a prompt alone."""


class QwenImage(Family):
    """A `QwenImagePipeline`.

    Conditioning is Qwen2.5-VL's `prompt_embeds` [P, tokens, D] and `prompt_embeds_mask` [P, tokens], without
    the tokens of the instruction before the prompt. Latents are the VAE's; packing 2 × 2 of them into a token
    is internal.
    """

    pipeline_class = QwenImagePipeline
    denoiser_name = "transformer"
    denoiser_class = QwenImageTransformer2DModel
    text_encoders: ClassVar = {"text_encoder": Qwen2_5_VLForConditionalGeneration}
    vae_class = AutoencoderKLQwenImage
    process_class = EulerFlow
    packed_side = 2
    sequence_length = 512
    longest_sequence = 1024
    guidance_argument = "true_cfg_scale"
    plain_latents = "pipe._pack_latents(noise, *noise.shape).to(pipe.device, pipe.dtype)"

    def plain_diffusers(self, settings: GenerateSection) -> dict[str, Any]:
        record = super().plain_diffusers(settings)
        negative = {"negative_prompt": NOTHING} if settings.guidance_scale > 1 else {}
        return record | {"arguments": record["arguments"] | negative}

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        pipeline = self._pipeline
        template, before = pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx
        texts = [template.format(prompt) for prompt in prompts]
        states, mask = encode_padded(pipeline, pipeline.tokenizer, texts, before + self._tokens())
        embeds, mask = states[-1][:, before:], mask[:, before:]
        return {"prompt_embeds": embeds * mask[..., None], "prompt_embeds_mask": mask}

    def _unconditional(self) -> dict[str, Tensor]:
        return self._encode([NOTHING])

    def _reach(self) -> tuple[Any, int]:
        pipeline = self._pipeline
        start = pipeline.prompt_template_encode.partition("{}")[0]
        limit = pipeline.prompt_template_encode_start_idx + self._tokens()
        return lambda prompts: pipeline.tokenizer([start + prompt for prompt in prompts]), limit

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        rows, _, height, width = x_t.shape
        prediction: Tensor = self.denoiser(
            hidden_states=QwenImagePipeline._pack_latents(x_t, *x_t.shape),
            timestep=t,  # in [0, 1]: the transformer itself converts to thousandths
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_hidden_states_mask=conditioning["prompt_embeds_mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        return self._unpacked(prediction, x_t)

    def _run(self, pipeline: Any, arguments: dict[str, Any]) -> Tensor:
        # The pipeline cuts conditioning too at this length.
        return super()._run(pipeline, arguments | {"max_sequence_length": self._tokens()})

    def _grid(self) -> tuple[int, int, int]:
        config: Any = self.denoiser.config
        # The network has no size of its own; the pipeline's default is 128, or 1024 pixels.
        return config.in_channels // 4, 128, 2

    def _packed(self, noise: Tensor) -> Tensor:
        return QwenImagePipeline._pack_latents(super()._packed(noise), *noise.shape)

    def _unpacked(self, latents: Tensor, noise: Tensor) -> Tensor:
        # The pipeline converts from pixels; sizes are already in latents, so the factor is 1.
        return QwenImagePipeline._unpack_latents(latents, *noise.shape[-2:], vae_scale_factor=1)[:, :, 0]
