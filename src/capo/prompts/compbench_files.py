"""The files of T2I-CompBench: prompts of every category, and the lists beside them that its scores need."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capo.prompts.files import lines
from capo.prompts.rows import SourceRow
from capo.prompts.text_rules import PromptsError

COMPBENCH = ("color", "shape", "texture", "spatial", "non_spatial", "complex", "3d_spatial", "numeracy")
OBJECTS = "new_objects.txt"
"""The nouns that numeracy counts: one `singular - plural` per line."""
SUBSETS = {"spatial": "complex_val_spatial.txt", "action": "complex_val_action.txt"}
"""Complex prompts with a spatial relation only, or an action only; the others have both."""
LISTS = (OBJECTS, *SUBSETS.values())


def find_compbench(path: Path) -> list[Path]:
    """Return the files of prompts, of a folder those that exist, then the lists beside them."""
    if path.is_dir():
        named = [path / f"{category}_val.txt" for category in COMPBENCH]
        prompts = [file for file in named if file.is_file()] or named[:1]
    else:
        prompts = [path]
    beside = [prompts[0].with_name(name) for name in LISTS]
    return prompts + [file for file in beside if file.is_file() and file not in prompts]


def read_compbench(files: list[Path]) -> Iterator[SourceRow]:
    """Yield the prompts. Metadata has the number of the prompt in its category, `line`, from 0.

    With the lists, it also has `plurals` for numeracy: the nouns that the prompt may count, plural by
    singular; and `relations` for complex: `spatial`, `action` or `both`.
    """
    lists = {file.name: file for file in files[1:] if file.name in LISTS}
    plurals = _plurals(lists[OBJECTS]) if OBJECTS in lists else None
    subsets = {kind: _sentences(lists[name]) for kind, name in SUBSETS.items() if name in lists}
    for file in files:
        if file in lists.values():
            continue
        category = next((c for c in COMPBENCH if re.match(rf"{c}(_|\.|$)", file.name)), None)
        if category is None:
            raise PromptsError(f"{file}: its name must begin with one of {', '.join(COMPBENCH)}")
        for index, (number, line) in enumerate(_written(file)):
            text, metadata = line.strip(), dict[str, Any](line=index)
            if category == "numeracy" and plurals is not None:
                metadata["plurals"] = {s: p for s, p in plurals.items() if s in text or p in text}
            if category == "complex" and len(subsets) == len(SUBSETS):
                kinds = (kind for kind, sentences in subsets.items() if _sentence(text) in sentences)
                metadata["relations"] = next(kinds, "both")
            yield SourceRow(text, category, metadata, f"{file}:{number}")


def _plurals(file: Path) -> dict[str, str]:
    plurals: dict[str, str] = {}
    for number, line in _written(file):
        singular, dash, plural = line.partition(" - ")
        if not dash:
            raise PromptsError(f"{file}:{number}: {line!r} is not `singular - plural`")
        plurals[singular.strip().lower()] = plural.strip().lower()
    return plurals


def _sentences(file: Path) -> set[str]:
    return {_sentence(line) for _, line in _written(file)}


def _sentence(text: str) -> str:
    """Return the text up to its first period in lower case, by which the official code compares prompts."""
    return text.partition(".")[0].lower()


def _written(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    return ((n, line) for n, line in lines(str(file), file.read_bytes()) if line.strip())
