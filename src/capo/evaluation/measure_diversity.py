"""Diversity: how far apart the K images of a prompt are, by the features of an image encoder.

The encoder is `evaluate.embedder`, or else that of the first CLIP-type reward of the recipe, held-out rewards
first: training moves images along the features of a reward that it optimizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from capo.engine.device import select_device
from capo.engine.shard_work import Workplace
from capo.evaluation.win_rates import Diversity
from capo.recipe import EngineSection, RewardSection
from capo.rewards.catalog import CLIP_PREFERENCE, shipped_entry
from capo.scoring.image_sets import ImageSet
from capo.scoring.measure_shards import Measure, measure_shards
from capo.store import Artifact
from capo.store.step import Job

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from PIL import Image
    from torch import Tensor

DISTANCES = "diversity.parquet"
MEASURED_SHARDS = "diversity"
"""The folder with the distances of shards, until they are joined."""

BATCH = 64
"""Images encoded at once."""


@dataclass(frozen=True)
class EncoderWeights:
    """The weights of an image encoder, and its name in the results."""

    name: str
    checkpoint: str
    processor: str


def find_encoder(embedder: str | None, rewards: Sequence[RewardSection]) -> EncoderWeights | None:
    """The image encoder to measure diversity with: `embedder`, or that of a reward; None if there is none."""
    if embedder is not None:
        return EncoderWeights(embedder, embedder, embedder)
    for section in sorted(rewards, key=lambda reward: reward.use == "train"):
        entry = shipped_entry(section)
        if entry is None or entry.architecture != CLIP_PREFERENCE:
            continue
        checkpoint = section.checkpoint or entry.checkpoint
        processor = None if section.checkpoint else entry.processor
        return EncoderWeights(f"the image encoder of {section.name}", checkpoint, processor or checkpoint)
    return None


class ImageEncoder:
    """The image features of a model such as CLIP, SigLIP, or DINO, in float32."""

    def __init__(self, weights: EncoderWeights, device: "torch.device") -> None:
        """Raises `RewardError` for a checkpoint that cannot be read."""
        import torch
        from transformers import AutoImageProcessor, AutoModel

        from capo.rewards.weights.load_weights import load_component, load_model

        self._model = load_model(AutoModel, weights.checkpoint, device, torch.float32)
        # Always Pillow's resizing: torchvision's gives slightly different features.
        self._image_processor = load_component(AutoImageProcessor, weights.processor, backend="pil")

    def embed(self, images: "Sequence[Image.Image]") -> "Tensor":
        """Features [n, D] of n RGB images, on the CPU."""
        import torch

        pixels = self._image_processor(list(images), return_tensors="pt").pixel_values
        encode = getattr(self._model, "get_image_features", self._model)
        with torch.inference_mode():
            features: Tensor = encode(pixels.to(self._model.device)).pooler_output
        return features.float().cpu()


def measure_diversity(
    job: Job, weights: EncoderWeights, prompt_ids: Sequence[str], sets: Mapping[str, ImageSet]
) -> None:
    """Write the distances between the images of every prompt, by model, to `diversity.parquet` of the job.

    `sets` has the images of every model, two or more of each prompt.
    """
    artifact, recipe = job.artifact, job.recipe
    if artifact.has(DISTANCES):
        return
    # First the job's own images: their shards have the numbers under which they were made.
    models = sorted(sets, key=lambda model: sets[model].artifact is not artifact)
    shards = [shard for model in models for shard in sets[model].shards]
    load = _LoadEncoder(weights, recipe.evaluate.samples_per_prompt, recipe.engine)
    tables = iter(measure_shards(job.executor, shards, load, (artifact, MEASURED_SHARDS), "diversity"))
    distances = {
        model: np.concatenate([next(tables)["distance"].to_numpy() for _ in sets[model].shards])
        for model in models
    }
    artifact.write_table(DISTANCES, _table(prompt_ids, {model: distances[model] for model in sets}))
    artifact.remove(MEASURED_SHARDS)


def read_diversity(weights: EncoderWeights, artifact: Artifact, sets: Mapping[str, ImageSet]) -> Diversity:
    """Return the distances that `measure_diversity` wrote."""
    table = artifact.read_table(DISTANCES).to_pydict()
    return Diversity(weights.name, {model: np.array(table[model]) for model in sets})


@dataclass(frozen=True)
class _LoadEncoder:
    """Loads the encoder in the process of a worker. Picklable."""

    weights: EncoderWeights
    samples: int
    engine: EngineSection

    def __call__(self, place: Workplace) -> Measure:
        encoder = ImageEncoder(self.weights, select_device(self.engine))
        return partial(_distance_table, encoder, self.samples)


def _distance_table(
    encoder: ImageEncoder, samples: int, rows: "pa.Table", images: "Sequence[Image.Image]"
) -> "pa.Table":
    import pyarrow as pa

    return pa.table({"distance": prompt_distances(encoder, images, samples)})


def prompt_distances(encoder: ImageEncoder, images: "Sequence[Image.Image]", samples: int) -> np.ndarray:
    """The mean cosine distance between the images of every prompt, float64 [P].

    The `samples` images of a prompt follow one another.
    """
    import torch

    from capo.method import pairwise_distance

    parts = [encoder.embed(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    features = torch.cat(parts)
    return pairwise_distance(features.reshape(-1, samples, features.shape[-1])).numpy()


def _table(prompt_ids: Sequence[str], distances: Mapping[str, np.ndarray]) -> "pa.Table":
    """One row per prompt, one column per model."""
    import pyarrow as pa

    return pa.table({"prompt_id": list(prompt_ids), **distances})
