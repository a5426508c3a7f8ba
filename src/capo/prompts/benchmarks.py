"""Prompts of public benchmarks, in the files that their authors publish: `geneval:PATH` and the like.

PATH is the file, or the folder that holds it under its official name. Categories are the
benchmark's own; metadata hold what its evaluation asks for.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from capo.prompts.files import json_objects, json_value, lines, table_rows
from capo.prompts.rows import PromptsError, Row, check_text

COMPBENCH = ("color", "shape", "texture", "spatial", "non_spatial", "complex", "3d_spatial", "numeracy")
STYLES = ("anime", "concept-art", "paintings", "photo")


@dataclass(frozen=True)
class Benchmark:
    """How the files of a benchmark are found and read."""

    find: Callable[[Path], list[Path]]
    """The files, for a file or a folder."""
    read: Callable[[list[Path]], Iterator[tuple[str, Row]]]
    """Their prompts, each with its place: file and line."""


def find_benchmark(name: str, path: Path) -> list[Path]:
    """The files that a benchmark's prompts are in; raises `PromptsError` naming one that is not there."""
    files = BENCHMARKS[name].find(path)
    for file in files:
        if not file.is_file():
            raise PromptsError(f"{name}:{path}: no {file}")
    return files


def read_benchmark(name: str, path: Path) -> Iterator[Row]:
    """The prompts of a benchmark, in its order."""
    for place, row in BENCHMARKS[name].read(find_benchmark(name, path)):
        check_text(row.text, place)
        if row.text:
            yield row


def _named(*names: str) -> Callable[[Path], list[Path]]:
    """The path itself, or in a folder the files of these names."""
    return lambda path: [path / name for name in names] if path.is_dir() else [path]


def _partiprompts(files: list[Path]) -> Iterator[tuple[str, Row]]:
    # Quotation marks are part of the prompts: nothing in this table is quoted.
    for number, row in table_rows(str(files[0]), files[0].read_bytes(), "\t", csv.QUOTE_NONE):
        place = f"{files[0]}:{number}"
        text, category = _field(row, "Prompt", place).strip(), _field(row, "Category", place)
        yield place, Row(text, category, {n: v for n, v in row.items() if n not in ("Prompt", "Category")})


def _geneval(files: list[Path]) -> Iterator[tuple[str, Row]]:
    for number, row in json_objects(str(files[0]), files[0].read_bytes()):
        place = f"{files[0]}:{number}"
        text, tag = _field(row, "prompt", place), _field(row, "tag", place)
        if "include" not in row:
            raise PromptsError(f"{place}: no include, which says what must be seen")
        yield place, Row(text.strip(), tag, {name: value for name, value in row.items() if name != "prompt"})


def _dpg_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(path.glob("*.txt")) or [path / "dpg_prompts.jsonl"]


def _dpg(files: list[Path]) -> Iterator[tuple[str, Row]]:
    for file in files:
        if file.suffix == ".jsonl":
            for number, row in json_objects(str(file), file.read_bytes()):
                place = f"{file}:{number}"
                item = {"item_id": _field(row, "item_id", place)}
                yield place, Row(_field(row, "prompt", place).strip(), None, item)
        else:
            text = "\n".join(line for _, line in lines(str(file), file.read_bytes())).strip()
            yield str(file), Row(text, None, {"item_id": file.stem})


def _compbench(files: list[Path]) -> Iterator[tuple[str, Row]]:
    for file in files:
        category = next((c for c in COMPBENCH if re.match(rf"{c}(_|\.|$)", file.name)), None)
        if category is None:
            raise PromptsError(f"{file}: its name begins with none of {', '.join(COMPBENCH)}")
        for number, line in lines(str(file), file.read_bytes()):
            yield f"{file}:{number}", Row(line.strip(), category)


def _genai_files(path: Path) -> list[Path]:
    """The prompts and, beside them, the skills."""
    prompts = path / "genai_image.json" if path.is_dir() else path
    skills = prompts.with_name(re.sub(r"(image|prompts)\.jsonl?$", "skills.json", prompts.name))
    return [prompts, skills]


def _genai(files: list[Path]) -> Iterator[tuple[str, Row]]:
    """`genai_image.json` maps ids to objects; a list of them may also be JSON Lines."""
    prompts, skill_file = files
    skills: dict[int, list[str]] = {}
    for skill, ids in json_value(str(skill_file), skill_file.read_bytes()).items():
        for each in ids:
            skills.setdefault(int(each), []).append(skill)
    data = prompts.read_bytes()
    if prompts.suffix == ".jsonl":
        rows = [row for _, row in json_objects(str(prompts), data)]
    else:
        rows = [{"id": key, **row} for key, row in json_value(str(prompts), data).items()]
    for number, row in enumerate(rows, start=1):
        place = f"{prompts}:{number}"
        text, key = _field(row, "prompt", place).strip(), _field(row, "id", place)
        known = skills.get(int(key), [])
        level = next((each for each in ("advanced", "basic") if each in known), None)
        yield place, Row(text, level, {"id": key, "skills": known})


def _drawbench(files: list[Path]) -> Iterator[tuple[str, Row]]:
    """The published table, or its prompts alone, one a line."""
    file, data = files[0], files[0].read_bytes()
    if file.suffix == ".csv":
        for number, row in table_rows(str(file), data, ","):
            place = f"{file}:{number}"
            yield place, Row(_field(row, "Prompts", place).strip(), _field(row, "Category", place))
    else:
        for number, line in lines(str(file), data):
            yield f"{file}:{number}", Row(line.strip())


def _hpdv2(files: list[Path]) -> Iterator[tuple[str, Row]]:
    """A list of prompts for each style, or those of one style one a line, in any order."""
    for file in files:
        if file.suffix == ".json":
            for index, text in enumerate(json_value(str(file), file.read_bytes())):
                place = f"{file}:{index + 1}"
                if not isinstance(text, str):
                    raise PromptsError(f"{place}: {text!r} is not text")
                yield place, Row(text.strip(), file.stem, {"style": file.stem, "index": index})
        else:
            for number, line in lines(str(file), file.read_bytes()):
                yield f"{file}:{number}", Row(line.strip())


def _field(row: dict[str, object], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise PromptsError(f"{place}: no text in {name}")
    return value


BENCHMARKS = {
    "partiprompts": Benchmark(_named("PartiPrompts.tsv"), _partiprompts),
    "geneval": Benchmark(_named("evaluation_metadata.jsonl"), _geneval),
    "dpg": Benchmark(_dpg_files, _dpg),
    "t2i-compbench": Benchmark(_named(*(f"{category}_val.txt" for category in COMPBENCH)), _compbench),
    "genai-bench": Benchmark(_genai_files, _genai),
    "drawbench": Benchmark(_named("drawbench.csv"), _drawbench),
    "hpdv2": Benchmark(_named(*(f"{style}.json" for style in STYLES)), _hpdv2),
}
"""By the word before the colon of `prompts.source`."""
