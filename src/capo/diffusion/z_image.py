"""Z-Image and Z-Image-Turbo."""

from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen3Model

from capo.diffusion.chat_prompts import ChatTokenizer, encode_padded
from capo.diffusion.family import Family
from capo.diffusion.flow import EulerFlow


class ZImage(Family):
    """A `ZImagePipeline`: one stream of text and image tokens.

    Conditioning is Qwen3's `prompt_embeds` [P, tokens, D] and `prompt_mask` [P, tokens], which marks the
    tokens that the network reads. The pipeline's guidance is the usual guidance minus 1.
    """

    pipeline_class = ZImagePipeline
    denoiser_name = "transformer"
    denoiser_class = ZImageTransformer2DModel
    text_encoders: ClassVar = {"text_encoder": Qwen3Model}
    process_class = EulerFlow
    sequence_length = 512
    unguided = 0.0
    plain_latents = "noise.to(pipe.device)"

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        states, mask = encode_padded(self._pipeline, self._chat(), prompts, self._tokens())
        return {"prompt_embeds": states[-2], "prompt_mask": mask}

    def _reach(self) -> tuple[Any, int]:
        return self._chat().prefixed, self._tokens()

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        velocities = self.denoiser(
            list(x_t[:, :, None].unbind()),
            1 - t,  # the network counts from noise to image
            _read(conditioning["prompt_embeds"], conditioning["prompt_mask"]),
            return_dict=False,
        )[0]
        return -torch.stack(velocities)[:, :, 0]

    def _prompt_arguments(
        self, conditioning: dict[str, Tensor], unconditional: dict[str, Tensor], rows: int
    ) -> dict[str, Any]:
        own = super()._prompt_arguments(conditioning, unconditional, rows)
        return {
            f"{side}prompt_embeds": _read(own[f"{side}prompt_embeds"], own[f"{side}prompt_mask"])
            for side in ("", "negative_")
            if f"{side}prompt_embeds" in own
        }

    def _grid(self) -> tuple[int, int, int]:
        config: Any = self.denoiser.config
        # The network has no size of its own; the pipeline's default is 128, or 1024 pixels.
        return config.in_channels, 128, config.all_patch_size[0]

    def _packed(self, noise: Tensor) -> Tensor:
        return noise.to(self.device)  # this pipeline keeps latents in float32

    def _chat(self) -> ChatTokenizer:
        return ChatTokenizer(self._pipeline.tokenizer, enable_thinking=True)


def _read(embeds: Tensor, mask: Tensor) -> list[Tensor]:
    """The tokens of every row that the network reads; all of them if there are only shapes."""
    rows = zip(embeds, mask, strict=True)
    return [row if row.is_meta else row[read.bool()] for row, read in rows]
