"""Pairs labeled by simulated people, who compare a model's own samples two at a time and make errors.

Their labels replace the scores of rewards, as the labels of real people do for existing images. Training
may draw exactly the pairs that were compared.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from capo.engine.progress import progress
from capo.engine.seeds import stable_seed
from capo.images.shard_files import read_samples
from capo.method import PowerRatio
from capo.pairing.columns import LABELS, Columns
from capo.pairing.selecting import Pairs, pairs_metadata, pairs_table
from capo.pairing.simulated_people import Answer, check_comparable, load_people
from capo.prompts.table import read_prompts
from capo.recipe import Recipe
from capo.scoring.score_table import decode_rows
from capo.store import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


def label_samples(recipe: Recipe, run: Run) -> "tuple[pa.Table, list[Pairs]]":
    """Return the rows of `pairs.parquet`, and the same as arrays, one entry per prompt.

    The column `compared` lists [chosen, rejected] of every pair. The label of a sample is 1 if it was
    preferred, 0 if the other one was, 1/2 for a tie, and NaN if it was not compared.
    """
    import pyarrow as pa

    assert recipe.pairs.people is not None
    people = load_people(recipe.pairs.people)
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(run)}
    check_comparable(people, recipe, list(prompts.values()))
    tables, labeled = [], []
    with progress("simulated people", len(prompts), "prompts") as bar:
        for prompt_id, images in _images_by_prompt(run.artifact("samples")):
            rng = random.Random(stable_seed("people", recipe.seed, prompt_id))
            answers = list(people.compare(images, prompts[prompt_id], rng))
            labeled.append(_pairs(answers, len(images)))
            compared = [[[a, b] if first > 0.5 else [b, a] for a, b, first in answers if first != 0.5]]
            lists = pa.array(compared, pa.list_(pa.list_(pa.int32())))
            tables.append(pairs_table([prompt_id], labeled[-1]).append_column("compared", lists))
            bar.advance()
    metadata = pairs_metadata([LABELS], [PowerRatio()])
    return pa.concat_tables(tables).replace_schema_metadata(metadata), labeled


def label_columns(table: "pa.Table", pairs: Sequence[Pairs]) -> Columns:
    """Return the labels in the form in which the calibration report reads the scores of rewards."""
    labels = np.concatenate([of_prompt.combined.ravel() for of_prompt in pairs])
    counts = np.array([of_prompt.combined.size for of_prompt in pairs])
    return Columns(
        names=[LABELS],
        comparisons=[PowerRatio()],
        prompt_ids=table["prompt_id"].to_pylist(),
        counts=counts,
        scores=labels[:, None],
    )


def _images_by_prompt(samples: Artifact) -> "Iterator[tuple[str, list[Image.Image]]]":
    """Yield the images of every prompt, which are consecutive rows of one shard."""
    for rows in read_samples(samples, columns=["prompt_id", "sample", "image"]):
        decoded = zip(rows["prompt_id"].to_pylist(), decode_rows(rows), strict=True)
        for prompt_id, group in groupby(decoded, key=lambda row: row[0]):
            yield prompt_id, [image for _, image in group]


def _pairs(answers: Sequence[Answer], samples: int) -> Pairs:
    """Turn the answers about the samples of one prompt into labels and masks."""
    labels = np.full((1, samples), np.nan)
    for first, second, preferred in answers:
        labels[0, [first, second]] = preferred, 1 - preferred
    return Pairs(
        calibrated=labels[..., None],
        combined=labels,
        chosen=labels == 1,
        rejected=labels == 0,
        set_aside=np.zeros(labels.shape, dtype=bool),
    )
