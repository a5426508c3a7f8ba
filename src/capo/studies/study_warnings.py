"""Warnings about the results of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.studies.measure_names import MEAN
from capo.studies.study_run import StudyRun


def study_warnings(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> list[str]:
    """Return the warnings about `results`, which come from `runs`."""
    messages = ["Quick form: shows only that everything runs. Its numbers mean nothing."] * results["quick"]
    if len({frozenset(reward.name for reward in run.trained.training_rewards) for run in runs}) > 1:
        messages.append(
            f"The rows train on different rewards. '{MEAN}' averages the row's own training rewards, also at "
            "equal drift and along training, so it is not comparable between rows. A reward that is held out "
            "in one row may have trained another."
        )
    if results["unfinished"]:
        messages.append(unfinished_runs(results))
    return messages + [f"{name} failed: {why}" for name, why in results["failed"].items()]


def unfinished_runs(results: Mapping[str, Any]) -> str:
    """Return a sentence that names the runs missing from the tables."""
    by_seed: dict[int, list[str]] = {}
    for run in results["unfinished"]:
        by_seed.setdefault(run["seed"], []).append(f"{run['row']} ({run['state']})")
    missing = [
        f"seed {seed}: {', '.join(rows) if seed in results['seeds'] else 'all rows'}"
        for seed, rows in by_seed.items()
    ]
    return f"Unfinished runs, not in the tables: {'; '.join(missing)}."
