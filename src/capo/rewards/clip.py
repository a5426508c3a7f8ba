"""CLIP-type preference models: PickScore and its like.

Kirstain et al., "Pick-a-Pic" (2023), Sec. 4. The score is `exp(logit_scale) · cos(image, text)`
of a fine-tuned CLIP: a log-odds scale, about 16 to 25 for PickScore, so two scores compare by
Bradley-Terry with temperature 1. Not to be confused with the bare cosine or a score divided by
26, which flatten every comparison.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from capo.method.calibration import BradleyTerry
from capo.rewards.images import as_rgb
from capo.rewards.loading import load_model, load_part

if TYPE_CHECKING:
    from PIL import Image


class ClipPreference:
    """`transformers.CLIPModel` as a judge of text and image, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given."""
        from transformers import AutoTokenizer, CLIPModel
        from transformers.models.clip import CLIPImageProcessorPil

        self.name = name
        self._model = load_model(CLIPModel, checkpoint, device, torch.float32)
        self._tokenizer = load_part(AutoTokenizer, processor or checkpoint)
        self._image_processor = load_part(CLIPImageProcessorPil, processor or checkpoint)
        self._max_length = self._model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]; longer prompts are cut at the model's own length (77 tokens for CLIP)."""
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: row for row, prompt in enumerate(distinct)}
        text = self._embed_text(distinct)[[place[prompt] for prompt in prompts]]
        cosine = (self._embed_images(images) * text).sum(-1)
        scores: Tensor = self._model.logit_scale.exp() * cosine
        return scores.double().cpu().numpy()

    def _embed_text(self, prompts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            prompts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._model.device)
        output = self._model.get_text_features(tokens.input_ids, tokens.attention_mask)
        return normalize(output.pooler_output, dim=-1)

    def _embed_images(self, images: "list[Image.Image]") -> Tensor:
        pixels = self._image_processor([as_rgb(image) for image in images], return_tensors="pt")
        output = self._model.get_image_features(pixels.pixel_values.to(self._model.device))
        return normalize(output.pooler_output, dim=-1)
