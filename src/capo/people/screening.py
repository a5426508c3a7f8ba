"""Raters whose votes do not count, and why.

The rules look at catch trials, sides and times, and never at which model a rater prefers: so setting a rater
aside cannot favor a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from capo.people.human_study import Key, KeyPair
from capo.people.votes import VoteLine

FEWEST_CATCH_TRIALS = 4
MOST_FAILED = 0.5
"""A rater is set aside who fails more than half of at least four catch trials."""

FEWEST_SIDES = 12
ALWAYS = 0.95
"""A rater is set aside who chooses one side of the screen in 95% of at least twelve votes without a tie."""

FASTEST_MS = 500
"""A rater is set aside whose median time is below half a second: too short to look at two images."""


@dataclass(frozen=True)
class Screened:
    """A rater's record apart from the preferences."""

    rater: str
    source: str
    votes: int
    left: float | None
    """share of the left side of the screen among votes without a tie; None without such votes"""
    median_ms: float | None
    judged: int
    """catch trials with a right answer"""
    failed: int
    set_aside: str | None
    """the reason, or None"""


def screen(votes: Sequence[VoteLine], key: Key, tie: bool) -> list[Screened]:
    """Return every rater of the votes, in alphabetical order. `tie`: whether the study allows ties."""
    by_rater: dict[str, list[VoteLine]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    return [_screened(rater, by_rater[rater], key, tie) for rater in sorted(by_rater)]


def has_right_answer(about: KeyPair, tie: bool) -> bool:
    """Report whether a pair is a catch trial that a rater can fail; an identical pair needs ties for that."""
    return about.catch == "repeated" or (about.catch == "identical" and tie)


def catch_trials(votes: Sequence[VoteLine], key: Key, tie: bool) -> list[bool]:
    """Return whether a rater passed, for every catch trial with a right answer.

    A repeated pair has the same right answer as before. An identical pair is a tie where ties are allowed;
    otherwise it has no right answer, and only shows which side the rater favors.
    """
    sides: Mapping[tuple[str, str], str] = {vote.key: vote.side for vote in votes}
    passed = []
    for vote in votes:
        about = key.pairs[vote.pair]
        if about.catch == "identical" and tie:
            passed.append(vote.side == "tie")
        elif about.catch == "repeated" and about.of is not None:
            first = sides.get((about.of, vote.question))
            if first is not None:
                passed.append(_exchanged(first) == vote.side)
    return passed


def _screened(rater: str, votes: Sequence[VoteLine], key: Key, tie: bool) -> Screened:
    passed = catch_trials(votes, key, tie)
    sided = [vote.choice == "left" for vote in votes if vote.choice != "tie"]
    left = sum(sided) / len(sided) if sided else None
    times = [vote.ms for vote in votes if vote.ms is not None]
    typical = median(times) if times else None
    failed = passed.count(False)
    reasons = []
    if len(passed) >= FEWEST_CATCH_TRIALS and failed > MOST_FAILED * len(passed):
        reasons.append(f"failed {failed} of {len(passed)} catch trials")
    if left is not None and len(sided) >= FEWEST_SIDES and max(left, 1 - left) >= ALWAYS:
        share, side = (left, "left") if left >= ALWAYS else (1 - left, "right")
        reasons.append(f"chose the {side} side in {100 * share:.0f}% of votes")
    if typical is not None and typical < FASTEST_MS:
        reasons.append(f"took {typical:.0f} ms for a typical vote")
    sources = ", ".join(sorted({vote.source for vote in votes}))
    return Screened(
        rater, sources, len(votes), left, typical, len(passed), failed, "; ".join(reasons) or None
    )


def _exchanged(side: str) -> str:
    return {"left": "right", "right": "left"}.get(side, side)
