"""HPSv3: which image people prefer for a prompt, by Qwen2-VL.

Ma et al., "HPSv3" (2025), Sec. 4; shipped checkpoint: `MizzenAI/HPSv3`. A head on the hidden state of
one token, `<|Reward|>`, gives the mean and the log spread of a normal distribution.
Score: the mean, about -5 to 15.
Comparison: Bradley-Terry with temperature 1, as in training, which sampled from the distributions.

Not to be confused with `hpsv2`, a CLIP whose scores are cosines.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.catalog import QWEN2_VL_7B
from capo.rewards.models.hpsv3_instruction import PROMPT, TOKEN, read_instruction
from capo.rewards.models.vision_language import load_processor
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import (
    component_location,
    load_component,
    load_from_weights,
    load_into,
    read_weights,
)

if TYPE_CHECKING:
    from PIL import Image

PIXELS = 256 * 28 * 28
"""Pixels to which every image is resized, as closely as its shape allows."""
RENAMED = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.", "language_model."),
)
"""Prefixes of names in checkpoints of newer and older transformers → new prefix. The first match counts."""


class HpsV3:
    """The official checkpoint: float32 on a CPU, the precision of the weights elsewhere (head: float32)."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        instruction: str | None = None,
    ) -> None:
        """Load weights from `checkpoint`; the rest from `processor`, else its folder, else Qwen2-VL-7B.

        Options:
            instruction: a file with the whole instruction, with `{text_prompt}` in place of the prompt
                and `<|Reward|>` where the score is read. None reads it from the package hpsv3.

        Raises:
            RewardError: the weights or the instruction cannot be used.
        """
        from transformers import AutoConfig

        self.name = name
        self._instruction = read_instruction(instruction)
        location = component_location(checkpoint, processor, QWEN2_VL_7B)
        config = load_component(AutoConfig, location)
        weights = read_weights(checkpoint)
        self._model, self._head = _build(config, weights, checkpoint, device)
        self._processor = load_processor(location, config)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "right"
        tokenizer.add_tokens([TOKEN], special_tokens=True)
        self._token = tokenizer.convert_tokens_to_ids(TOKEN)
        if self._token >= (words := config.text_config.vocab_size):
            raise RewardError(
                f"{location} has {self._token + 1} tokens with {TOKEN}, {checkpoint} has {words}"
            )

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. A prompt with the image or reward token raises `ValueError`."""
        inputs = self._processor(
            images=[as_rgb(image) for image in images],
            text=[self._ask(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
            images_kwargs={"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}},
        ).to(self._model.device, dtype=self._model.dtype)
        # Training used one position per token; Qwen2-VL would number an image in two dimensions.
        count, length = inputs.input_ids.shape
        positions = torch.arange(length).expand(3, count, length).to(inputs.input_ids.device)
        hidden: Tensor = self._model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
        read = hidden[inputs.input_ids == self._token].float()
        return float64(self._head(read)[:, 0])

    def _ask(self, prompt: str) -> str:
        for token in (TOKEN, self._processor.image_token):
            if token in prompt:
                raise ValueError(f"the prompt contains {token!r}, a special token of the model")
        text = self._instruction.replace(PROMPT, prompt)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )


def _build(config: Any, weights: dict[str, Tensor], checkpoint: str, device: Any) -> tuple[Any, nn.Module]:
    """Return Qwen2-VL without its language head, and the reward head."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    head = {name.removeprefix("rm_head."): weights[name] for name in weights if name.startswith("rm_head.")}
    body = {
        _rename(name): tensor
        for name, tensor in weights.items()
        if not name.startswith(("rm_head.", "lm_head."))
    }
    embedding = body.get("language_model.embed_tokens.weight")
    if embedding is None or "0.weight" not in head or "3.weight" not in head:
        raise RewardError(f"{checkpoint} is not in the layout of HPSv3: embed_tokens or rm_head is missing")
    config.text_config.vocab_size = len(embedding)  # training added the reward token
    dtype = torch.float32 if torch.device(device).type == "cpu" else embedding.dtype
    model = load_from_weights(Qwen2VLModel, config, body, checkpoint, device, dtype)
    wide, narrow = len(head["0.weight"]), len(head["3.weight"])
    layers = nn.Sequential(
        nn.Linear(config.text_config.hidden_size, wide),
        nn.ReLU(),
        nn.Identity(),  # dropout in training
        nn.Linear(wide, narrow),
        nn.ReLU(),
        nn.Linear(narrow, 2),
    )
    return model, load_into(layers, head, checkpoint, device)


def _rename(name: str) -> str:
    for old, new in RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
