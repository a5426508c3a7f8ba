"""The record of the files that capo has written for an artifact that is not committed yet."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from capo.store import atomic
from capo.store.manifest import Description

SUFFIX = ".written.jsonl"

Versions = dict[str, list[Description]]
"""For each file, the contents it may have: more than one after it was overwritten."""


class WrittenFiles:
    """A JSON Lines file with a line for every file written, added before the file appears.

    It says which files of a folder are capo's, and may be removed, and what they contain. A crash may leave a
    line whose file never appeared, so a file matches its record if it has any of the recorded contents.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Versions | None:
        """Return the files on record, or None without a record."""
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None
        versions: Versions = {}
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                described = {"bytes": row["bytes"], "blake2b": row["blake2b"]}
                described |= {"header": row["header"]} if "header" in row else {}
                add_versions(versions, {row["path"]: described})
            except (ValueError, KeyError, TypeError):
                continue  # a line that a crash cut off: its file never appeared
        return versions

    def start(self) -> None:
        """Begin an empty record."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def add(self, files: Mapping[str, Description]) -> None:
        """Append files that are about to appear."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            # The newline in front ends a line that a crash cut off.
            os.write(handle, ("\n" + "\n".join(_line(*item) for item in files.items())).encode())
        finally:
            os.close(handle)
        atomic.flush(self.path)

    def replace(self, versions: Versions) -> None:
        """Rewrite the record."""
        lines = [_line(path, described) for path, known in versions.items() for described in known]
        with atomic.write_file(self.path) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")

    def remove(self) -> None:
        """Remove the record, once a manifest has taken its place or its files are gone."""
        self.path.unlink(missing_ok=True)


def remove_superseded(records: Path) -> None:
    """Remove the records whose artifact has a manifest: a crash kept the commit from removing them."""
    for path in records.rglob(f"*{SUFFIX}"):
        if path.with_name(path.name.removesuffix(SUFFIX) + ".json").exists():
            path.unlink()


def add_versions(versions: Versions, files: Mapping[str, Description]) -> Versions:
    """Add one more content for each of `files` to `versions`, which is returned."""
    for path, described in files.items():
        known = versions.setdefault(path, [])
        if described not in known:
            known.append(described)
    return versions


def _line(path: str, described: Description) -> str:
    return json.dumps({"path": path, **described})
