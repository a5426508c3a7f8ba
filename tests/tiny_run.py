"""A run with prompts and samples that no model made."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from capo.prompts import Prompt, make_prompt
from capo.prompts.table import prompt_table
from capo.recipe import Recipe, RewardSection, parse_recipe
from capo.store import Run

PIXELS = 8


def recipe(
    rewards: list[dict[str, Any]], prompts_file: Path | str = "prompts.txt", **sections: Any
) -> Recipe:
    """A recipe of 4 samples a prompt in shards of 2 prompts; `sections` are merged in."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"checkpoint": "nowhere"},
        "prompts": {"source": str(prompts_file)},
        "generate": {"samples_per_prompt": 4, "shard_prompts": 2},
        "rewards": rewards,
        "train": {"beta": 1.0},
        "evaluate": {"prompts": {"source": str(prompts_file)}, "samples_per_prompt": 3},
        "engine": {"device": "cpu"},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section if isinstance(section, dict) else section
    return parse_recipe(values)


def prompts(count: int) -> list[Prompt]:
    return [make_prompt(f"prompt {i}", category=("one", "two")[i % 2]) for i in range(count)]


def fill(run: Run, recipe: Recipe, prompts: list[Prompt]) -> dict[tuple[str, int], np.ndarray]:
    """Commit prompts and samples of noise; returns the pixels of every sample."""
    artifact = run.artifact("prompts")
    artifact.begin({})
    artifact.write_table("prompts.parquet", prompt_table(prompts))
    artifact.commit()

    samples = run.artifact("samples")
    samples.begin({})
    size, pixels = recipe.generate.shard_prompts, {}
    rng = np.random.default_rng(0)
    for shard, start in enumerate(range(0, len(prompts), size)):
        rows = []
        for prompt in prompts[start : start + size]:
            for sample in range(recipe.generate.samples_per_prompt):
                image = rng.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
                pixels[prompt.prompt_id, sample] = image
                rows.append((prompt.prompt_id, sample, png(image)))
        ids, indices, data = zip(*rows, strict=True)
        table = {
            "prompt_id": ids,
            "sample": pa.array(indices, pa.int32()),
            "image": [{"bytes": each, "path": None} for each in data],
        }
        samples.write_table(f"shard-{shard:05d}.parquet", pa.table(table))
        samples.write_tensors(f"shard-{shard:05d}.conditioning.safetensors", {"embeds": torch.zeros(1)})
    samples.commit({"prompts": len(prompts), "samples": len(pixels)})
    return pixels


def put_scores(run: Run, section: RewardSection, prompts: list[Prompt], scores: np.ndarray) -> None:
    """Commit scores [P, N] of a reward, NaN where missing, in two shards."""
    artifact = run.artifact(f"scores/{section.name}")
    artifact.begin({})
    samples = scores.shape[1]
    half = len(prompts) // 2
    for shard, part in enumerate((slice(0, half), slice(half, None))):
        values = scores[part].ravel()
        missing = np.isnan(values)
        table = {
            "prompt_id": [p.prompt_id for p in prompts[part] for _ in range(samples)],
            "sample": pa.array(list(range(samples)) * len(prompts[part]), pa.int32()),
            "score": pa.array(values, pa.float64(), mask=missing),
            "error": pa.array([("lost" if m else None) for m in missing], pa.string()),
        }
        artifact.write_table(f"shard-{shard:05d}.parquet", pa.table(table))
    artifact.commit()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
