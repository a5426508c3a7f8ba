"""How alike the K images of a prompt are, in the eyes of an image encoder.

The encoder is `evaluate.embedder`, else the first CLIP-type reward of the recipe, held-out ones
first: training moves images along the features of a reward it is rewarded by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.engine.device import select_device
from capo.engine.progress import progress
from capo.evaluation.win_rates import Diversity
from capo.recipe import Recipe
from capo.rewards.catalog import CLIP_PREFERENCE, find_entry
from capo.scoring.image_sets import ImageSet
from capo.scoring.score_shards import ImageShard
from capo.scoring.score_table import decode_rows
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image
    from torch import Tensor

DISTANCES = "diversity.parquet"

BATCH = 64
"""Images embedded at once."""


@dataclass(frozen=True)
class EncoderPlace:
    """Where an image encoder is, and how the results name it."""

    name: str
    checkpoint: str
    processor: str


def find_encoder(recipe: Recipe) -> EncoderPlace | None:
    """The image encoder that `recipe` measures diversity with; None when it has none."""
    if (given := recipe.evaluate.embedder) is not None:
        return EncoderPlace(given, given, given)
    for section in sorted(recipe.rewards, key=lambda reward: reward.use == "train"):
        entry = find_entry(section.source or section.name)
        if entry is None or section.url is not None or entry.architecture != CLIP_PREFERENCE:
            continue
        checkpoint = section.checkpoint or entry.checkpoint
        processor = None if section.checkpoint else entry.processor
        return EncoderPlace(f"the image encoder of {section.name}", checkpoint, processor or checkpoint)
    return None


class ImageEncoder:
    """The image features of a CLIP or SigLIP model, or those of DINO and its like, in float32."""

    def __init__(self, place: EncoderPlace, device: Any) -> None:
        """Raises `RewardError` for a checkpoint that cannot be read."""
        import torch
        from transformers import AutoImageProcessor, AutoModel

        from capo.rewards.weights.load_weights import load_component, load_model

        self._model = load_model(AutoModel, place.checkpoint, device, torch.float32)
        # Always Pillow's resizing: torchvision's gives slightly different features.
        self._image_processor = load_component(AutoImageProcessor, place.processor, backend="pil")

    def embed(self, images: "Sequence[Image.Image]") -> "Tensor":
        """Features [n, D] of n RGB images, on the CPU."""
        import torch

        pixels = self._image_processor(list(images), return_tensors="pt").pixel_values
        of_images = getattr(self._model, "get_image_features", self._model)
        with torch.inference_mode():
            features: Tensor = of_images(pixels.to(self._model.device)).pooler_output
        return features.float().cpu()


def measure_diversity(
    recipe: Recipe, artifact: Artifact, prompt_ids: Sequence[str], sets: Mapping[str, ImageSet]
) -> Diversity | None:
    """Distances among the images of each prompt by every model, kept in `diversity.parquet`.

    `sets` has the images of each model. None without an encoder, or with one image a prompt.
    """
    place, samples = find_encoder(recipe), recipe.evaluate.samples_per_prompt
    if place is None or samples < 2:
        return None
    if not artifact.has(DISTANCES):
        encoder = ImageEncoder(place, select_device(recipe.engine))
        found = {
            model: prompt_distances(encoder, images.shards, samples, model) for model, images in sets.items()
        }
        artifact.write_table(DISTANCES, _table(prompt_ids, found))
    table = artifact.read_table(DISTANCES).to_pydict()
    return Diversity(place.name, {model: np.array(table[model]) for model in sets})


def prompt_distances(
    encoder: ImageEncoder, shards: Sequence[ImageShard], samples: int, model: str
) -> np.ndarray:
    """The mean cosine distance among the images of each prompt, float64 [P], in the shards' order."""
    import torch

    from capo.method import pairwise_distance

    found = []
    with progress(f"diversity: {model} images", len(shards), "shards") as bar:
        for shard in shards:
            decoded = decode_rows(shard.artifact.read_table(shard.path, ["image"]))
            parts = [encoder.embed(decoded[at : at + BATCH]) for at in range(0, len(decoded), BATCH)]
            features = torch.cat(parts)
            found.append(pairwise_distance(features.reshape(-1, samples, features.shape[-1])).numpy())
            bar.advance()
    return np.concatenate(found)


def _table(prompt_ids: Sequence[str], distances: Mapping[str, np.ndarray]) -> "pa.Table":
    """A row a prompt, a column a model."""
    import pyarrow as pa

    return pa.table({"prompt_id": list(prompt_ids), **distances})
