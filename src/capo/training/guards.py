"""What stops training: numbers that are not finite, divergence, and validations that say enough."""

import math
from collections.abc import Sequence

from capo.recipe import TrainSection
from capo.training.log import Row, best_row

HORIZON = 10
"""Steps over which the guard averages: one bad batch is no divergence, a few are."""
MARGIN_LIMIT = 10.0
"""The targets of CaPO and IPO lie in [-1, 1], and for DPO a margin of 10 leaves no gradient."""


class TrainingDiverged(RuntimeError):
    """Training runs away, or has met a number that is not finite, from which nothing was updated."""


def not_finite(what: str, step: int, prompt_ids: Sequence[str]) -> TrainingDiverged:
    """The error of a loss or gradient that is not finite, naming the prompts it came from."""
    return TrainingDiverged(
        f"step {step}: the {what} is not finite, from prompts {', '.join(prompt_ids)}; nothing was "
        "updated and the last checkpoint is intact: lower train.learning_rate or train.beta"
    )


class Watch:
    """Sees divergence in the logged rows, well before images show it.

    A model that is about to break first denoises its own chosen samples worse and worse, or its
    margins leave the range of their targets. Both are averaged over `HORIZON` steps, starting from
    the 0 of the base model, so that one bad batch passes and one terrible batch does not.
    """

    def __init__(self, section: TrainSection, rows: Sequence[Row]) -> None:
        """`rows` are those logged before."""
        self._limit = section.max_error_growth
        self._step, self._growth, self._margin = 0, 0.0, 0.0
        self._calm: list[tuple[int, bool]] = []
        for row in rows:
            self._follow(row)

    def see(self, row: Row) -> None:
        """Raises `TrainingDiverged` when the averages up to `row` say so."""
        self._follow(row)
        if self._growth > self._limit:
            raise TrainingDiverged(
                f"step {row['step']}: training diverges: the denoising error on chosen samples is "
                f"{self._growth:.0%} above the reference's (train.max_error_growth {self._limit:.0%}); "
                "lower train.learning_rate, or raise train.beta to stay nearer to the reference"
            )
        if abs(self._margin) > MARGIN_LIMIT:
            raise TrainingDiverged(
                f"step {row['step']}: training diverges: the margins have run away to {self._margin:.1f}; "
                "lower train.learning_rate or train.beta"
            )

    def calm(self, step: int) -> bool:
        """Whether the averages were below half of their limits at the last row up to `step`."""
        return next((calm for seen, calm in reversed(self._calm) if seen <= step), False)

    def _follow(self, row: Row) -> None:
        share = 1 - math.exp(-(row["step"] - self._step) / HORIZON)
        self._growth += share * (row["error/chosen"] - self._growth)
        self._margin += share * (row["rewards/margins"] - self._margin)
        self._step = row["step"]
        calm = self._growth < self._limit / 2 and abs(self._margin) < MARGIN_LIMIT / 2
        self._calm.append((self._step, calm))


def ends(validations: Sequence[Row], section: TrainSection) -> str | None:
    """Why training should end after these validations; None: it should not."""
    best, steps = best_row(validations), [row["step"] for row in validations]
    if best is not None and section.patience is not None:
        worse = sum(step > best["step"] for step in steps)
        if worse >= section.patience:
            return f"no better win-rate in {worse} validations since step {best['step']}"
    alarm = overoptimization(validations)
    return alarm if section.on_overoptimization == "stop" else None


def overoptimization(validations: Sequence[Row]) -> str | None:
    """What the last validation says of it: training rewards up while the held-out ones fell.

    Compared is with the step at which the held-out win-rate was highest. The fall must exceed two
    standard errors of the difference, as if the two were independent; on the same prompts it is less.
    """
    seen = [row for row in validations if row["step"] > 0 and row.get("held_out_win_rate") is not None]
    if len(seen) < 2:
        return None
    peak, last = max(seen, key=lambda row: float(row["held_out_win_rate"])), seen[-1]
    fall = peak["held_out_win_rate"] - last["held_out_win_rate"]
    error = math.hypot(*(row["held_out_standard_error"] or 0.0 for row in (peak, last)))
    if last["win_rate"] <= peak["win_rate"] or fall <= 2 * error:
        return None
    return (
        f"over-optimization: since step {peak['step']} the win-rate by the training rewards rose from "
        f"{peak['win_rate']:.1%} to {last['win_rate']:.1%}, that by the held-out ones fell from "
        f"{peak['held_out_win_rate']:.1%} to {last['held_out_win_rate']:.1%}"
    )
