"""Manifests: what an artifact was made from, what it consists of, and which inputs have changed."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from capo.store.errors import WorkspaceError
from capo.store.locations import only_moved

SCHEMA = 1
"""The version of the manifests and of the layout of artifacts."""

MANIFESTS = "manifests"
"""The folder of a run directory with the manifests and the other records of its artifacts."""

LONGEST = 60
"""Characters of a value in a message."""

REMAKE = "remove it and rerun the same command to remake the artifact"

SEAL = "blake2b"
"""The field of a record with the digest of all others; records of earlier versions have none."""

DIGEST = re.compile(r"(?<![\w@/])(?:blake2b:)?[0-9a-f]{32,}\b")
"""A digest of contents, in a text that identifies something. A commit, after `@`, is none."""

LIBRARIES = ("capo-diffusion", "torch", "diffusers", "transformers", "peft", "numpy", "pyarrow")


Description = dict[str, Any]
"""A file's length in `bytes`, its digest `blake2b`, and that of the `header` of tensors or the `footer` of a
table."""


@dataclass(frozen=True)
class Manifest:
    """The inputs and the contents of a committed artifact."""

    artifact: str
    schema: int
    inputs: dict[str, Any]
    files: dict[str, Description]
    summary: dict[str, Any]
    versions: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """The digest of the contents of all files, by which other artifacts refer to this one."""
        contents = {
            name: {"bytes": described["bytes"], "blake2b": described["blake2b"]}
            for name, described in self.files.items()
        }
        return hashlib.blake2b(canonical(contents).encode(), digest_size=16).hexdigest()


def describe(path: Path) -> Description:
    """Return the length and the digest of a file."""
    return {"bytes": path.stat().st_size, "blake2b": hash_file(path).hexdigest()}


def hash_file(path: Path) -> "hashlib.blake2b":
    """Return the hash of a file, to which what is appended can be added."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    return digest


def describe_bytes(data: bytes) -> Description:
    """Return what `describe` returns for a file with these contents."""
    return {"bytes": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}


def same_content(one: Description, other: Description) -> bool:
    """Report whether two descriptions are of the same bytes."""
    return bool(one["bytes"] == other["bytes"] and one["blake2b"] == other["blake2b"])


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that affect results."""
    return {library: version(library) for library in LIBRARIES}


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None if the file does not exist, `WorkspaceError` if it is malformed."""
    record = read_record(path)
    if record is None:
        return None
    files, summary = record.get("files"), record.get("summary")
    if (
        not isinstance(summary, dict)
        or not isinstance(files, dict)
        or not all(map(_is_description, files.values()))
    ):
        raise WorkspaceError(f"{path} is damaged (its files or summary are malformed); {REMAKE}")
    return Manifest(record["artifact"], SCHEMA, record["inputs"], files, summary, record["versions"])


def read_record(path: Path) -> dict[str, Any] | None:
    """Read the JSON object that a manifest, or the record of a begun artifact, consists of.

    Returns None if the file does not exist. Raises `WorkspaceError` if it is malformed, has another digest
    than its own, or is of another layout.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged ({error}); {REMAKE}") from error
    if not isinstance(record, dict):
        raise WorkspaceError(f"{path} is damaged (not a JSON object); {REMAKE}")
    if record.get("schema") != SCHEMA:
        raise WorkspaceError(
            f"{path} has layout {record.get('schema')}, but this version of capo reads layout {SCHEMA}; "
            "choose another run directory"
        )
    try:
        check_seal(record)
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged ({error}); {REMAKE}") from error
    if "artefact" in record:  # the spelling of version 0.1
        record["artifact"] = record.pop("artefact")
    kinds = {"artifact": str, "inputs": dict, "versions": dict}
    if wrong := [field for field, kind in kinds.items() if not isinstance(record.get(field), kind)]:
        raise WorkspaceError(f"{path} is damaged ({', '.join(wrong)} missing or malformed); {REMAKE}")
    return record


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of JSON values with the digest of its content, by which `check_seal` detects damage."""
    return {**record, SEAL: _digest_of(record)}


def check_seal(record: dict[str, Any]) -> None:
    """Remove the digest that `sealed` added to a record; raises `ValueError` if the content has another."""
    if (seal := record.pop(SEAL, None)) is not None and seal != _digest_of(record):
        raise ValueError("its content does not have the recorded digest")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields whose values differ, with both values; a missing field counts as None.

    A branch of the Hub does not differ from a commit, since which commit the branch was at is unknown. A path
    does not differ if its content is the same.
    """
    fields = [*new, *(field for field in old if field not in new)]
    values = {field: (old.get(field), new.get(field)) for field in fields}
    return {
        field: (before, after)
        for field, (before, after) in values.items()
        if not alike(before, after) and not only_moved(field, old, new, alike)
    }


def alike(one: Any, other: Any) -> bool:
    """Compare two values, texts word by word (a base and its LoRAs are joined by `+`).

    `owner/name@main` equals `owner/name@COMMIT`, a digest equals a former one of the same content, and
    `Unknown` equals everything.
    """
    if one == other or isinstance(one, Unknown) or isinstance(other, Unknown):
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    pairs = zip_longest(re.split(r"([\s+*])", one), re.split(r"([\s+*])", other), fillvalue="")
    return all(a == b or _same(a, b) or _same(b, a) for a, b in pairs)


class Unknown(str):
    """The reason why an input cannot be identified, such as a missing file, in place of the input."""


def identify(field: str, find: Callable[[], Any]) -> Any:
    """Return what `find` identifies, or the reason why it fails, which names `field`, as `Unknown`."""
    try:
        return find()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        named = str(error).startswith((field, field.partition(".")[0] + "."))
        return Unknown(error if named else f"{field}: {error}")


_FORMER: dict[str, Callable[[], str]] = {}


def also_known_as(digest: str, former: Callable[[], str]) -> None:
    """Make `alike` accept the digest that an earlier version computed for the same content."""
    _FORMER[digest] = former


def explain_change(field: str, old: Any, new: Any) -> str:
    """Describe a change in one line, such as `train.beta: 300 → 500`.

    Digests are not spelled out where nothing else differs. Long texts with the same number of words are
    reduced to the words that differ.
    """
    if field.startswith("@"):
        return f"{field[1:]} changed"
    if (names := _changed_contents(old, new)) is not None:
        return f"{field}: contents{_shorten(f' of {names}') if names else ''} changed"
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > LONGEST:
        old, new = _differing_words(old, new)
    return f"{field}: {_shorten(old)} → {_shorten(new)}"


def canonical(value: Any) -> str:
    """Write a value as JSON, equal values as equal text; NaN is an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: Any) -> str:
    """Write a value as indented JSON, for files that people read too; NaN is an error."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Write one JSON object per line, as UTF-8; NaN is an error."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()


def _shorten(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= LONGEST:
        return text
    is_path = text.startswith("/")  # whose end says more
    return "..." + text[3 - LONGEST :] if is_path else text[: LONGEST - 3] + "..."


def _changed_contents(old: Any, new: Any) -> str | None:
    """Return the words before the digests that differ, joined; None if the values differ in anything else."""
    if not isinstance(old, str) or not isinstance(new, str) or old == new:
        return None
    if DIGEST.sub("#", old) != DIGEST.sub("#", new):
        return None
    words = old.split()
    changed = [i for i, (a, b) in enumerate(zip(words, new.split(), strict=True)) if a != b]
    before = [words[i - 1] for i in changed if i > 0]
    return ", ".join(word for word in before if word != "+" and not DIGEST.search(word))


def _differing_words(old: str, new: str) -> tuple[str, str]:
    """Reduce two texts with the same number of words to the words that differ."""
    pairs = list(zip_longest(old.split(), new.split()))
    differing = [(a, b) for a, b in pairs if a != b]
    if any(None in pair for pair in pairs) or not differing:
        return old, new
    return " ".join(a for a, _ in differing), " ".join(b for _, b in differing)


def _digest_of(record: Mapping[str, Any]) -> str:
    content = {field: value for field, value in record.items() if field != SEAL}
    # Twice, so that keys that are numbers are sorted as the texts they become.
    text = canonical(json.loads(canonical(content)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_description(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("bytes"), int)
        and isinstance(value.get("blake2b"), str)
    )


def _same(one: str, other: str) -> bool:
    return _branch_of(one, other) or (one in _FORMER and _FORMER[one]() == other)


def _branch_of(vague: str, exact: str) -> bool:
    name, _, commit = exact.partition("@")
    return vague == f"{name}@main" and re.fullmatch(r"[0-9a-f]{40}", commit) is not None
