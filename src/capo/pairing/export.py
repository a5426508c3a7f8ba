"""Export the pairs of a run, for other trainers or for capo itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from capo.engine.progress import progress
from capo.engine.seeds import stable_seed
from capo.images import PAIR_WRITERS, Pair
from capo.images.shard_files import read_samples, shard_paths
from capo.pairing.training_pairs import PromptPairs, read_pairs
from capo.prompts.table import read_prompts
from capo.recipe import Recipe
from capo.store import Run, atomic

if TYPE_CHECKING:
    import pyarrow as pa


def export(recipe: Recipe, run: Run, to: Path, layout: str, per_prompt: int | None = None) -> dict[str, Any]:
    """Write the pairs of `run` into the new folder `to`, which appears complete or not at all.

    `layout` is one of `PAIR_WRITERS`. Writes only pairs whose ΔR is above `pairs.min_margin`, and above 0:
    the label of any other pair would be wrong. `per_prompt` limits the pairs per prompt, drawn by the seed of
    the run. Only one shard of samples is in memory at a time. Raises `WorkspaceError` for a run without
    pairs, and `ValueError` if the folder exists.
    """
    margin = max(0.0, recipe.pairs.min_margin or 0.0)
    prompts, _ = read_pairs(run.artifact("pairs"), margin)
    place = {prompt_id: place for place, prompt_id in enumerate(prompts.ids)}
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(run)}
    samples = run.artifact("samples")
    ids_of_shards = (samples.read_columns(path, ["prompt_id"])["prompt_id"] for path in shard_paths(samples))
    shards = sum(any(i in place for i in ids.unique().to_pylist()) for ids in ids_of_shards)
    # The location of a directory means nothing on another machine.
    named = recipe.model.checkpoint
    model = "unknown" if recipe.images else Path(named).name if Path(named).exists() else named
    counts = {"prompts": len(prompts), "pairs": 0, "images": 0}
    with atomic.create_folder(to) as folder, progress("export", shards, "shards") as bar:
        writer = PAIR_WRITERS[layout](folder, shards, model)
        for table in read_samples(samples, columns=["prompt_id", "sample", "image"]):
            ids = [i for i in table["prompt_id"].unique().to_pylist() if i in place]
            if not ids:
                continue
            drawn = (_drawn(prompts[place[i]], texts[i], recipe.seed, per_prompt) for i in ids)
            pairs = [pair for of_prompt in drawn for pair in of_prompt]
            images = _images(table, {(p.prompt_id, n) for p in pairs for n in (p.chosen, p.rejected)})
            writer.write(pairs, images)
            counts["pairs"] += len(pairs)
            counts["images"] += len(images)
            bar.advance()
    return {"directory": str(to), "layout": layout, **counts}


def _drawn(pairs: PromptPairs, caption: str, seed: int, per_prompt: int | None) -> Iterator[Pair]:
    rows = pairs.allowed
    if per_prompt is not None:
        generator = torch.Generator().manual_seed(stable_seed("export", seed, pairs.prompt_id))
        rows = rows[torch.randperm(len(rows), generator=generator)[:per_prompt].sort().values]
    for chosen, rejected in rows.tolist():
        delta_reward = pairs.delta_reward(chosen, rejected)
        yield Pair(pairs.prompt_id, caption, chosen, rejected, delta_reward)


def _images(table: "pa.Table", wanted: set[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    keys = zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True)
    return {key: table["image"][row].as_py()["bytes"] for row, key in enumerate(keys) if key in wanted}
