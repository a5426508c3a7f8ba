"""Label Studio: tasks and labeling configurations with its `Pairwise` tag, and the annotations.

Written for the task format of Label Studio 1.13, in JSON; not for JSON-MIN, which leaves annotators out.
`Pairwise` compares two objects once, so every question is a project with a configuration of its own; the
tasks are the same. It has no tie: in a study with ties, an annotation without a choice is one.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from capo.people.human_study import HumanStudy
from capo.people.votes import Choice, VoteLine, VotesError, read_json, utc_moment

LOCAL_FILES = "/data/local-files/?d="
"""The address under which Label Studio serves files of its own machine."""


def tasks(study: HumanStudy, address: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """Return one task per pair, catch trials included. `address` is that of the folder with `images/`."""
    if not address.endswith(("/", "=")):
        address += "/"
    return [
        {
            "data": {
                "study": study.id,
                "pair": pair.pair,
                "prompt": pair.prompt,
                "left": address + pair.left.file,
                "right": address + pair.right.file,
            }
        }
        for pair in study.pairs
    ]


def configuration(study: HumanStudy, question: str) -> str:
    """Return the labeling configuration of a question, whose name is that of the `Pairwise` control."""
    text = next(each.text for each in study.questions if each.name == question)
    header = text + (" Submit without a choice if neither is better." if study.tie else "")
    image = '    <View style="flex: 50%"><Image name="{0}" value="${0}"/></View>'
    return "\n".join(
        (
            "<View>",
            f"  <Header value={quoteattr(header)}/>",
            '  <Text name="prompt" value="$prompt"/>',
            f'  <Pairwise name={quoteattr(question)} toName="left,right"/>',
            '  <View style="display: flex; gap: 1em">',
            image.format("left"),
            image.format("right"),
            "  </View>",
            "</View>",
            "",
        )
    )


def read_annotations(path: Path, study: HumanStudy) -> tuple[list[VoteLine], int]:
    """Read an export of annotated tasks; returns the votes, and the number of annotations without a choice.

    Skipped tasks and predictions are ignored. Raises `VotesError` with the file and the place in it for
    tasks of another study, and for annotations that are not of this configuration.
    """
    values = read_json(path)
    if not isinstance(values, list):
        raise VotesError(f"{path}: not an export of Label Studio; export the project as JSON")
    pairs = {pair.pair for pair in study.pairs}
    votes: dict[tuple[str, str, str], VoteLine] = {}
    without = 0
    for number, task in enumerate(values):
        where = f"{path}: task {number + 1}"
        data = task.get("data") if isinstance(task, dict) else None
        annotations = task.get("annotations") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise VotesError(f"{where}: no data or no annotations; export as JSON, not as JSON-MIN")
        if data.get("study") != study.id or str(data.get("pair")) not in pairs:
            raise VotesError(
                f"{where}: pair {_shown(data.get('pair'))} of study {_shown(data.get('study'))}, but this is "
                f"{study.id}"
            )
        for annotation in annotations:
            for vote in _votes(annotation, data["pair"], study, where):
                if vote is None:
                    without += 1
                elif votes.setdefault((vote.rater, *vote.key), vote) is not vote:
                    raise VotesError(f"{where}: two annotations of {vote.rater}; remove one in Label Studio")
    return list(votes.values()), without


def _votes(annotation: Any, pair: str, study: HumanStudy, where: str) -> Iterable[VoteLine | None]:
    """Yield the votes of an annotation, None for a choice that was not made."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise VotesError(f"{where}: an annotation without a result; export as JSON")
    if annotation.get("was_cancelled"):
        return
    questions = [question.name for question in study.questions]
    results = [
        each for each in annotation["result"] if isinstance(each, dict) and each.get("type") == "pairwise"
    ]
    if not results:
        if study.tie and len(questions) == 1:
            yield _vote(annotation, pair, questions[0], "tie", study, where)
        else:  # with several questions, nothing says which one this project asks
            yield None
    for result in results:
        match result:
            case {"from_name": str(question), "value": {"selected": "left" | "right" as choice}} if (
                question in questions
            ):
                yield _vote(annotation, pair, question, choice, study, where)
            case _:
                raise VotesError(f"{where}: the control {_shown(result)} is not of an exported configuration")


def _vote(
    annotation: dict[str, Any], pair: str, question: str, choice: Choice, study: HumanStudy, where: str
) -> VoteLine:
    person = annotation.get("completed_by")
    number = person.get("id") if isinstance(person, dict) else person
    seconds = annotation.get("lead_time")
    if not isinstance(number, int) or not 0 <= number < 10**18:
        raise VotesError(f"{where}: completed_by {_shown(person)} names no annotator; export as JSON")
    if seconds is not None and (not isinstance(seconds, int | float) or not 0 <= seconds < 1e9):
        raise VotesError(f"{where}: lead_time {_shown(seconds)} is not a number of seconds")
    try:
        at = utc_moment(annotation.get("created_at"))
    except ValueError as error:
        raise VotesError(
            f"{where}: created_at {_shown(annotation.get('created_at'))} is not a time"
        ) from error
    return VoteLine(
        study=study.id, rater=f"label-studio-{number}", source="label-studio", pair=pair, question=question,
        choice=choice, swapped=False, ms=None if seconds is None else round(1000 * seconds),
        at=at,
    )  # fmt: skip


def _shown(value: Any) -> str:
    """Return a value of the file as a message shows it."""
    return repr(value)[:100]
