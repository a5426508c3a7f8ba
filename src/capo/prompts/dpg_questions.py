"""The questions of DPG-Bench: `dpg_bench.csv`, which its authors publish beside the prompts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capo.prompts.files import table_rows
from capo.prompts.text_rules import PromptsError

QUESTIONS = "dpg_bench.csv"
PUBLISHED = "github.com/TencentQQGYLab/ELLA, dpg_bench/dpg_bench.csv"


def find_questions(prompts: Path) -> list[Path]:
    """Return the file of questions in the folder of the prompts or the one above it, or nothing."""
    folder = prompts if prompts.is_dir() else prompts.parent
    beside = (folder / QUESTIONS, folder.parent / QUESTIONS)
    return [file for file in beside if file.is_file()][:1]


def read_questions(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of every item in order.

    A question has `id`, `question`, `category` (such as `entity - whole`), `depends` (ids of the questions
    that must be answered yes first), and `first: true` if it is the first of the file.
    """
    items: dict[str, dict[int, dict[str, Any]]] = {}
    for place, row in _rows(file):
        number = _number(row["proposition_id"], place, "proposition_id")
        parents = [part for part in row["dependency"].split(",") if part.strip()]
        depends = [_number(part, place, "dependency") for part in parents]
        question = {
            "id": number,
            "question": row["question_natural_language"],
            "category": row["tuple"].partition("(")[0].strip(),
            "depends": [parent for parent in depends if parent],
        }
        first = {} if items else {"first": True}
        items.setdefault(row["item_id"], {})[number] = question | first
    return {item: list(questions.values()) for item, questions in items.items()}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    needed = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
    for number, row in table_rows(str(file), file.read_bytes(), ","):
        place = f"{file}:{number}"
        values = {name: row.get(name) for name in needed}
        if missing := [name for name, value in values.items() if not isinstance(value, str)]:
            raise PromptsError(f"{place}: no text in {missing[0]}; use the file of {PUBLISHED}")
        yield place, {name: str(value) for name, value in values.items()}


def _number(text: str, place: str, name: str) -> int:
    try:
        return int(float(text.strip()))
    except ValueError:
        raise PromptsError(f"{place}: {name} is {text!r}, not a number") from None
