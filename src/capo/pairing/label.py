"""Pairs by simulated people: they compare the model's own samples, two at a time, and err.

Their words take the place of rewards, as people's do that come with images. Each pair of samples that was
compared is one that training may draw; the others of a prompt say nothing of each other.
"""

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capo.engine.progress import progress
from capo.engine.seeds import stable_seed
from capo.images.shard_files import read_samples
from capo.method import PowerRatio
from capo.pairing.columns import LABELS, Columns
from capo.pairing.selecting import Pairs, pairs_table
from capo.prompts import Prompt
from capo.prompts.table import read_prompts
from capo.recipe import Recipe
from capo.rewards import describe_comparison
from capo.scoring.score_table import decode_rows
from capo.shapes.grammar import spec_of
from capo.shapes.people import compare_at_random
from capo.shapes.perception import perceive
from capo.shapes.scenes import Scene
from capo.store.run_directory import Run

if TYPE_CHECKING:
    import pyarrow as pa


def label_samples(recipe: Recipe, run: Run) -> "tuple[pa.Table, list[Pairs]]":
    """The rows of `pairs.parquet`, and the same in arrays, prompt by prompt.

    The column `compared` has [chosen, rejected] of every pair. A sample's label is 1 when it was preferred,
    0 when the other was, ½ on a tie, none when it was left over, their number being odd.
    """
    import pyarrow as pa

    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(run)}
    _check_prompts(recipe, list(prompts.values()))
    tables, found = [], []
    with progress("simulated people", len(prompts), "prompts") as bar:
        for rows in read_samples(run.artifact("samples"), columns=["prompt_id", "sample", "image"]):
            scenes: dict[str, list[Scene]] = {}
            for prompt_id, image in zip(rows["prompt_id"].to_pylist(), decode_rows(rows), strict=True):
                scenes.setdefault(prompt_id, []).append(perceive(np.asarray(image)))
            for prompt_id, each in scenes.items():
                rng = random.Random(stable_seed("people", recipe.seed, prompt_id))
                told = compare_at_random(each, spec_of(prompts[prompt_id].metadata), rng)
                found.append(_pairs(told, len(each)))
                compared = [[[a, b] if of > 0.5 else [b, a] for a, b, of in told if of != 0.5]]
                lists = pa.array(compared, pa.list_(pa.list_(pa.int32())))
                tables.append(pairs_table([prompt_id], found[-1]).append_column("compared", lists))
                bar.advance()
    comparisons = {LABELS: describe_comparison(PowerRatio())}
    metadata = {"rewards": json.dumps([LABELS]), "comparisons": json.dumps(comparisons)}
    return pa.concat_tables(tables).replace_schema_metadata(metadata), found


def label_columns(table: "pa.Table", pairs: Sequence[Pairs]) -> Columns:
    """Labels in the form in which the calibration report reads the scores of rewards."""
    labels = np.concatenate([each.combined.ravel() for each in pairs])
    counts = np.array([each.combined.size for each in pairs])
    return Columns([LABELS], [PowerRatio()], table["prompt_id"].to_pylist(), counts, labels[:, None])


def _pairs(told: Sequence[tuple[int, int, float]], samples: int) -> Pairs:
    """What people said of the samples of one prompt."""
    labels = np.full((1, samples), np.nan)
    for first, second, preferred in told:
        labels[0, [first, second]] = preferred, 1 - preferred
    return Pairs(labels[..., None], labels, labels == 1, labels == 0, np.zeros(labels.shape, dtype=bool))


def _check_prompts(recipe: Recipe, prompts: list[Prompt]) -> None:
    unknown = [prompt.text for prompt in prompts if "include" not in prompt.metadata]
    if unknown:
        raise ValueError(
            f"pairs.people: {recipe.pairs.people} needs prompts that say what must be seen, as those of "
            f"shapes:train; {len(unknown)} of {recipe.prompts.source} do not, the first being {unknown[0]!r}"
        )
