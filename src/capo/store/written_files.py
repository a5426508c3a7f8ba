"""The record of the files that capo has written for an artifact that is not committed yet.

    manifests/NAME.written.jsonl           the files that the main process wrote
    manifests/NAME.written/WRITER.jsonl    those of other processes, one file each

Every process appends to a file of its own, since appending from several machines is not safe on a network
file system. Readers merge them.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from capo.engine.shard_work import MAIN
from capo.store import atomic
from capo.store.errors import explain_damage, explain_os_errors
from capo.store.manifest import Description, canonical, describe_bytes

SUFFIX = ".written"
LINES = ".jsonl"

LINE = "line"
"""The field of a line with the digest of its other fields."""

FIELDS = {"path", "bytes", "blake2b", "header", "footer"}

Versions = dict[str, list[Description]]
"""For each file, the contents it may have: more than one after it was overwritten."""


class WrittenFiles:
    """JSON Lines files with a line for every file written, added before the file appears.

    They say which files of a folder are capo's, and may be removed, and what they contain. A crash may leave
    a line whose file never appeared, so a file matches the record if it has any of the recorded contents.
    """

    def __init__(self, path: Path, writer: str) -> None:
        """`path` is `manifests/NAME.written`; `writer` names this process."""
        self.path = path.with_name(path.name + LINES)
        """The main process's file."""
        self._folder = path
        self._own = self.path if writer == MAIN else path / (writer + LINES)

    def read(self) -> Versions | None:
        """Return the files on record, None without a record; raises `WorkspaceError` for a changed line."""
        others = sorted(self._folder.glob(f"*{LINES}"))
        texts = {path: text for path in (self.path, *others) if (text := _read(path)) is not None}
        if not texts:
            return None
        versions: Versions = {}
        for path, text in texts.items():
            with explain_damage(path):
                for row in filter(None, map(_row, text.split("\n"))):
                    add_versions(versions, {row.pop("path"): row})
        return versions

    def start(self) -> None:
        """Begin an empty record."""
        with explain_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self._remove_others()

    def add(self, files: Mapping[str, Description]) -> None:
        """Append files that are about to appear."""
        self._own.parent.mkdir(exist_ok=True)
        handle = os.open(self._own, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        # A buffered file writes all of it or raises, also on a disk that is nearly full.
        with os.fdopen(handle, "ab") as record:
            # The newline in front ends a line that a crash cut off.
            record.write(("\n" + "\n".join(_line(*item) for item in files.items())).encode())
        atomic.flush(self._own)

    def replace(self, versions: Versions) -> None:
        """Rewrite the record, in one file."""
        lines = [_line(path, described) for path, known in versions.items() for described in known]
        with atomic.write_file(self.path) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")
        self._remove_others()

    def merge(self) -> None:
        """Gather the record in the main process's file."""
        if self._folder.is_dir():
            self.replace(self.read() or {})

    def remove(self) -> None:
        """Remove the record, once a manifest has taken its place or its files are gone."""
        self.path.unlink(missing_ok=True)
        self._remove_others()

    def _remove_others(self) -> None:
        if self._folder.is_dir():
            shutil.rmtree(self._folder)


def remove_superseded(records: Path) -> None:
    """Remove the records whose artifact has a manifest: a crash kept the commit from removing them."""
    for path in [*records.rglob(f"*{SUFFIX}{LINES}"), *records.rglob(f"*{SUFFIX}")]:
        record = path.with_name(path.name.removesuffix(LINES))
        if path.exists() and record.with_suffix(".json").exists():
            WrittenFiles(record, MAIN).remove()


def add_versions(versions: Versions, files: Mapping[str, Description]) -> Versions:
    """Add one more content for each of `files` to `versions`, which is returned."""
    for path, described in files.items():
        known = versions.setdefault(path, [])
        if described not in known:
            known.append(described)
    return versions


def _line(path: str, described: Description) -> str:
    row = {"path": path, **described}
    return json.dumps(row | {LINE: describe_bytes(canonical(row).encode())["blake2b"]})


def _row(line: str) -> Description | None:
    """Return what a line says; None for one that a crash cut off, whose file never appeared.

    Raises `ValueError` for a line that is whole and does not have its digest.
    """
    try:
        row = dict(json.loads(line))
    except (ValueError, TypeError) as error:
        if line.endswith('"}'):
            raise ValueError(f"a line is malformed: {error}") from error
        return None
    digest = row.pop(LINE, None)  # versions before 0.2 wrote none
    if not row.keys() <= FIELDS or digest not in (None, describe_bytes(canonical(row).encode())["blake2b"]):
        raise ValueError(f"the line of {row.get('path')} does not have its digest")
    return row


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
