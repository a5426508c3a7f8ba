"""Which value of a sweep to take, from the validations of all.

Values are compared on the same prompts, so the error of a difference is that of the prompts' differences.
A larger β stays closer to the reference. Among values that chance may have ordered, the largest is taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from capo.method import prompts_needed
from capo.scoring.prompt_win_rates import present, prompt_error
from capo.tuning.value_trial import Trial, Validated

CLEAR = 2.0
"""Standard errors from which a difference counts as more than chance."""
FAR_BEHIND = 3.0
"""Standard errors by which a value that is stopped early must be behind: it is tested again and again."""
PRACTICAL = 0.02
"""The difference of win-rates that a sweep should be able to see."""


@dataclass(frozen=True)
class Gap:
    """The mean of a difference over prompts, and its standard error; infinite for a single prompt."""

    value: float
    error: float

    @property
    def clear(self) -> bool:
        """Report whether the difference is positive by more than chance."""
        return self.value > CLEAR * self.error


@dataclass(frozen=True)
class Choice:
    """The outcome of a sweep. Values of β identify the trials."""

    best: float | None
    """The value with the highest win-rate among those that may be chosen; None if there is none."""
    chosen: float | None
    """The largest value within one standard error of the best; None without a conclusion."""
    hacking: dict[float, str]
    """The values that the held-out rewards exclude, with the reason."""
    edge: Literal["low", "high"] | None
    """Set if no smaller, or no larger, value than the best was tried."""
    prompts: int
    needed: int | None
    """The number of prompts needed to detect a difference of `PRACTICAL`; None if nothing can be compared."""


def choose(trials: Sequence[Trial]) -> Choice:
    """Choose among the trials whose training finished.

    There is a conclusion if some value is worse than the best by more than chance, which includes those that
    fell behind, or if the prompts suffice to see a difference of `PRACTICAL`. A value that diverged is no
    evidence about the others.
    """
    done = {trial.beta: trial.best for trial in trials if trial.ending == "done" and trial.best is not None}
    prompts = max((row.scored for row in done.values()), default=0)
    hacking = {beta: why for beta in done if (why := _hacking(beta, done))}
    allowed = {beta: row for beta, row in done.items() if beta not in hacking}
    if not allowed:
        return Choice(None, None, hacking, None, prompts, None)
    best = max(sorted(allowed, reverse=True), key=lambda beta: allowed[beta].rate)
    gaps = {beta: gap(allowed[best].training, row.training) for beta, row in allowed.items()}
    others = [row for beta, row in done.items() if beta != best]
    needed = max((_needed(allowed[best], row) for row in others), default=None)
    seen = any(gap(allowed[best].training, row.training).clear for row in others)
    behind = any(trial.ending == "behind" for trial in trials)
    conclusive = seen or behind or (needed is not None and needed <= prompts)
    near = [beta for beta, each in gaps.items() if beta == best or each.value <= each.error]
    tried = [trial.beta for trial in trials]
    edge: Literal["low", "high"] | None = None
    if len(tried) > 1 and best in (min(tried), max(tried)):
        edge = "low" if best == min(tried) else "high"
    return Choice(best, max(near) if conclusive else None, hacking, edge, prompts, needed)


def falls_behind(trial: Trial, others: Sequence[Trial], step: int, last: int) -> str | None:
    """Return why a training should end at its validation of `step`, or None.

    From half of the `last` step on, it ends if another value had a win-rate at the same step that is above by
    more than `FAR_BEHIND` standard errors, unless the held-out rewards prefer this one.
    """
    ours = trial.at(step)
    if ours is None or 2 * step < last or step == last:
        return None
    for other in others:
        theirs = other.at(step)
        if theirs is None or other.ending == "diverged":
            continue
        ahead = gap(theirs.training, ours.training)
        if ahead.value > FAR_BEHIND * ahead.error and not _prefers(ours, theirs):
            return (
                f"{100 * ahead.value:.1f} ± {100 * ahead.error:.1f} points behind β {other.beta:g} "
                f"at step {step}"
            )
    return None


def gap(ours: np.ndarray, theirs: np.ndarray) -> Gap:
    """Return the mean of `ours` minus `theirs` [P] over the prompts that have both."""
    differences = present(ours - theirs)
    error = prompt_error(differences)
    return Gap(float(differences.mean()), math.inf if error is None else error)


def _hacking(beta: float, rows: dict[float, Validated]) -> str | None:
    """Say why the gains of a value are not real by the held-out rewards; None if they may be."""
    row = rows[beta]
    if row.held_out is None:
        return None
    loss = gap(np.full_like(row.held_out, 0.5), row.held_out)
    if loss.clear:
        return (
            f"the held-out rewards prefer the base, by {100 * loss.value:.1f} ± {100 * loss.error:.1f} points"
        )
    for other, theirs in sorted(rows.items()):
        if other > beta and theirs.held_out is not None:
            fall = gap(theirs.held_out, row.held_out)
            if fall.clear and gap(row.training, theirs.training).value > 0:
                return (
                    f"gains more than β {other:g} by the training rewards, and "
                    f"{100 * fall.value:.1f} ± {100 * fall.error:.1f} points less by the held-out ones"
                )
    return None


def _prefers(ours: Validated, theirs: Validated) -> bool:
    """Report whether the held-out rewards prefer our policy."""
    if ours.held_out is None or theirs.held_out is None:
        return False
    return gap(ours.held_out, theirs.held_out).value > 0


def _needed(ours: Validated, theirs: Validated) -> int:
    """Return the number of prompts needed to detect a difference of `PRACTICAL` between the two."""
    differences = torch.from_numpy(present(ours.training - theirs.training))
    return prompts_needed(differences, PRACTICAL) if len(differences) > 1 else 2
