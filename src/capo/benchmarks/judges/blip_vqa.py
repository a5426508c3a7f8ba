"""BLIP-VQA: the probability of yes to a question about an image, as T2I-CompBench asks.

Li et al., "BLIP" (2022), Sec. 5.2, with the base model fine-tuned for VQA; Huang et al.,
"T2I-CompBench" (2023), Sec. 4.1: P(yes) / (P(yes) + P(no)) as the first token of the answer, for a question
per noun phrase, and their product.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from capo.rewards.catalog import BERT
from capo.rewards.models.blip import rename, sized_configs
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import (
    component_location,
    load_component,
    load_from_weights,
    read_weights,
)

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering

WEIGHTS = "Salesforce/blip-vqa-base"
REMOVED = re.compile(r'[.!"()*#:;~]')
MAX_WORDS, MAX_TOKENS = 50, 35
DIGITS = 4
"""Decimals of every probability and of the product, as in the official files."""
TRANSFORMERS = {"vision_model.": "vision.", "text_encoder.": "text."}
"""Prefixes in transformers → in `capo.rewards.models.blip`."""


class BlipVqa:
    """BLIP's question answering, in float32."""

    def __init__(self, checkpoint: str, device: Any, tokenizer: str | None = None) -> None:
        """Load the original `.pth` file, or a folder or Hub id in the layout of transformers.

        The tokenizer is at `tokenizer`, else with the checkpoint, else BERT's. Raises `RewardError` if the
        weights cannot be read or do not fit.
        """
        from transformers import AutoTokenizer

        self._model = _load(checkpoint, device)
        location = component_location(checkpoint, tokenizer, BERT)
        self._tokenizer = load_component(AutoTokenizer, location)
        # The decoder starts with the token after the vocabulary, the encoder with the one after that.
        words = self._model.config.text_config.vocab_size
        self._start, self._encode = words - 2, words - 1
        self._answers = self._tokenizer.convert_tokens_to_ids(["yes", "no"])
        if self._tokenizer.unk_token_id in self._answers:
            raise RewardError(f"the tokenizer of {location} has no token for yes or no")

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[list[float]]:
        """Return P(yes) against no in [0, 1] for every question about every image, to four decimals.

        Every question is asked alone, without padding: transformers' cross-attention would attend to it.
        """
        pixels = torch.stack([self._prepare(image) for image in images]).to(self._model.device)
        patches = self._model.vision_model(pixels).last_hidden_state
        columns = [self._ask(patches, question) for question in questions]
        return [[round(column[row], DIGITS) for column in columns] for row in range(len(images))]

    def _ask(self, patches: Tensor, question: str) -> list[float]:
        coded = self._tokenizer(clean_question(question), truncation=True, max_length=MAX_TOKENS).input_ids
        tokens = torch.tensor([[self._encode, *coded[1:]]], device=patches.device).repeat(len(patches), 1)
        asked = self._model.text_encoder(tokens, encoder_hidden_states=patches, is_decoder=False)
        start = torch.full((len(patches), 1), self._start, device=patches.device)
        output = self._model.text_decoder(start, encoder_hidden_states=asked.last_hidden_state)
        pair = output.logits[:, 0, self._answers].float().softmax(-1)
        if not pair.isfinite().all():
            raise ValueError("BLIP's output is not finite")
        return pair[:, 0].tolist()

    def _prepare(self, image: Image.Image) -> Tensor:
        """Return pixel values [3, side, side]; the image is resized to a square, not cropped."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        side = self._model.config.vision_config.image_size
        square = as_rgb(image).resize((side, side), Image.Resampling.BICUBIC)
        pixels = (np.asarray(square) / 255 - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
        return torch.from_numpy(pixels.transpose(2, 0, 1)).float()


def clean_question(question: str) -> str:
    """Return a question as BLIP's own preparation leaves it: lower case, some marks and long ends removed."""
    words = REMOVED.sub("", question.lower()).rstrip(" ").split(" ")
    return " ".join(words[:MAX_WORDS])


def product(probabilities: Sequence[float]) -> float:
    """Return the score of an image from its answers, to four decimals; 1 without a question."""
    return round(prod(probabilities), DIGITS)


def _load(checkpoint: str, device: Any) -> "BlipForQuestionAnswering":
    from transformers import BlipConfig, BlipForQuestionAnswering

    weights = {_blip_name(name): tensor for name, tensor in read_weights(checkpoint).items()}
    try:
        vision, text = sized_configs(weights)
    except (KeyError, ValueError) as error:
        raise RewardError(f"{checkpoint} is missing weights of BLIP's question answering: {error}") from error
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    named = _transformers_names(weights)
    return load_from_weights(BlipForQuestionAnswering, config, named, checkpoint, device, torch.float32)


def _blip_name(name: str) -> str:
    for prefix, own in TRANSFORMERS.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return rename(name)


def _transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, tensor in weights.items():
        own = next((prefix for prefix, short in TRANSFORMERS.items() if name.startswith(short)), None)
        if not name.endswith("position_ids"):  # constants in older files
            named[name if own is None else own + name.removeprefix(TRANSFORMERS[own])] = tensor
    return named
