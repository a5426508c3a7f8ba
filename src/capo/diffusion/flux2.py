"""FLUX.2-dev and FLUX.2-klein."""

from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from torch import Tensor
from transformers import Mistral3ForConditionalGeneration, Qwen3ForCausalLM

from capo.diffusion.chat_prompts import ChatTokenizer, up_to
from capo.diffusion.family import Family
from capo.diffusion.flow import EulerFlow
from capo.diffusion.flux import TRAINING_GUIDANCE
from capo.recipe import GenerateSection


class Flux2(Family):
    """A `Flux2Pipeline` (-dev), with guidance as an input of the network.

    Conditioning is the text encoder's `prompt_embeds` [P, tokens, D], of three layers side by side. A latent
    is the VAE's in patches of 2 × 2, one token each.
    """

    pipeline_class = Flux2Pipeline
    denoiser_name = "transformer"
    denoiser_class = Flux2Transformer2DModel
    text_encoders: ClassVar = {"text_encoder": Mistral3ForConditionalGeneration}
    vae_class = AutoencoderKLFlux2
    process_class = EulerFlow
    sequence_length = 512

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self._pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self._tokens()
        )
        return {"prompt_embeds": embeds}

    def _unconditional(self) -> dict[str, Tensor]:
        return {}

    def _reach(self) -> tuple[Any, int]:
        pipeline = self._pipeline

        def tokenize(prompts: list[str]) -> Any:
            messages = format_input(prompts, pipeline.system_message)
            processor = pipeline.tokenizer
            chats = processor.apply_chat_template(messages, tokenize=False)
            said = [chat[1]["content"][0]["text"] for chat in messages]
            texts = [up_to(chat, prompt) for chat, prompt in zip(chats, said, strict=True)]
            tokenizer = getattr(processor, "tokenizer", processor)
            return tokenizer(texts, add_special_tokens=False)

        return tokenize, self._tokens()

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        embeds = conditioning["prompt_embeds"]
        prediction: Tensor = self.denoiser(
            hidden_states=Flux2Pipeline._pack_latents(x_t),
            timestep=t,  # in [0, 1]: the transformer itself converts to thousandths
            guidance=self._guidance(x_t),
            encoder_hidden_states=embeds,
            txt_ids=Flux2Pipeline._prepare_text_ids(embeds[:1]).to(x_t.device),
            img_ids=Flux2Pipeline._prepare_latent_ids(x_t[:1]).to(x_t.device),
            return_dict=False,
        )[0]
        return self._unpacked(prediction, x_t)

    def _guidance(self, x_t: Tensor) -> Tensor | None:
        return torch.full((len(x_t),), TRAINING_GUIDANCE, device=x_t.device)

    def _grid(self) -> tuple[int, int, int]:
        config: Any = self.denoiser.config
        # The network has no size of its own; the pipeline's default is 1024 pixels.
        return config.in_channels, 1024 // self._vae_factor, 1

    def _unpacked(self, latents: Tensor, noise: Tensor) -> Tensor:
        return latents.transpose(1, 2).reshape(noise.shape)


class Flux2Klein(Flux2):
    """A `Flux2KleinPipeline`, with classifier-free guidance, or distilled to work without."""

    pipeline_class = Flux2KleinPipeline
    text_encoders: ClassVar = {"text_encoder": Qwen3ForCausalLM}

    def _unconditional(self) -> dict[str, Tensor]:
        return {} if self._distilled() else self._encode([""])

    def _reach(self) -> tuple[Any, int]:
        return ChatTokenizer(self._pipeline.tokenizer, enable_thinking=False).prefixed, self._tokens()

    def _run(self, pipeline: Any, arguments: dict[str, Any]) -> Tensor:
        """Return the latents of the last step; those that the pipeline returns are no longer normalized."""
        last: dict[str, Tensor] = {}

        def keep(_: Any, step: int, time: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
            last.update(values)
            return values

        pipeline(**arguments, callback_on_step_end=keep, output_type="latent")
        return last["latents"]

    def _guidance(self, x_t: Tensor) -> Tensor | None:
        return None

    def _sampler(self, settings: GenerateSection) -> Any:
        if settings.guidance_scale > 1 and self._distilled():
            raise ValueError(
                "generate.guidance_scale: this model was distilled to work without guidance; set it to 0"
            )
        return super()._sampler(settings)

    def _distilled(self) -> bool:
        return bool(self.pipeline_class.load_config(self.source.path).get("is_distilled"))
