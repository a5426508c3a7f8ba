"""Rapidata: the arguments of a compare job, and its results.

Written for the Python SDK 3.21.0, `client.job.create_compare_job_definition(**arguments)`. Reads results of
versions 3 and 4 of its aggregator, as `job.get_results()` returns them and JSON keeps them.

Rapidata does not say which votes are of the same person, and asks many people a few questions each. So every
vote is imported as that of another rater, `rapidata-QUESTION-PAIR-NUMBER`, without a time.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from capo.people.human_study import HumanStudy, Key, StudyPair
from capo.people.votes import Choice, VoteLine, VotesError, read_json, utc_moment

SDK = "3.21.0"
VERSIONS = ("3", "4")
LONGEST_CONTEXT = 400
"""Characters of a context above which Rapidata shortens it."""

UNSURE = ("Both", "Neither")


def compare_job(study: HumanStudy, key: Key, question: str) -> dict[str, Any]:
    """Return the arguments of a job for one question, with paths of images relative to the exported folder.

    Catch trials and pairs of equal images are left out: Rapidata has its own checks of people, and takes no
    equal images.
    """
    pairs = _pairs(study, key)
    text = next(each.text for each in study.questions if each.name == question)
    return {
        "name": f"{study.id} {question}",
        "instruction": text,
        "datapoints": [[pair.left.file, pair.right.file] for pair in pairs],
        "contexts": [pair.prompt for pair in pairs],
        "responses_per_datapoint": study.raters,
    }


def read_results(path: Path, study: HumanStudy, key: Key) -> tuple[str, list[VoteLine]]:
    """Read the results of a job; returns the question and the votes.

    Raises `VotesError` with the file and the place in it for results of other images or of another
    instruction, and for counts that disagree with the single votes.
    """
    values = read_json(path)
    info = values.get("info") if isinstance(values, dict) else None
    if not isinstance(info, dict) or not isinstance(values.get("results"), list):
        raise VotesError(f"{path}: not the results of a Rapidata job; save job.get_results() as JSON")
    version = str(info.get("version"))
    if version.partition(".")[0] not in VERSIONS or info.get("type", "Compare") != "Compare":
        raise VotesError(
            f"{path}: info: results of type {info.get('type')!r}, version {version}; capo reads compare jobs "
            f"of versions {' and '.join(VERSIONS)}"
        )
    question = _question(path, study, info.get("instruction"))
    at = _moment(path, info.get("createdAt"))
    pairs = {frozenset(_names(pair)): pair for pair in _pairs(study, key)}
    votes: dict[str, list[VoteLine]] = {}
    for number, result in enumerate(values["results"]):
        where = f"{path}: results[{number}]"
        pair, choices = _choices(result, pairs, where)
        if pair.pair in votes:
            raise VotesError(
                f"{where}: a second result of {pair.pair}; export the results of one job at a time"
            )
        if "tie" in choices and not study.tie:
            raise VotesError(f"{where}: votes for both or neither, but the study allows no ties")
        votes[pair.pair] = [
            VoteLine(
                study=study.id, rater=f"rapidata-{question}-{pair.pair}-{n}", source="rapidata",
                pair=pair.pair, question=question, choice=choice, swapped=False, ms=None, at=at,
            )
            for n, choice in enumerate(choices, 1)
        ]  # fmt: skip
    return question, [vote for group in votes.values() for vote in group]


def _pairs(study: HumanStudy, key: Key) -> list[StudyPair]:
    return [
        pair
        for pair in study.pairs
        if key.pairs[pair.pair].catch is None and pair.left.sha256 != pair.right.sha256
    ]


def _names(pair: StudyPair) -> tuple[str, str]:
    """Return the names by which results call the images of a pair: those of the files."""
    return PurePosixPath(pair.left.file).name, PurePosixPath(pair.right.file).name


def _choices(
    result: Any, pairs: Mapping[frozenset[str], StudyPair], where: str
) -> tuple[StudyPair, list[Choice]]:
    counts = result.get("aggregatedResults") if isinstance(result, dict) else None
    details = result.get("detailedResults") if isinstance(result, dict) else None
    if not isinstance(counts, dict) or not isinstance(details, list):
        raise VotesError(f"{where}: no aggregatedResults or no detailedResults; export the detailed results")
    pair = pairs.get(frozenset(counts) - set(UNSURE))
    if pair is None:
        raise VotesError(f"{where}: {', '.join(map(str, counts))} are not the images of a pair of this study")
    if result.get("context", pair.prompt) != pair.prompt and len(pair.prompt) <= LONGEST_CONTEXT:
        raise VotesError(f"{where}: its context is not the prompt of {pair.pair}")
    left, right = _names(pair)
    sides: dict[Any, Choice] = {left: "left", right: "right", "Both": "tie", "Neither": "tie"}
    chosen = [detail.get("votedFor") if isinstance(detail, dict) else None for detail in details]
    if unknown := [name for name in chosen if str(name) not in sides]:
        raise VotesError(f"{where}: a vote for {unknown[0]!r}, which is no image of {pair.pair}")
    if any(chosen.count(name) != count for name, count in counts.items()):
        raise VotesError(f"{where}: the counts disagree with the single votes: the file was changed")
    return pair, [sides[name] for name in chosen]


def _question(path: Path, study: HumanStudy, instruction: Any) -> str:
    names = {question.text: question.name for question in study.questions}
    if instruction is None and len(names) == 1:  # version 3 does not say
        return next(iter(names.values()))
    if not isinstance(instruction, str) or instruction not in names:
        raise VotesError(f"{path}: info: the instruction {instruction!r} is no question of study {study.id}")
    return names[instruction]


def _moment(path: Path, created: Any) -> str:
    try:
        return utc_moment(created)
    except ValueError as error:
        raise VotesError(f"{path}: info: createdAt {created!r} is not a time") from error


def long_prompts(job: Mapping[str, Any]) -> int:
    """Return how many prompts of a job Rapidata will shorten before people see them."""
    return sum(len(context) > LONGEST_CONTEXT for context in job["contexts"])


def equal_images(study: HumanStudy, key: Key) -> int:
    """Return how many pairs that are no catch trials have two equal images, and are left out."""
    return sum(about.catch is None for about in key.pairs.values()) - len(_pairs(study, key))
