"""Preprocessing of images and prompts for a BLIP judge."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from capo.rewards.catalog import BERT
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import component_location, load_component

if TYPE_CHECKING:
    from capo.rewards.models.blip import Blip


class BlipInputs:
    """Turns images and prompts into the inputs of a `Blip`; prompts are cut at `max_length` tokens."""

    def __init__(self, checkpoint: str, processor: str | None, blip: "Blip", max_length: int) -> None:
        from transformers import AutoTokenizer

        self._device = blip.text.device
        location = component_location(checkpoint, processor, BERT)
        self._tokenizer = load_component(AutoTokenizer, location)
        if len(self._tokenizer) > (words := blip.text.config.vocab_size):
            raise RewardError(
                f"the tokenizer of {location} has {len(self._tokenizer)} tokens, but the model has {words}"
            )
        self._pixels, self._max_length = blip.pixels, max_length

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> dict[str, Tensor]:
        """Return the arguments of `Blip.forward`, on its device."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        coded = self._tokenizer(
            prompts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        squares = np.stack([np.asarray(center_square(as_rgb(image), self._pixels)) for image in images])
        pixels = (squares / 255 - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
        inputs = {
            "pixels": torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float(),
            "tokens": coded.input_ids,
            "mask": coded.attention_mask,
        }
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it has more tokens than the model reads."""
        one_more = self._max_length + 1
        coded = self._tokenizer(prompts, truncation=True, max_length=one_more).input_ids
        return [len(ids) == one_more for ids in coded]


def center_square(image: Image.Image, pixels: int) -> Image.Image:
    """Resize the shorter side to `pixels`, bicubic, and crop the middle square, like torchvision.

    Only the cropped region is resized, so a long strip needs no more memory than a square.
    """
    short = min(image.size)
    size = [int(pixels * side / short) for side in image.size]
    # Python and torchvision both round halves to even.
    box = [round((side - pixels) / 2) for side in size]
    left, top = (start * side / whole for start, side, whole in zip(box, image.size, size, strict=True))
    width, height = (pixels * side / whole for side, whole in zip(image.size, size, strict=True))
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    return image.resize((pixels, pixels), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
