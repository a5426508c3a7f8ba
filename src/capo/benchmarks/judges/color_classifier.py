"""Colors of objects by CLIP, as GenEval names them.

An object is cut out on a gray background and compared with descriptions of every color. Official: CLIP
ViT-L/14 with OpenAI's weights.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from capo.benchmarks.geneval_rules import COLORS, SegmentedObject
from capo.rewards.models.clip_towers import ClipTokens
from capo.rewards.weights.load_weights import load_component, load_model

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND = "#999"
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BATCH = 16


class ColorClassifier:
    """CLIP as a zero-shot classifier of colors, in float32."""

    def __init__(self, location: str, device: Any) -> None:
        """Load a CLIP model in the layout of transformers. Raises `RewardError` if it cannot be used."""
        from transformers import CLIPModel
        from transformers.models.clip import CLIPImageProcessorPil

        self._model = load_model(CLIPModel, location, device, torch.float32)
        self._tokens = ClipTokens(location, self._model.config.text_config.max_position_embeddings)
        processor = load_component(CLIPImageProcessorPil, location)
        self._mean, self._std = np.array(processor.image_mean), np.array(processor.image_std)
        self._side: int = self._model.config.vision_config.image_size
        self._embedded: dict[str, Tensor] = {}

    @torch.inference_mode()
    def colors(self, image: "Image.Image", objects: Sequence[SegmentedObject], name: str) -> list[str]:
        """Return one of `COLORS` for each object of the class `name` in an RGB image."""
        found: list[str] = []
        for start in range(0, len(objects), BATCH):
            crops = [cut_out(image, item) for item in objects[start : start + BATCH]]
            pixels = torch.stack([self._prepare(crop) for crop in crops]).to(self._model.device)
            features = normalize(self._model.get_image_features(pixels).pooler_output, dim=-1)
            best = (features @ self._color_embeddings(name).T).argmax(-1)
            found += [COLORS[index] for index in best.tolist()]
        return found

    def _color_embeddings(self, name: str) -> Tensor:
        """Return unit vectors [colors, d]: the mean of the unit vectors of all templates."""
        if name not in self._embedded:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            tokens = self._tokens(texts).to(self._model.device)
            output = self._model.get_text_features(tokens.input_ids, tokens.attention_mask)
            vectors = normalize(output.pooler_output, dim=-1).unflatten(0, (len(COLORS), len(TEMPLATES)))
            self._embedded[name] = normalize(vectors.mean(1), dim=-1)
        return self._embedded[name]

    def _prepare(self, image: "Image.Image") -> Tensor:
        """Return float32 [3, side, side]: shortest side resized, middle cropped, normalized.

        Written out because transformers crops an odd remainder one pixel beside open_clip.
        """
        from PIL import Image

        side, short = self._side, min(image.size)
        width, height = (int(side * length / short) for length in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - side) / 2), round((height - side) / 2)
        array = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float64) / 255
        return torch.from_numpy(((array - self._mean) / self._std).astype(np.float32)).permute(2, 0, 1)


def cut_out(image: "Image.Image", item: SegmentedObject) -> "Image.Image":
    """Return the box of an object, with everything outside its mask gray."""
    from PIL import Image

    if item.mask is not None:
        gray = Image.new("RGB", image.size, color=BACKGROUND)
        image = Image.composite(image, gray, Image.fromarray(item.mask))
    left, top, right, bottom = item.box[:4].tolist()
    return image.crop((left, top, right, bottom))
