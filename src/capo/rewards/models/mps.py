"""MPS: which image people prefer for a prompt, by a CLIP that weighs the words of the prompt.

Zhang et al., "Learning Multi-dimensional Human Preference for Text-to-Image Generation" (2024);
shipped checkpoint: `RE-N-Y/mpsv1`, a port of the overall preference, the only one known to fit.
A condition text names what is judged. The cross model ignores the words of the prompt that are
unrelated to it.
Score: `exp(logit_scale) · cos(prompt, image)` on a log-odds scale, about 5 to 18.
Comparison: Bradley-Terry with temperature 1.

Not to be confused with `clip_preference`, which has no cross model. The official code runs in half
precision, so its scores differ slightly.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from capo.method.calibration import BradleyTerry
from capo.rewards.catalog import CLIP_VIT_H
from capo.rewards.models.clip_layout import drop_prefix
from capo.rewards.models.clip_towers import ClipTokens, clip_preparation
from capo.rewards.models.mps_cross import CrossModel
from capo.rewards.protocol import RewardError
from capo.rewards.weights.load_weights import (
    component_location,
    load_component,
    load_from_weights,
    load_into,
    read_weights,
)

if TYPE_CHECKING:
    from PIL import Image

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
    "instance, texture, quantity, attributes, position, number, location, word, things."
)
"""The condition of the overall preference, as in training."""


class Mps:
    """A CLIP and the cross model under the released names (prefix `mps.` optional), in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        threshold: float = 0.01,
    ) -> None:
        """Load weights from `checkpoint`; the rest from `processor`, else its folder, else ViT-H/14.

        Options:
            threshold: the least relation to the condition, relative to the most related word, of the
                words that count. The released model uses 0.01, its evaluation scripts 0.3.
        """
        from transformers import CLIPConfig, CLIPModel

        self.name = name
        location = component_location(checkpoint, processor, CLIP_VIT_H)
        weights = drop_prefix(read_weights(checkpoint), "mps.")
        clip, cross = (_with_prefix(weights, prefix, checkpoint) for prefix in ("model.", "cross_model."))
        if unknown := sorted(k for k in weights if not k.startswith(("model.", "cross_model."))):
            raise RewardError(f"{checkpoint} has unknown weights of Mps: {', '.join(unknown[:5])}")
        config = load_component(CLIPConfig, location)
        self._clip = load_from_weights(CLIPModel, config, clip, checkpoint, device, torch.float32)
        try:
            self._cross = load_into(CrossModel(cross), cross, checkpoint, device)
        except KeyError as error:
            raise RewardError(f"{checkpoint} lacks weights of CrossModel: {error.args[0]}") from None
        self._tokens = ClipTokens(location, self._clip.config.text_config.max_position_embeddings)
        self._prepare = clip_preparation(location)
        self._threshold = threshold
        with torch.inference_mode():
            self._condition, _ = self._read(CONDITION)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. Prompts are cut at 77 tokens."""
        vision = self._clip.vision_model(self._prepare(images).to(self._clip.device))
        patches = self._clip.visual_projection(vision.last_hidden_state)
        scores = torch.empty(len(images), dtype=torch.float64)
        # One prompt at a time, so that its relevant words do not depend on the rest of the batch.
        for prompt in dict.fromkeys(prompts):
            rows = [row for row, other in enumerate(prompts) if other == prompt]
            scores[rows] = self._score_prompt(patches[rows], prompt).cpu().double()
        return scores.numpy()

    def _score_prompt(self, patches: Tensor, prompt: str) -> Tensor:
        words, whole = self._read(prompt)
        related = (words @ self._condition.T).amax(dim=-1)
        relevant = related / related.max() > self._threshold
        attended = self._cross(patches, words, relevant)[:, 0]
        return self._clip.logit_scale.exp() * cosine_similarity(whole, attended, dim=-1)

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        """Return features of all tokens [77, d], padding included as in training, and of the text [1, d]."""
        ids = self._tokens([text], full=True).input_ids.to(self._clip.device)
        output = self._clip.text_model(ids)
        project = self._clip.text_projection
        return project(output.last_hidden_state)[0], project(output.pooler_output)

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it is longer than the model reads."""
        return self._tokens.truncated(prompts)


def _with_prefix(weights: dict[str, Tensor], prefix: str, checkpoint: str) -> dict[str, Tensor]:
    matching = {k.removeprefix(prefix): tensor for k, tensor in weights.items() if k.startswith(prefix)}
    if not matching:
        raise RewardError(f"{checkpoint} lacks weights of Mps: {prefix}*")
    return matching
