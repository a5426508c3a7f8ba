"""Reasons to stop training: numbers that are not finite, divergence, and the course of the validations."""

import math
from collections.abc import Sequence

from capo.recipe import TrainSection
from capo.training.log import Row, best_row

HORIZON = 10
"""Steps over which the guard averages: one bad batch is not divergence, several are."""
MARGIN_LIMIT = 10.0
"""The targets of CaPO and IPO lie in [-1, 1], and a DPO margin of 10 leaves no gradient."""


class TrainingDiverged(RuntimeError):
    """Training diverges, or a loss or gradient is not finite and no update was made."""


def not_finite(what: str, step: int, prompt_ids: Sequence[str]) -> TrainingDiverged:
    """Return the error for a loss or gradient that is not finite, naming the prompts it came from."""
    return TrainingDiverged(
        f"step {step}: the {what} is not finite, from prompts {', '.join(prompt_ids)}; nothing was "
        "updated and the last checkpoint is intact: lower train.learning_rate or train.beta"
    )


class DivergenceGuard:
    """Detects divergence in the logged rows, well before images show it.

    A model that is about to break first denoises its own chosen samples worse and worse, or its margins
    leave the range of their targets. Both are averaged over `HORIZON` steps, starting from 0 at the base
    model, so one bad batch passes and one terrible batch does not.
    """

    def __init__(self, section: TrainSection, rows: Sequence[Row]) -> None:
        """Start from the rows logged so far."""
        self._limit = section.max_error_growth
        self._step, self._growth, self._margin = 0, 0.0, 0.0
        self._calm: list[tuple[int, bool]] = []
        for row in rows:
            self._follow(row)

    def check(self, row: Row) -> None:
        """Include `row` in the averages; raise `TrainingDiverged` if they exceed their limits."""
        self._follow(row)
        if self._growth > self._limit:
            raise TrainingDiverged(
                f"step {row['step']}: training diverges: the denoising error on chosen samples is "
                f"{self._growth:.0%} above the reference's (train.max_error_growth {self._limit:.0%}); "
                "lower train.learning_rate, or raise train.beta to stay closer to the reference"
            )
        if abs(self._margin) > MARGIN_LIMIT:
            raise TrainingDiverged(
                f"step {row['step']}: training diverges: the margins have grown to {self._margin:.1f}; "
                "lower train.learning_rate or train.beta"
            )

    def calm(self, step: int) -> bool:
        """Report whether the averages were below half of their limits at the last row up to `step`."""
        return next((calm for logged, calm in reversed(self._calm) if logged <= step), False)

    def _follow(self, row: Row) -> None:
        share = 1 - math.exp(-(row["step"] - self._step) / HORIZON)
        self._growth += share * (row["error/chosen"] - self._growth)
        self._margin += share * (row["rewards/margins"] - self._margin)
        self._step = row["step"]
        calm = self._growth < self._limit / 2 and abs(self._margin) < MARGIN_LIMIT / 2
        self._calm.append((self._step, calm))


def reason_to_end(validations: Sequence[Row], section: TrainSection) -> str | None:
    """Return why training should end after these validations, or None if it should continue."""
    best, steps = best_row(validations), [row["step"] for row in validations]
    if best is not None and section.patience is not None:
        worse = sum(step > best["step"] for step in steps)
        if worse >= section.patience:
            return f"no better win-rate in {worse} validations since step {best['step']}"
    alarm = overoptimization(validations)
    return alarm if section.on_overoptimization == "stop" else None


def overoptimization(validations: Sequence[Row]) -> str | None:
    """Return a description of over-optimization at the last validation, or None.

    Over-optimization: the win-rate by the training rewards rose while that by the held-out ones fell, since
    the step where the held-out win-rate was highest. The fall must exceed two standard errors of the
    difference, computed as if both were independent; on the same prompts the true error is smaller.
    """
    known = [row for row in validations if row["step"] > 0 and row.get("held_out_win_rate") is not None]
    if len(known) < 2:
        return None
    peak, last = max(known, key=lambda row: float(row["held_out_win_rate"])), known[-1]
    fall = peak["held_out_win_rate"] - last["held_out_win_rate"]
    error = math.hypot(*(row["held_out_standard_error"] or 0.0 for row in (peak, last)))
    if last["win_rate"] <= peak["win_rate"] or fall <= 2 * error:
        return None
    return (
        f"over-optimization: since step {peak['step']} the win-rate by the training rewards rose from "
        f"{peak['win_rate']:.1%} to {last['win_rate']:.1%}, while that by the held-out rewards fell from "
        f"{peak['held_out_win_rate']:.1%} to {last['held_out_win_rate']:.1%}"
    )
