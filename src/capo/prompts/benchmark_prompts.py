"""Prompts of public benchmarks, in the files that their authors publish, as `geneval:PATH`.

PATH is the file, or the folder that holds it under its official name. Categories are the benchmark's own;
metadata hold what its evaluation reads. A benchmark in few files may also be a data set on the Hub that has
them under their official names, as `partiprompts:hub:owner/name`.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from capo.prompts.compbench_files import find_compbench, read_compbench
from capo.prompts.dpg_questions import QUESTIONS, find_questions, read_questions
from capo.prompts.files import json_objects, json_value, lines, table_rows
from capo.prompts.rows import SourceRow
from capo.prompts.text_rules import PromptsError

STYLES = ("anime", "concept-art", "paintings", "photo")


@dataclass(frozen=True)
class BenchmarkFiles:
    """The prompt files of a public benchmark: a finder and a reader."""

    find: Callable[[Path], list[Path]]
    """Maps a file or folder to the benchmark's files."""
    read: Callable[[list[Path]], Iterator[SourceRow]]
    names: tuple[str, ...] = ()
    """The official names of all files; empty if they are too many to name."""


def find_benchmark(name: str, path: Path) -> list[Path]:
    """Return the files of a benchmark; raises `PromptsError` naming one that is missing."""
    files = BENCHMARKS[name].find(path)
    for file in files:
        if not file.is_file():
            raise PromptsError(f"{name}:{path}: no {file}")
    return files


def read_benchmark(name: str, path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a benchmark, in its order."""
    return BENCHMARKS[name].read(find_benchmark(name, path))


def official_names(name: str) -> tuple[str, ...]:
    """Return the names of a benchmark's files; raises `PromptsError` if they are too many to name."""
    names = BENCHMARKS[name].names
    if not names:
        raise PromptsError(
            f"{name}: read from the Hub only if it is in few files; name a folder with its files"
        )
    return names


def _named(read: Callable[[list[Path]], Iterator[SourceRow]], *names: str) -> BenchmarkFiles:
    """Return a benchmark in files of these names: a path is the only file, or a folder that has them."""
    return BenchmarkFiles(
        lambda path: [path / name for name in names] if path.is_dir() else [path], read, names
    )


def _partiprompts(files: list[Path]) -> Iterator[SourceRow]:
    # Quotation marks are part of the prompts: nothing in this table is quoted.
    for number, row in table_rows(str(files[0]), files[0].read_bytes(), "\t", csv.QUOTE_NONE):
        place = f"{files[0]}:{number}"
        text, category = _text(row, "Prompt", place), _text(row, "Category", place)
        metadata = {name: value for name, value in row.items() if name not in ("Prompt", "Category")}
        yield SourceRow(text.strip(), category, metadata, place)


def _geneval(files: list[Path]) -> Iterator[SourceRow]:
    for number, row in json_objects(str(files[0]), files[0].read_bytes()):
        place = f"{files[0]}:{number}"
        text, tag = _text(row, "prompt", place), _text(row, "tag", place)
        if "include" not in row:
            raise PromptsError(
                f"{place}: no field `include`, which lists the objects that the image must show"
            )
        metadata = {name: value for name, value in row.items() if name != "prompt"}
        yield SourceRow(text.strip(), tag, metadata, place)


def _geneval2(files: list[Path]) -> Iterator[SourceRow]:
    for number, row in json_objects(str(files[0]), files[0].read_bytes()):
        place = f"{files[0]}:{number}"
        text, atoms = _text(row, "prompt", place), row.get("atom_count")
        if not isinstance(atoms, int):
            raise PromptsError(f"{place}: atom_count must be the number of the prompt's atoms, not {atoms!r}")
        metadata = {name: value for name, value in row.items() if name != "prompt"}
        yield SourceRow(text.strip(), f"{atoms} atoms", metadata, place)


def _dpg_files(path: Path) -> list[Path]:
    """Return the files of prompts, and after them that of the questions if it is there."""
    prompts = [path] if not path.is_dir() else sorted(path.glob("*.txt")) or [path / "dpg_prompts.jsonl"]
    return prompts + find_questions(path)


def _dpg(files: list[Path]) -> Iterator[SourceRow]:
    questions = read_questions(files[-1]) if files[-1].name == QUESTIONS else {}
    for row in _dpg_prompts([file for file in files if file.name != QUESTIONS]):
        item = row.metadata["item_id"]
        more = {"questions": questions[item]} if item in questions else {}
        yield replace(row, metadata={**row.metadata, **more})


def _dpg_prompts(files: list[Path]) -> Iterator[SourceRow]:
    for file in files:
        if file.suffix == ".jsonl":
            for number, row in json_objects(str(file), file.read_bytes()):
                place = f"{file}:{number}"
                text, item = _text(row, "prompt", place), _text(row, "item_id", place)
                yield SourceRow(text.strip(), None, {"item_id": item}, place)
        else:
            text = "\n".join(line for _, line in lines(str(file), file.read_bytes())).strip()
            yield SourceRow(text, None, {"item_id": file.stem}, str(file))


def _genai_files(path: Path) -> list[Path]:
    """Return the file of prompts and the file of skills next to it."""
    prompts = path / "genai_image.json" if path.is_dir() else path
    skills = prompts.with_name(re.sub(r"(image|prompts)\.jsonl?$", "skills.json", prompts.name))
    return [prompts, skills]


def _genai(files: list[Path]) -> Iterator[SourceRow]:
    """Read `genai_image.json`, which maps ids to objects, or the same objects as JSON Lines."""
    prompts, skill_file = files
    skills: dict[int, list[str]] = {}
    for skill, ids in json_value(str(skill_file), skill_file.read_bytes()).items():
        for number in ids:
            skills.setdefault(int(number), []).append(skill)
    data = prompts.read_bytes()
    if prompts.suffix == ".jsonl":
        rows = [row for _, row in json_objects(str(prompts), data)]
    else:
        rows = [{"id": key, **row} for key, row in json_value(str(prompts), data).items()]
    for number, row in enumerate(rows, start=1):
        place = f"{prompts}:{number}"
        text, key = _text(row, "prompt", place), _text(row, "id", place)
        known = skills.get(int(key), [])
        level = next((level for level in ("advanced", "basic") if level in known), None)
        yield SourceRow(text.strip(), level, {"id": key, "skills": known}, place)


def _drawbench(files: list[Path]) -> Iterator[SourceRow]:
    """Read the published table, or its prompts alone, one per line."""
    file, data = files[0], files[0].read_bytes()
    if file.suffix == ".csv":
        for number, row in table_rows(str(file), data, ","):
            place = f"{file}:{number}"
            text, category = _text(row, "Prompts", place), _text(row, "Category", place)
            yield SourceRow(text.strip(), category, place=place)
    else:
        for number, line in lines(str(file), data):
            yield SourceRow(line.strip(), place=f"{file}:{number}")


def _hpdv2(files: list[Path]) -> Iterator[SourceRow]:
    """Read a JSON list of prompts for every style, or the prompts of one style, one per line."""
    for file in files:
        if file.suffix == ".json":
            for index, text in enumerate(json_value(str(file), file.read_bytes())):
                place = f"{file}:{index + 1}"
                if not isinstance(text, str):
                    raise PromptsError(f"{place}: {text!r} is not text")
                yield SourceRow(text.strip(), file.stem, {"style": file.stem, "index": index}, place)
        else:
            for number, line in lines(str(file), file.read_bytes()):
                yield SourceRow(line.strip(), place=f"{file}:{number}")


def _text(row: dict[str, object], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise PromptsError(f"{place}: no text in {name}")
    return value


BENCHMARKS = {
    "partiprompts": _named(_partiprompts, "PartiPrompts.tsv"),
    "geneval": _named(_geneval, "evaluation_metadata.jsonl"),
    "geneval2": _named(_geneval2, "geneval2_data.jsonl"),
    "dpg": BenchmarkFiles(_dpg_files, _dpg),
    "t2i-compbench": BenchmarkFiles(find_compbench, read_compbench),
    "genai-bench": BenchmarkFiles(_genai_files, _genai),
    "drawbench": _named(_drawbench, "drawbench.csv"),
    "hpdv2": _named(_hpdv2, *(f"{style}.json" for style in STYLES)),
}
"""Benchmarks by the word before the colon in `prompts.source`."""
