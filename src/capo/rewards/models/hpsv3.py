"""HPSv3: which image of a prompt people prefer, learnt by Qwen2-VL.

Ma et al., "HPSv3" (2025), Sec. 4. A head on the hidden state of one token, `<|Reward|>`, gives the
mean and the log spread of a normal distribution; the score is the mean, about -5 to 15. Trained by
Bradley-Terry on samples of two such distributions, so two scores compare with temperature 1.
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
"""Of every image, as near as its shape allows."""
RENAMED = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.", "language_model."),
)
"""Beginnings of names in the checkpoints of newer and older transformers, the first that fits."""


class HpsV3:
    """The official checkpoint, float32 on a CPU, elsewhere of its own precision but for the head."""

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
        """Weights from `checkpoint`; the rest from `processor`, else its folder, else Qwen2-VL-7B.

        Options:
            instruction: a file with the whole instruction, `{text_prompt}` where the prompt goes
                and `<|Reward|>` where the score is read; that of the package hpsv3 when None.

        Raises:
            RewardError: for weights or an instruction that cannot be used.
        """
        from transformers import AutoConfig

        self.name = name
        self._instruction = read_instruction(instruction)
        place = component_location(checkpoint, processor, QWEN2_VL_7B)
        config = load_component(AutoConfig, place)
        weights = read_weights(checkpoint)
        self._model, self._head = _build(config, weights, checkpoint, device)
        self._processor = load_processor(place, config)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "right"
        tokenizer.add_tokens([TOKEN], special_tokens=True)
        self._token = tokenizer.convert_tokens_to_ids(TOKEN)
        if self._token >= (words := config.text_config.vocab_size):
            raise RewardError(f"{place} has {self._token + 1} words with {TOKEN}, {checkpoint} has {words}")

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]; raises `ValueError` for a prompt that holds the image or the reward token."""
        inputs = self._processor(
            images=[as_rgb(image) for image in images],
            text=[self._ask(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
            images_kwargs={"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}},
        ).to(self._model.device, dtype=self._model.dtype)
        # It was trained with one position a token; Qwen2-VL would give the image two dimensions.
        count, length = inputs.input_ids.shape
        positions = torch.arange(length).expand(3, count, length).to(inputs.input_ids.device)
        hidden: Tensor = self._model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
        read = hidden[inputs.input_ids == self._token].float()
        return float64(self._head(read)[:, 0])

    def _ask(self, prompt: str) -> str:
        for token in (TOKEN, self._processor.image_token):
            if token in prompt:
                raise ValueError(f"the prompt holds the model's token {token!r}")
        text = self._instruction.replace(PROMPT, prompt)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )


def _build(config: Any, weights: dict[str, Tensor], checkpoint: str, device: Any) -> tuple[Any, nn.Module]:
    """Qwen2-VL without its language head, and the reward head."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    head = {name.removeprefix("rm_head."): weights[name] for name in weights if name.startswith("rm_head.")}
    body = {
        _rename(name): tensor
        for name, tensor in weights.items()
        if not name.startswith(("rm_head.", "lm_head."))
    }
    embedding = body.get("language_model.embed_tokens.weight")
    if embedding is None or "0.weight" not in head or "3.weight" not in head:
        raise RewardError(f"{checkpoint} is not in the layout of HPSv3: it lacks embed_tokens or rm_head")
    config.text_config.vocab_size = len(embedding)  # the reward token was added
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
