"""Split the diversity of an evaluation by the judge's verdict and by category.

    python benchmarks/correct_diversity.py RUN [RUN...]

A model that corrects its mistakes loses their variety. Prints, for base and tuned model and by category, the
mean cosine distance between the images of a prompt, over all of them and over those alone that the judge
accepts. The second is over prompts of which the judge accepts two or more images of either model.
"""

import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from capo.evaluation.measure_diversity import ImageEncoder, find_encoder
from capo.method import pairwise_distance
from capo.recipe import load_recipe

MODELS = {"base": "baseline", "tuned": "evaluate"}
"""The artifact with each model's images."""


def main(runs: list[str]) -> None:
    """Print a table over the prompts of all runs."""
    rows = defaultdict(list)
    for run in map(Path, runs):
        distances = {model: _distances(run, model) for model in MODELS}
        for prompt in pq.read_table(run / "baseline" / "prompts.parquet").to_pylist():
            values = [distances[model][prompt["prompt_id"]] for model in MODELS]
            for category in (prompt["category"], "all"):
                rows[category].append(np.array(values).T)
    print("| category | base | tuned | change | base, accepted | tuned, accepted | change | prompts |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    rows["all"] = rows.pop("all")  # last
    for category, found in rows.items():
        every, accepted = np.stack(found, axis=1)
        both = accepted[np.isfinite(accepted).all(axis=1)]
        print(f"| {category} | {_cells(every)} | {_cells(both)} | {len(both)} |")


def _distances(run: Path, model: str) -> dict[str, tuple[float, float]]:
    """The mean distance between all images of a prompt, and between accepted ones, by prompt."""
    weights = find_encoder(None, load_recipe(str(run / "recipe.yaml")).rewards)
    assert weights is not None, "no reward has an image encoder"
    encoder = ImageEncoder(weights, torch.device("cpu"))
    judged = pq.read_table(run / MODELS[model] / "judgements.parquet").to_pylist()
    accepted = {(row["prompt_id"], row["sample"]): row["correct"] for row in judged if row["model"] == model}
    images: dict[str, list[tuple[int, Image.Image]]] = defaultdict(list)
    for shard in sorted((run / MODELS[model] / "images" / model).glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            images[row["prompt_id"]].append((row["sample"], image))
    found = {}
    for prompt, samples in images.items():
        features = encoder.embed([image for _, image in samples])
        right = torch.tensor([accepted[prompt, sample] for sample, _ in samples])
        found[prompt] = (_distance(features), _distance(features[right]))
    return found


def _distance(features: torch.Tensor) -> float:
    return float(pairwise_distance(features[None])) if len(features) > 1 else float("nan")


def _cells(values: np.ndarray) -> str:
    base, tuned = values.mean(axis=0)
    return f"{base:.4f} | {tuned:.4f} | {100 * (tuned / base - 1):+.0f}%"


if __name__ == "__main__":
    main(sys.argv[1:])
