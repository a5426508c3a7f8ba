"""What a reader of a study must know before its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.compare.runs import StudyRun
from capo.reporting.forest import MEAN


def warnings(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> list[str]:
    """A sentence or two each; `runs` are those that `results` are of."""
    found = ["Quick form: it shows that everything runs; its numbers mean nothing."] * results["quick"]
    if len({frozenset(reward.name for reward in run.trained.training_rewards) for run in runs}) > 1:
        found.append(
            f"The rows train on different rewards. {MEAN}, also at equal drift and along training, is that "
            "of each row's own, so rows are no more alike by it than their rewards are; and a reward that "
            "is held out in one row may have trained another."
        )
    return found + [f"{name} failed: {why}" for name, why in results["failed"].items()]
