"""Manifests: what an artifact was made from, what it consists of, and when that has changed."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from capo.store.errors import WorkspaceError

SCHEMA = 1
"""Version of the manifests and of the layout of artifacts."""

LONGEST = 60
"""Characters of a value that are shown."""

LIBRARIES = ("capo-diffusion", "torch", "diffusers", "transformers", "peft", "numpy", "pyarrow")


@dataclass(frozen=True)
class Manifest:
    """What a committed artifact is: its inputs, files (with bytes and blake2b) and summary."""

    artifact: str
    schema: int
    inputs: dict[str, Any]
    files: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """Of the contents of all files; what artifacts made from this one refer to."""
        return hashlib.blake2b(canonical(self.files).encode(), digest_size=16).hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Length and digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"bytes": path.stat().st_size, "blake2b": digest}


@cache
def versions() -> dict[str, str]:
    """Of the libraries that have a part in the results."""
    return {library: version(library) for library in LIBRARIES}


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object of a manifest file, None where there is none."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged ({error}); remove it") from error
    if record.get("schema") != SCHEMA:
        raise WorkspaceError(
            f"{path}: layout {record.get('schema')}, this version reads {SCHEMA}; "
            "choose another run directory"
        )
    if "artefact" in record:  # how version 0.1 spelled the field
        record["artifact"] = record.pop("artefact")
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields whose values differ, with both values; one that is not there counts as None.

    Where one names a branch of the Hub and the other a commit, nothing is known to differ.
    """
    fields = [*new, *(field for field in old if field not in new)]
    values = {field: (old.get(field), new.get(field)) for field in fields}
    return {field: (before, after) for field, (before, after) in values.items() if not alike(before, after)}


def alike(one: Any, other: Any) -> bool:
    """Whether two values are equal, `owner/name@main` and `owner/name@COMMIT` being so, word by word.

    A branch that was never fetched where it was written down does not say which commit it was at.
    """
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return one == other
    pairs = zip_longest(one.split(), other.split(), fillvalue="")
    return all(a == b or _branch_of(a, b) or _branch_of(b, a) for a, b in pairs)


def explain_change(field: str, old: Any, new: Any) -> str:
    """One line: `train.beta: 300 → 500`; digests of what came before are not spelt out.

    Of long texts with as many words, those that differ.
    """
    if field.startswith("@"):
        return f"{field[1:]} changed"
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > LONGEST:
        old, new = _apart(old, new)
    return f"{field}: {_short(old)} → {_short(new)}"


def canonical(value: Any) -> str:
    """JSON with one spelling a value; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: Any) -> str:
    """JSON for files that people read too; NaN is refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _apart(old: str, new: str) -> tuple[str, str]:
    """The words that differ, of texts with as many words."""
    pairs = list(zip_longest(old.split(), new.split()))
    apart = [(a, b) for a, b in pairs if a != b]
    if any(None in pair for pair in pairs) or not apart:
        return old, new
    return " ".join(a for a, _ in apart), " ".join(b for _, b in apart)


def _branch_of(vague: str, exact: str) -> bool:
    name, _, commit = exact.partition("@")
    return vague == f"{name}@main" and re.fullmatch(r"[0-9a-f]{40}", commit) is not None
