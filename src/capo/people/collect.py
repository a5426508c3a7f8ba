"""Add votes to a study: every file is checked first, and stored whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from capo.people.human_study import VOTES, HumanStudy, read_study
from capo.people.votes import (
    Ballot,
    VoteLine,
    VotesError,
    ballot_name,
    collected_votes,
    read_vote_lines,
    read_votes,
    vote_line,
)
from capo.store import atomic

Outcome = Literal["added", "extended", "already there", "refused"]


@dataclass(frozen=True)
class Added:
    """What became of a votes file."""

    file: str
    rater: str | None
    votes: int
    outcome: Outcome
    """`extended`: the study had an earlier file of the rater, with some of the same votes."""
    reason: str = ""
    """why it was refused"""


def add_votes(folder: Path, paths: Sequence[Path]) -> list[Added]:
    """Store votes files in `votes/` of the study in `folder`.

    Adding the same file again changes nothing. A later file of a rater replaces an earlier one if it has all
    of its votes. A refused file does not keep the others out.

    Raises `HumanStudyError` for a damaged study, and `VotesError` if votes that it already has are damaged.
    """
    study = read_study(folder)
    return [_add(folder, study, path) for path in paths]


def _add(folder: Path, study: HumanStudy, path: Path) -> Added:
    known = {(vote.rater, *vote.key): vote for vote in collected_votes(folder, study)}
    try:
        ballot = read_votes(path, study)
        if not ballot.votes:
            raise VotesError(f"{path}: no votes; ask rater {ballot.rater} for a file with answers")
        place = folder / VOTES / ballot_name(study, ballot.rater)
        for vote in ballot.votes:
            other = known.get((ballot.rater, *vote.key))
            if other is not None and (other.side, other.source) != (vote.side, "page"):
                raise VotesError(
                    f"{path}: the study has another vote of rater {ballot.rater} on {vote.pair} "
                    f"({vote.question}); two people used the same name, or one voted twice"
                )
        earlier = read_votes(place, study) if place.exists() else None
        if earlier is not None and (missing := _missing(earlier, ballot)):
            raise VotesError(
                f"{path}: lacks {missing} votes of rater {ballot.rater} that the study has already; add a "
                "file with all of the rater's votes"
            )
    except VotesError as error:
        return Added(str(path), None, 0, "refused", str(error))
    if earlier is not None and earlier.digest == ballot.digest:
        return Added(str(path), ballot.rater, len(ballot.votes), "already there")
    with atomic.write_file(place) as temporary:
        temporary.write_bytes(path.read_bytes())
    return Added(str(path), ballot.rater, len(ballot.votes), "extended" if earlier else "added")


def _missing(earlier: Ballot, later: Ballot) -> int:
    return len({vote.key for vote in earlier.votes} - {vote.key for vote in later.votes})


def store_lines(folder: Path, study: HumanStudy, name: str, votes: Sequence[VoteLine]) -> Outcome:
    """Store votes from another tool as `votes/NAME.jsonl`.

    The same votes again change nothing; more votes replace fewer. Raises `VotesError` if the study has votes
    under this name that the new ones lack or contradict, or other votes of the same raters.
    """
    place = folder / VOTES / f"{name}.jsonl"
    earlier = set(read_vote_lines(place, study)) if place.exists() else None
    wanted = set(votes)
    if earlier == wanted:
        return "already there"
    if earlier is not None and not earlier < wanted:
        raise VotesError(
            f"{place}: has {len(earlier - wanted)} votes that the file lacks or contradicts; remove "
            f"{place.name} to replace its votes"
        )
    with atomic.write_file(place) as temporary:
        lines = (vote_line(study, vote.rater, vote, vote.source) for vote in votes)
        temporary.write_text("".join(lines), encoding="utf-8")
    return "added" if earlier is None else "extended"
