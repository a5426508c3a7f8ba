"""What the page shows in pictures: prompts by both models, and the sets that training drew from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.pairing.pair_table import PairTable
from capo.recipe import Recipe
from capo.reporting.pictures import Gallery, Picture
from capo.reporting.results_schema import Results
from capo.store import Artifact, Run

SIDE_BY_SIDE_PIXELS = 320
PAIR_PIXELS = 160
LARGEST_SET = 8
"""Images shown of a chosen or rejected set; the page says how many more there are."""


@dataclass(frozen=True)
class Shown:
    """A prompt that the page shows."""

    prompt_id: str
    text: str
    category: str | None


@dataclass(frozen=True)
class Contrast:
    """One prompt's image by the base and by the tuned model, from the same noise."""

    prompt: Shown
    base: Picture
    tuned: Picture
    base_correct: bool | None
    tuned_correct: bool | None
    scores: tuple[tuple[str, float | None, float | None], ...]
    """reward, score of the base's image, score of the tuned model's"""


@dataclass(frozen=True)
class Candidate:
    """A sample of a pair set with its calibrated rewards, in the order of the table's rewards."""

    sample: int
    picture: Picture
    calibrated: tuple[float, ...]
    combined: float


@dataclass(frozen=True)
class PairExample:
    """The chosen and the rejected samples of one prompt, best first."""

    prompt: Shown
    chosen: tuple[Candidate, ...]
    rejected: tuple[Candidate, ...]
    chosen_more: int
    rejected_more: int


def read_prompts(artifact: Artifact) -> dict[str, Shown]:
    """The prompts of a run or of its evaluation by id, in the order of the samples' shards."""
    table = artifact.read_table("prompts.parquet", columns=["prompt_id", "text", "category"])
    return {row["prompt_id"]: Shown(**row) for row in table.to_pylist()}


def spread(prompts: Sequence[Shown], count: int) -> list[Shown]:
    """`count` prompts, as evenly over the categories and along the list as it goes.

    The categories take turns. Nothing but the order of the prompts decides, so no image is picked
    for its looks.
    """
    groups: dict[str, list[Shown]] = {}
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
    return [prompt for _, _, prompt in sorted(picked, key=lambda each: each[:2])]


def contrasts(recipe: Recipe, run: Run, results: Results) -> tuple[Contrast, ...]:
    """The first sample of some evaluation prompts from both models."""
    homes = {"base": run.artifact("baseline"), "tuned": run.artifact("evaluate")}
    prompts = read_prompts(homes["base"])
    shown = spread(list(prompts.values()), recipe.report.side_by_side)
    wanted = {prompt.prompt_id: (0,) for prompt in shown}
    pictures, scores = {}, {}
    for model, home in homes.items():
        gallery = Gallery(home, f"images/{model}", list(prompts), recipe.generate.shard_prompts)
        pictures[model] = gallery.pictures(wanted, SIDE_BY_SIDE_PIXELS)
        scores[model] = {
            reward.name: _first_samples(home, f"scores/{model}/{reward.name}.parquet", "score")
            for reward in results.rewards
        }
    correct = _judgements(homes.values()) if results.judge is not None else {}
    return tuple(
        Contrast(
            prompt=prompt,
            base=pictures["base"][prompt.prompt_id, 0],
            tuned=pictures["tuned"][prompt.prompt_id, 0],
            base_correct=correct.get(("base", prompt.prompt_id)),
            tuned_correct=correct.get(("tuned", prompt.prompt_id)),
            scores=tuple(
                (
                    reward.name,
                    scores["base"][reward.name].get(prompt.prompt_id),
                    scores["tuned"][reward.name].get(prompt.prompt_id),
                )
                for reward in results.rewards
            ),
        )
        for prompt in shown
    )


def _first_samples(artifact: Artifact, relative: str, column: str) -> dict[str, Any]:
    """What `column` says of each prompt's sample 0."""
    table = artifact.read_table(relative, columns=["prompt_id", "sample", column])
    return {row["prompt_id"]: row[column] for row in table.to_pylist() if row["sample"] == 0}


def _judgements(homes: Iterable[Artifact]) -> dict[tuple[str, str], bool]:
    """By model and prompt, of sample 0."""
    tables = [home.read_table("judgements.parquet").to_pylist() for home in homes]
    rows = (row for table in tables for row in table if row["sample"] == 0)
    return {(row["model"], row["prompt_id"]): row["correct"] for row in rows}


def pair_examples(
    recipe: Recipe, run: Run, pairs: PairTable, prompts: Mapping[str, Shown]
) -> tuple[PairExample, ...]:
    """The sets of some training prompts that have a pair."""
    shown = spread([prompts[p] for p in pairs.paired], recipe.report.pair_examples)
    both = (pairs.chosen, pairs.rejected)
    sets = {p.prompt_id: [_best_first(pairs, p.prompt_id, members) for members in both] for p in shown}
    wanted = {
        prompt: [int(pairs.sample[row]) for rows in found for row in rows[:LARGEST_SET]]
        for prompt, found in sets.items()
    }
    gallery = Gallery(run.artifact("samples"), "", list(prompts), recipe.generate.shard_prompts)
    pictures = gallery.pictures(wanted, PAIR_PIXELS)

    def candidates(prompt: Shown, rows: Sequence[int]) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(
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
            chosen=candidates(prompt, chosen),
            rejected=candidates(prompt, rejected),
            chosen_more=max(0, len(chosen) - LARGEST_SET),
            rejected_more=max(0, len(rejected) - LARGEST_SET),
        )
        for prompt in shown
        for chosen, rejected in [sets[prompt.prompt_id]]
    )


def _best_first(pairs: PairTable, prompt_id: str, members: np.ndarray) -> list[int]:
    rows = [int(row) for row in pairs.rows(prompt_id) if members[row]]
    return sorted(rows, key=lambda row: -pairs.combined[row])
