"""The images on the page: both models side by side, and the chosen and rejected samples of some prompts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.pairing.pair_table import PairTable
from capo.recipe import Recipe
from capo.reporting.pictures import Gallery, Picture
from capo.reporting.results_schema import Results
from capo.store import Artifact, Run

FIRST_PIXELS, OTHER_PIXELS = 352, 192
"""Longest sides of the first image of a prompt from each model, and of the others."""
IMAGES = 4
"""Images of a prompt from each model."""
PAIR_PIXELS = 160
LARGEST_SET = 8
"""Images shown of a chosen or rejected set; the page gives the number of the others."""


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt on the page."""

    prompt_id: str
    text: str
    category: str | None


@dataclass(frozen=True)
class ImagePair:
    """An image of the base and one of the tuned model, for the same prompt and noise."""

    base: Picture
    tuned: Picture
    base_correct: bool | None
    tuned_correct: bool | None
    scores: tuple[tuple[str, float | None, float | None], ...]
    """reward, score of the base image, score of the tuned image"""


@dataclass(frozen=True)
class SideBySide:
    """The first images of a prompt from both models."""

    prompt: ShownPrompt
    seed: int | None
    """The seed of the first tuned image's noise; None for existing images."""
    images: tuple[ImagePair, ...]


@dataclass(frozen=True)
class PairSample:
    """A chosen or rejected sample with its calibrated rewards, in the order of the pair table."""

    sample: int
    picture: Picture
    calibrated: tuple[float, ...]
    combined: float


@dataclass(frozen=True)
class PairExample:
    """The chosen and rejected samples of one prompt, best first, and the number of samples not shown."""

    prompt: ShownPrompt
    chosen: tuple[PairSample, ...]
    rejected: tuple[PairSample, ...]
    chosen_more: int
    rejected_more: int


def read_shown_prompts(artifact: Artifact) -> dict[str, ShownPrompt]:
    """Return the prompts of a run or of its evaluation by id, in the order of the shards."""
    table = artifact.read_table("prompts.parquet", columns=["prompt_id", "text", "category"])
    return {row["prompt_id"]: ShownPrompt(**row) for row in table.to_pylist()}


def spread(prompts: Sequence[ShownPrompt], count: int) -> list[ShownPrompt]:
    """Return `count` prompts, spread evenly over the categories and over the list.

    The selection depends only on the order of the prompts, never on their images.
    """
    groups: dict[str, list[ShownPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.category or "", []).append(prompt)
    shares = dict.fromkeys(sorted(groups), 0)
    left = min(count, len(prompts))
    while left:
        for name in shares:
            if left and shares[name] < len(groups[name]):
                shares[name] += 1
                left -= 1
    picked = [
        (i, name, groups[name][i * len(groups[name]) // share])
        for name, share in shares.items()
        for i in range(share)
    ]
    return [prompt for _, _, prompt in sorted(picked, key=lambda entry: entry[:2])]


def side_by_side(recipe: Recipe, run: Run, results: Results) -> tuple[SideBySide, ...]:
    """Return the first samples of some evaluation prompts from both models."""
    artifacts = {"base": run.artifact("baseline"), "tuned": run.artifact("evaluate")}
    prompts = read_shown_prompts(artifacts["base"])
    selected = spread(list(prompts.values()), recipe.report.side_by_side)
    others = range(1, min(IMAGES, results.samples_per_prompt))
    ids = [prompt.prompt_id for prompt in selected]
    pictures, scores, seeds = {}, {}, {}
    for model, artifact in artifacts.items():
        gallery = Gallery(artifact, f"images/{model}", list(prompts), recipe.generate.shard_prompts)
        pictures[model] = gallery.pictures(dict.fromkeys(ids, (0,)), FIRST_PIXELS)
        pictures[model] |= gallery.pictures(dict.fromkeys(ids, others), OTHER_PIXELS)
        seeds[model] = gallery.seeds(ids[:1]) if model == "tuned" else {}
        scores[model] = {
            reward.name: _column(artifact, f"scores/{model}/{reward.name}.parquet", "score")
            for reward in results.rewards
        }
    correct = _judgments(artifacts.values()) if results.judge is not None else {}

    def pair(prompt_id: str, sample: int) -> ImagePair:
        key = prompt_id, sample
        return ImagePair(
            base=pictures["base"][key],
            tuned=pictures["tuned"][key],
            base_correct=correct.get(("base", *key)),
            tuned_correct=correct.get(("tuned", *key)),
            scores=tuple(
                (r.name, scores["base"][r.name].get(key), scores["tuned"][r.name].get(key))
                for r in results.rewards
            ),
        )

    return tuple(
        SideBySide(
            prompt=prompt,
            seed=seeds["tuned"].get(prompt.prompt_id),
            images=tuple(pair(prompt.prompt_id, sample) for sample in (0, *others)),
        )
        for prompt in selected
    )


def _column(artifact: Artifact, relative: str, column: str) -> dict[tuple[str, int], Any]:
    """Return `column` by prompt and sample."""
    table = artifact.read_table(relative, columns=["prompt_id", "sample", column])
    return {(row["prompt_id"], row["sample"]): row[column] for row in table.to_pylist()}


def _judgments(artifacts: Iterable[Artifact]) -> dict[tuple[str, str, int], bool]:
    """Return the verdicts by model, prompt and sample."""
    tables = [artifact.read_table("judgements.parquet").to_pylist() for artifact in artifacts]
    rows = (row for table in tables for row in table)
    return {(row["model"], row["prompt_id"], row["sample"]): row["correct"] for row in rows}


def pair_examples(
    recipe: Recipe, run: Run, pairs: PairTable, prompts: Mapping[str, ShownPrompt]
) -> tuple[PairExample, ...]:
    """Return the chosen and rejected samples of some training prompts that have a pair."""
    selected = spread([prompts[p] for p in pairs.paired], recipe.report.pair_examples)
    masks = (pairs.chosen, pairs.rejected)
    sets = {p.prompt_id: [_best_first(pairs, p.prompt_id, mask) for mask in masks] for p in selected}
    wanted = {
        prompt: [int(pairs.sample[row]) for rows in both for row in rows[:LARGEST_SET]]
        for prompt, both in sets.items()
    }
    gallery = Gallery(run.artifact("samples"), "", list(prompts), recipe.generate.shard_prompts)
    pictures = gallery.pictures(wanted, PAIR_PIXELS)

    def samples(prompt: ShownPrompt, rows: Sequence[int]) -> tuple[PairSample, ...]:
        return tuple(
            PairSample(
                sample=int(pairs.sample[row]),
                picture=pictures[prompt.prompt_id, int(pairs.sample[row])],
                calibrated=tuple(float(v) for v in pairs.calibrated[row]),
                combined=float(pairs.combined[row]),
            )
            for row in rows[:LARGEST_SET]
        )

    return tuple(
        PairExample(
            prompt=prompt,
            chosen=samples(prompt, chosen),
            rejected=samples(prompt, rejected),
            chosen_more=max(0, len(chosen) - LARGEST_SET),
            rejected_more=max(0, len(rejected) - LARGEST_SET),
        )
        for prompt in selected
        for chosen, rejected in [sets[prompt.prompt_id]]
    )


def _best_first(pairs: PairTable, prompt_id: str, mask: np.ndarray) -> list[int]:
    rows = [int(row) for row in pairs.rows(prompt_id) if mask[row]]
    return sorted(rows, key=lambda row: -pairs.combined[row])
