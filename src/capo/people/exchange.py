"""Hand a study to another tool and take its results, or hand the votes to a trainer."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from capo.people import label_studio, rapidata
from capo.people.analysis import Judgment, judgments
from capo.people.collect import store_lines
from capo.people.human_study import (
    IMAGES,
    PAGE,
    HumanStudy,
    Key,
    check_study_images,
    read_key,
    read_study,
)
from capo.people.labels import write_labels
from capo.people.screening import screen
from capo.people.votes import VoteLine, VotesError, collected_votes, read_json
from capo.store import atomic

Layout = Literal["rapidata", "label-studio", "pick-a-pic"]


def export_study(
    folder: Path,
    to: Path,
    layout: Layout,
    question: str | None = None,
    address: str = label_studio.LOCAL_FILES,
) -> dict[str, Any]:
    """Write the study in `folder` for another tool into the new folder `to`, and return what it contains.

    `rapidata` and `label-studio` export the pairs of every question, without models' names; `address` says
    where Label Studio finds the images. `pick-a-pic` exports the votes that count on one question, the
    first by default.

    Raises `HumanStudyError` for a damaged study, and `VotesError` for labels without votes.
    """
    study = read_study(folder)
    key = read_key(folder, study)
    check_study_images(folder, study)
    names = [each.name for each in study.questions]
    if question is not None and question not in names:
        raise ValueError(f"--question {question}: the study asks {', '.join(names)}")
    with atomic.create_folder(to) as place:
        if layout == "pick-a-pic":
            judged = _counted(folder, study, key, question or names[0])
            return {"directory": str(to), **write_labels(place, folder, study, key, judged)}
        shutil.copytree(folder / PAGE / IMAGES, place / IMAGES)
        chosen = names if question is None else [question]
        if layout == "label-studio":
            exported = label_studio.tasks(study, address)
            _write(place / "tasks.json", exported)
            for name in chosen:
                (place / f"{name}.xml").write_text(label_studio.configuration(study, name), encoding="utf-8")
            return {"directory": str(to), "pairs": len(exported), "questions": chosen}
        jobs = {name: rapidata.compare_job(study, key, name) for name in chosen}
        for name, job in jobs.items():
            _write(place / f"{name}.json", job)
        first = jobs[chosen[0]]
        return {
            "directory": str(to),
            "pairs": len(first["datapoints"]),
            "questions": chosen,
            "equal_images": rapidata.equal_images(study, key),
            "long_prompts": rapidata.long_prompts(first),
        }


def import_results(folder: Path, path: Path) -> dict[str, Any]:
    """Add the results of Rapidata or Label Studio in a JSON file to the study in `folder`.

    Raises `VotesError` for a file of neither, and for votes that cannot count.
    """
    study = read_study(folder)
    without = 0
    votes: list[VoteLine]
    if isinstance(read_json(path), list):
        votes, without = label_studio.read_annotations(path, study)
        name = source = "label-studio"
        if len(study.questions) > 1 and votes:
            name += f"-{_only_question(path, votes)}"
    else:
        question, votes = rapidata.read_results(path, study, read_key(folder, study))
        source, name = "rapidata", f"rapidata-{question}"
    if not votes:
        raise VotesError(f"{path}: no votes")
    outcome = store_lines(folder, study, name, votes)
    return {
        "source": source,
        "outcome": outcome,
        "votes": len(votes),
        "raters": len({vote.rater for vote in votes}),
        "without_choice": without,
    }


def _only_question(path: Path, votes: Sequence[VoteLine]) -> str:
    questions = sorted({vote.question for vote in votes})
    if len(questions) > 1:
        raise VotesError(f"{path}: annotations of {' and '.join(questions)}; export every project by itself")
    return questions[0]


def _counted(folder: Path, study: HumanStudy, key: Key, question: str) -> list[Judgment]:
    votes = collected_votes(folder, study)
    judged = judgments(votes, key, screen(votes, key, study.tie))
    found = [each for each in judged if each.counted and each.vote.question == question]
    if not found:
        raise VotesError(f"study {study.id}: no votes that count on {question}; `capo people add` adds votes")
    return found


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
