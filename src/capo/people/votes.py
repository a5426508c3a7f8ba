"""Votes of raters: the files that come back, and what must hold before one of them counts.

    capo-votes-STUDY-RATER.json     all votes of a rater, saved by the page
    votes/served.jsonl              votes sent to `capo people serve`, one line each, with study and rater
    votes/*.jsonl                   votes imported from other tools, in the same lines

`digest` in a file is the SHA-256 of the rest as canonical JSON. It detects damage and careless edits; a
person who wants to forge votes can compute it, too.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from capo.people.human_study import (
    RATER,
    VOTES,
    HumanStudy,
    Name,
    PairName,
    Record,
    content_digest,
    is_swapped,
)
from capo.store.manifest import canonical

MOST_BYTES = 64 << 20
"""Size above which a file is not read: no study has that many votes."""

SERVED = "served.jsonl"

Choice = Literal["left", "right", "tie"]
Source = Literal["page", "label-studio", "rapidata"]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")]
Rater = Annotated[str, Field(pattern=f"^{RATER}$")]


class VotesError(ValueError):
    """Votes that cannot count; the message names the file, the line and the fix."""


class Vote(Record):
    """One answer of a rater."""

    pair: PairName
    question: Name
    choice: Choice
    """The side on the rater's screen."""
    swapped: bool
    """True if the screen showed the pair with its sides exchanged."""
    ms: Annotated[int, Field(ge=0)] | None
    """Milliseconds between seeing the pair and answering; None if another tool did not measure them."""
    at: Moment
    """Time of the answer, in UTC."""

    @property
    def key(self) -> tuple[str, str]:
        """What the vote is about: a pair and a question."""
        return self.pair, self.question

    @property
    def side(self) -> Choice:
        """The chosen side of the pair in `study.json`."""
        if self.choice == "tie" or not self.swapped:
            return self.choice
        return "right" if self.choice == "left" else "left"


class Ballot(Record):
    """All votes of one rater: the content of a votes file."""

    format: Literal[1]
    study: str
    rater: Rater
    started: Moment
    finished: Moment | None
    agent: Annotated[str, Field(max_length=1000)]
    """The browser."""
    votes: Annotated[tuple[Vote, ...], Field(strict=False)]
    digest: str


class VoteLine(Vote):
    """A vote in a file of lines, with everything that a votes file says once."""

    study: str
    rater: Rater
    source: Source = "page"


def ballot_name(study: HumanStudy, rater: str) -> str:
    """Return the name of a rater's votes file."""
    return f"capo-votes-{study.id}-{rater}.json"


def ballot_text(ballot: Mapping[str, Any]) -> str:
    """Return the text of a votes file with its digest, one vote per line; `ballot` is all else."""
    head = {name: value for name, value in ballot.items() if name != "votes"}
    head["digest"] = content_digest(ballot)
    votes = ",\n".join(canonical(vote) for vote in ballot["votes"])
    return canonical(head)[:-1] + ',"votes":[\n' + votes + "\n]}\n"


def vote_line(study: HumanStudy, rater: str, vote: Vote, source: Source = "page") -> str:
    """Return the line of a vote, with the newline at its end."""
    about = {"study": study.id, "rater": rater, "source": source}
    return canonical(vote.model_dump(mode="json") | about) + "\n"


def read_votes(path: Path, study: HumanStudy) -> Ballot:
    """Read a votes file of `study`; raises the errors of `parse_votes`."""
    return parse_votes(_text(path), path, study)


def parse_votes(text: str, path: Path, study: HumanStudy) -> Ballot:
    """Parse the text of a votes file of `study`; `path` names it in errors.

    Raises `VotesError` with file and line for a file that is damaged, belongs to another study, or was
    changed, and for votes that the page could not have made: on unknown pairs or questions, twice on the
    same pair, ties where none are allowed, or with the wrong sides.
    """
    values = _json(text, path, 1)
    if not isinstance(values, dict) or "votes" not in values:
        raise VotesError(f"{path}, line 1: not a votes file; add the files that the study's page saves")
    _check_study(values.get("study"), study, f"{path}, line {_line_of(text, 'study')}")
    numbers = _vote_lines(text, values["votes"])
    try:
        ballot = Ballot.model_validate(values)
    except ValidationError as error:
        where, message = _first(error)
        of_vote = len(where) > 1 and where[0] == "votes" and isinstance(where[1], int)
        at = numbers[int(where[1])] if of_vote else _line_of(text, where[0])
        raise VotesError(f"{path}, line {at}: {'.'.join(map(str, where))}: {message}") from error
    if ballot.digest != content_digest({name: v for name, v in values.items() if name != "digest"}):
        raise VotesError(
            f"{path}, line {_line_of(text, 'digest')}: the content does not match its digest: the file is "
            "damaged or was changed; ask the rater for the original"
        )
    check = _Checks(study)
    for line, vote in zip(numbers, ballot.votes, strict=True):
        check.add(ballot.rater, vote, "page", f"{path}, line {line}")
    return ballot


def read_vote_lines(path: Path, study: HumanStudy) -> list[VoteLine]:
    """Read a file of lines of `study`, such as `votes/served.jsonl`.

    A repeated line counts once, and a later vote of the same rater on the same pair replaces the earlier.
    A last line without its newline was never acknowledged, and is skipped. Raises `VotesError` with file
    and line, as `read_votes`.
    """
    *lines, _ = _text(path).split("\n")
    check = _Checks(study, replace=True)
    found: dict[tuple[str, str, str], VoteLine] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        values = _json(line, path, number)
        _check_study(values.get("study") if isinstance(values, dict) else None, study, where)
        try:
            vote = VoteLine.model_validate(values)
        except ValidationError as error:
            place, message = _first(error)
            raise VotesError(f"{where}: {'.'.join(map(str, place))}: {message}") from error
        check.add(vote.rater, vote, vote.source, where)
        found[vote.rater, *vote.key] = vote
    return list(found.values())


def read_json(path: Path) -> Any:
    """Read a JSON file of another tool; raises `VotesError` with file and line for anything else."""
    return _json(_text(path), path, 1)


def utc_moment(value: Any) -> str:
    """Return a time of another tool as votes have it; raises `ValueError` for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time")
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value!r} is in no year") from error
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def collected_votes(folder: Path, study: HumanStudy) -> list[VoteLine]:
    """Return all votes in `votes/` of a study, ordered by rater, pair and question.

    Raises `VotesError` if a file cannot be read, has the name of another rater, or contradicts another file.
    """
    votes: dict[tuple[str, str, str], tuple[VoteLine, Path]] = {}
    for path in sorted((folder / VOTES).glob("*.json*")):
        for vote in _lines_of(path, study):
            known, where = votes.setdefault((vote.rater, *vote.key), (vote, path))
            if (known.side, known.source) != (vote.side, vote.source):
                raise VotesError(
                    f"{path}: rater {vote.rater} has another vote on {vote.pair} ({vote.question}) in "
                    f"{where}; remove one of the files"
                )
    return [votes[key][0] for key in sorted(votes)]


def _lines_of(path: Path, study: HumanStudy) -> Iterable[VoteLine]:
    if path.suffix == ".jsonl":
        return read_vote_lines(path, study)
    ballot = read_votes(path, study)
    if path.name != (own := ballot_name(study, ballot.rater)):
        raise VotesError(
            f"{path}: has the votes of rater {ballot.rater}, which belong into {own}; restore the original, "
            "or move this file away and add it with `capo people add`"
        )
    return [VoteLine(**vote.model_dump(), study=ballot.study, rater=ballot.rater) for vote in ballot.votes]


class _Checks:
    """Checks one vote after the other against the study."""

    def __init__(self, study: HumanStudy, replace: bool = False) -> None:
        self._study, self._replace = study, replace
        self._pairs = {pair.pair: pair for pair in study.pairs}
        self._questions = {question.name for question in study.questions}
        self._seen: dict[tuple[str, str, str], str] = {}

    def add(self, rater: str, vote: Vote, source: Source, where: str) -> None:
        pair = self._pairs.get(vote.pair)
        if pair is None or vote.question not in self._questions:
            raise VotesError(f"{where}: the study has no pair {vote.pair} with a question {vote.question}")
        if vote.choice == "tie" and not self._study.tie:
            raise VotesError(f"{where}: a tie on {vote.pair}, but the study allows none")
        # Other tools show the sides as the exported file has them.
        expected = is_swapped(self._study, rater, pair) if source == "page" else False
        if vote.swapped != expected:
            raise VotesError(
                f"{where}: the page shows rater {rater} the pair {vote.pair} "
                f"{'with' if expected else 'without'} its sides exchanged, but the vote says otherwise: it "
                "was changed, or moved from another rater; ask the rater for the original"
            )
        first = self._seen.get((rater, *vote.key))
        if first is not None and not self._replace:
            raise VotesError(
                f"{where}: a second vote on {vote.pair} ({vote.question}); the first is at {first}"
            )
        self._seen[rater, *vote.key] = where


def _text(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        raise VotesError(f"{path}: not a regular file; name the votes files themselves")
    if path.stat().st_size > MOST_BYTES:
        raise VotesError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no votes file is")
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise VotesError(f"{path}, line {line}: not UTF-8 text: the file is damaged") from error


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise VotesError(
            f"{path}, line {at}: not JSON ({error.msg}): the file is damaged or cut off"
        ) from error
    except (ValueError, RecursionError) as error:
        raise VotesError(f"{path}, line {line}: {error}: the file is damaged or was changed") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object names a field twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_study(named: Any, study: HumanStudy, where: str) -> None:
    if named != study.id:
        raise VotesError(
            f"{where}: votes of study {named!r}, but this study is {study.id}; add them to the study that "
            "they belong to"
        )


def _first(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    problem = error.errors()[0]
    return problem["loc"] or ("content",), problem["msg"]


def _line_of(text: str, field: object) -> int:
    """Return the line of a field of the file's object; 1 if it has none."""
    place = re.search(rf'(?<!\\)"{re.escape(str(field))}"\s*:', text)
    return text.count("\n", 0, place.start()) + 1 if place else 1


def _vote_lines(text: str, votes: Any) -> list[int]:
    """Return the line at which every one of `votes` begins; `text` is the JSON of a votes file."""
    start = re.search(r'(?<!\\)"votes"\s*:\s*\[', text)
    numbers: list[int] = []
    at = start.end() if start else len(text)
    decoder = json.JSONDecoder()
    while (place := re.compile(r"[\s,]*").match(text, at)) and text[place.end() : place.end() + 1] not in (
        "]",
        "",
    ):
        numbers.append(text.count("\n", 0, place.end()) + 1)
        _, at = decoder.raw_decode(text, place.end())
    count = len(votes) if isinstance(votes, list) else 0
    return numbers if len(numbers) == count else [1] * count  # the name is escaped, or inside another field
