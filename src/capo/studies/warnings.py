"""What a reader of a study must know before its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.reporting.forest import MEAN
from capo.studies.runs import StudyRun


def warnings(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> list[str]:
    """A sentence or two each; `runs` are those that `results` are of."""
    found = ["Quick form: it shows that everything runs; its numbers mean nothing."] * results["quick"]
    if len({frozenset(reward.name for reward in run.trained.training_rewards) for run in runs}) > 1:
        found.append(
            f"The rows train on different rewards. {MEAN}, also at equal drift and along training, is that "
            "of each row's own, so rows are no more alike by it than their rewards are; and a reward that "
            "is held out in one row may have trained another."
        )
    if results["unfinished"]:
        found.append(not_finished(results))
    return found + [f"{name} failed: {why}" for name, why in results["failed"].items()]


def not_finished(results: Mapping[str, Any]) -> str:
    """Which runs have no part in the tables, as they are not finished."""
    by_seed: dict[int, list[str]] = {}
    for run in results["unfinished"]:
        by_seed.setdefault(run["seed"], []).append(f"{run['row']} ({run['state']})")
    told = [
        f"of seed {seed} {', '.join(rows) if seed in results['seeds'] else 'all rows'}"
        for seed, rows in by_seed.items()
    ]
    return f"Not finished, and not in the tables: {'; '.join(told)}."
