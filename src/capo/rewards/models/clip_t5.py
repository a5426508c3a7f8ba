"""VQAScore by CLIP-FlanT5, the model of the VQAScore paper.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), Sec. 3;
shipped checkpoints: `zhiqiulin/clip-flant5-xxl` and `-xl`.
Score: exp(-mean cross-entropy of the answer) in [0, 1]. The answer has two tokens, "Yes" and the end
token, so the score is √(P(Yes) · P(end | Yes)).
Comparison: power ratio with exponent 1 (Eq. 28 of CaPO).

Not to be confused with P(Yes) of other vision-language models (`vqascore`), which is about the square
of this score.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from capo.method.calibration import PowerRatio
from capo.rewards.catalog import FLAN_T5_XL
from capo.rewards.models.vqascore import QUESTION, checked_template
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import component_location, default_dtype, load_component, load_model

BEFORE_IMAGE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: "
)
AFTER_IMAGE = "\n{} ASSISTANT: "
MAX_LENGTH = 2048
"""Longest conversation in tokens. The image counts as one, as in the official code."""


class ClipT5VqaScore:
    """CLIP-FlanT5 in the official layout: float32 on a CPU, the precision of the weights elsewhere."""

    comparison = PowerRatio(exponent=1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        template: str = QUESTION,
        answer: str = "Yes",
        vision_tower: str | None = None,
    ) -> None:
        """Load weights from `checkpoint`; the tokenizer from `processor`, else its folder, else Flan-T5.

        Options:
            template: the question, with `{}` where the prompt goes.
            answer: the answer whose likelihood is the score.
            vision_tower: a directory or Hub id of the CLIP that encodes the image, part of the reward's
                identity. None takes the one that the checkpoint's configuration names.

        Raises:
            RewardError: the weights or the template cannot be used.
        """
        from transformers import AutoTokenizer, CLIPVisionModel
        from transformers.models.clip import CLIPImageProcessorPil

        from capo.rewards.models.clip_t5_model import ClipT5

        self.name = name
        self._template = checked_template(template)
        self._model = load_model(ClipT5, checkpoint, device, default_dtype(device))
        tower = vision_tower or self._model.config.mm_vision_tower
        self._vision = load_model(CLIPVisionModel, tower, device, self._model.dtype)
        self._image_processor = load_component(CLIPImageProcessorPil, tower)
        self._tokenizer = load_component(AutoTokenizer, component_location(checkpoint, processor, FLAN_T5_XL))
        if len(self._tokenizer) > (words := self._model.config.vocab_size):
            raise RewardError(f"the tokenizer has {len(self._tokenizer)} tokens, {checkpoint} has {words}")
        # The parts are tokenized separately, so that every part has an end token.
        self._before = torch.tensor(self._tokenizer(BEFORE_IMAGE).input_ids)
        self._answer = torch.tensor(self._tokenizer(answer).input_ids, device=device)

    @torch.inference_mode()
    def score(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1]. Conversations are cut at 2048 tokens."""
        most = MAX_LENGTH - 1 - len(self._before)
        after = [torch.tensor(ids[:most]) for ids in self._after(prompts)]
        words = pad_sequence(after, batch_first=True, padding_value=self._tokenizer.pad_token_id)
        # Mask by length, because a prompt may contain the padding token itself.
        visible = pad_sequence([torch.ones(len(ids), dtype=torch.bool) for ids in after], batch_first=True)
        patches = self._patches(images)
        before = self._embed(self._before.expand(len(images), -1))
        whole = torch.cat([before, patches, self._embed(words)], dim=1)
        mask = torch.ones(whole.shape[:2], dtype=torch.bool)
        mask[:, -words.shape[1] :] = visible
        likelihoods: Tensor = self._model.likelihoods(whole, mask.to(whole.device), self._answer)
        return likelihoods.cpu().double().mean(dim=1).exp().numpy()

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether its conversation is longer than the model reads."""
        return [len(self._before) + 1 + len(ids) > MAX_LENGTH for ids in self._after(prompts)]

    def _after(self, prompts: list[str]) -> list[list[int]]:
        """Return the tokens after the image for each prompt."""
        texts = [AFTER_IMAGE.format(self._template.replace("{}", prompt)) for prompt in prompts]
        return self._tokenizer(texts).input_ids

    def _embed(self, tokens: Tensor) -> Tensor:
        return self._model.shared(tokens.to(self._model.device))

    def _patches(self, images: list[Image.Image]) -> Tensor:
        """Return [n, patches, d]: one layer of the tower without the class token, projected to T5."""
        mean = tuple(int(255 * value) for value in self._image_processor.image_mean)
        squares = [_on_square(as_rgb(image), mean) for image in images]
        pixels = self._image_processor(squares, return_tensors="pt").pixel_values
        layers = self._vision(
            pixels.to(self._model.device, self._model.dtype), output_hidden_states=True
        ).hidden_states
        return self._model.mm_projector(layers[self._model.config.mm_vision_select_layer][:, 1:])


def _on_square(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """Paste `image` into the middle of a square with the length of its longer side."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
