"""Plan a human study from assumptions, or from the votes of a first one."""

from pathlib import Path
from typing import Any

from capo.people.analysis import VoteStatistics, judgments, vote_statistics
from capo.people.human_study import read_key, read_study
from capo.people.screening import screen
from capo.people.study_power import (
    AGREEMENT,
    LEVEL,
    SPREAD,
    Votes,
    power,
    prompts_needed_for,
    smallest_difference,
)
from capo.people.votes import collected_votes

RATERS = (2, 3, 5, 8, 12, 20, 50)
"""Numbers of raters for which a plan says how many prompts they need."""


def assumed(agreement: float | None, spread: float | None) -> Votes:
    """Return how votes vary: as given, else as assumed by default."""
    return Votes(AGREEMENT if agreement is None else agreement, SPREAD if spread is None else spread)


def measured(pilot: Path) -> VoteStatistics:
    """Return how the votes on the first question of a study vary."""
    study = read_study(pilot)
    key, votes = read_key(pilot, study), collected_votes(pilot, study)
    judged = judgments(votes, key, screen(votes, key, study.tie))
    first = study.questions[0].name
    return vote_statistics([j for j in judged if j.counted and j.vote.question == first])


def plan(prompts: int, raters: int, difference: float, votes: Votes, wanted: float) -> dict[str, Any]:
    """Return the power of a study, the smallest difference it shows, and what other designs need.

    Raises `ValueError` for a setting out of range.
    """
    if not LEVEL < wanted < 1:
        raise ValueError(f"--power must be above {LEVEL:g} and below 1, got {wanted:g}")
    return {
        "prompts": prompts,
        "raters": raters,
        "difference": difference,
        "level": LEVEL,
        "agreement": votes.agreement,
        "spread": votes.spread,
        "wanted": wanted,
        "power": power(prompts, raters, difference, votes),
        "smallest_difference": smallest_difference(prompts, raters, votes, wanted),
        "needed": [
            {"raters": count, "prompts": prompts_needed_for(count, difference, votes, wanted)}
            for count in RATERS
        ],
    }
