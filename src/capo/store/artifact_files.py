"""The files of an artifact: written atomically, recorded with their digests, and verified when read."""

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from capo.store import atomic
from capo.store.errors import WorkspaceError, damaged, explain_damage
from capo.store.finished_files import finished_files
from capo.store.manifest import (
    MANIFESTS,
    Description,
    Manifest,
    describe,
    describe_bytes,
    hash_file,
    json_lines,
    pretty,
    read_manifest,
    same_content,
)
from capo.store.table_file import read_parquet, write_parquet
from capo.store.tensor_file import HashedFile, read_row, row_digests, write_tensors
from capo.store.written_files import SUFFIX, Versions, WrittenFiles, add_versions

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from capo.store.run_directory import Run

LATE = 120.0
"""Seconds after which a network file system shows the files of other machines; NFS caches folders for 60."""


class ArtifactFiles:
    """The files of one artifact; `relative` paths are relative to its `folder`.

    Only files that capo wrote belong to it. They are on record, in the manifest or, before the commit, in
    `WrittenFiles`, with digests that every reader checks. Any other file is never overwritten or removed.
    """

    def __init__(self, run: "Run", name: str) -> None:
        self.run, self.name = run, name
        self._single = f"{name}.parquet" if name in ("prompts", "pairs") else None
        """The only file, in the run directory itself, of an artifact that has no folder."""
        self.folder = run.path if self._single else run.path / name
        records = run.path / MANIFESTS
        self._begun_path = records / f"{name}.inputs.json"
        self._manifest_path = records / f"{name}.json"
        self._written = WrittenFiles(records / f"{name}{SUFFIX}", run.writer)
        self._known: Versions | None = None
        """The files on record. Kept, since an artifact may have thousands; None until they are read."""
        self._verified: set[str] = set()
        self._appended: dict[str, hashlib.blake2b] = {}
        """The hashes of the files that this process appended to."""
        self._manifest: tuple[tuple[int, ...], Manifest | None] = ((), None)
        """The manifest as last read, and which file that was."""
        self._recording = threading.RLock()
        """Held while the record and `_known` change: a thread may write checkpoints."""

    # Listing and finding.

    def files(self) -> list[str]:
        """List the artifact's files, sorted."""
        known = self._read_known()
        return [name for name in self._on_disk() if known is None or name in known]

    def has(self, relative: str) -> bool:
        """Report whether a file or a folder exists."""
        return self._place(relative).exists()

    def path(self, relative: str = "") -> Path:
        """Return the verified path of a file or folder, for libraries that read paths.

        Raises `WorkspaceError` naming a file that is missing, damaged, or not the artifact's.
        """
        place = self._place(relative) if relative else self.folder
        if not place.exists():
            raise WorkspaceError(f"{place} does not exist; rerun the {self.name} stage")
        if place.is_file():
            self._verify(relative)
        else:
            for name in self._on_disk(place):
                self._verify(name)
            self._check_complete(place)
        return place

    def wait_until_visible(self, paths: Iterable[str], limit: float = LATE) -> None:
        """Wait for files that other processes have written, which a network file system may show late.

        Raises `WorkspaceError` naming a file that does not appear within `limit` seconds.
        """
        until = time.monotonic() + limit
        for relative in paths:
            while not self.has(relative):
                if time.monotonic() > until:
                    raise WorkspaceError(
                        f"{self._place(relative)}: another process reported that it wrote this file, but it "
                        f"is not visible here after {limit:.0f} s; do all machines share the run directory?"
                    )
                # A change of its own makes this machine read the folder again.
                atomic.poke(self.folder)
                time.sleep(min(1.0, limit / 10))

    # Writing.

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file."""
        with self._writing(relative) as file:
            file.write(data)

    def write_json(self, relative: str, value: Any) -> None:
        """Write a value as indented JSON; NaN is an error."""
        self.write_bytes(relative, pretty(value).encode())

    def write_json_lines(self, relative: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a whole file of one JSON object per line; NaN is an error."""
        self.write_bytes(relative, json_lines(rows))

    def append_json_lines(self, relative: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to a file that `write_json_lines` wrote; this process reads it the first time alone."""
        place, data = self._open_place(relative), json_lines(rows)
        digest = self._appended.pop(relative, None) or hash_file(self.path(relative))
        digest.update(data)
        self._record({relative: {"bytes": place.stat().st_size + len(data), "blake2b": digest.hexdigest()}})
        atomic.append(place, data)
        self._appended[relative] = digest

    def write_table(self, relative: str, table: "pa.Table") -> None:
        """Write a Parquet file with a checksum for every page."""
        with self._writing(relative) as file:
            write_parquet(file, table)

    def write_tensors(self, relative: str, tensors: Mapping[str, "Tensor"]) -> None:
        """Write a safetensors file for `read_row`; equal tensors make equal bytes."""
        plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        with self._writing(relative) as file:
            write_tensors(file, plain, row_digests(plain))

    @contextmanager
    def write_directory(
        self, relative: str, described: Mapping[str, Description] | None = None
    ) -> Iterator[Path]:
        """Yield a temporary folder to fill; it replaces the folder `relative` as a whole.

        Files are read to hash them, except those that are in `described` by the end, by relative path.
        """
        place = self._open_place(relative)
        self._check_own(place)

        def record(temporary: Path) -> None:
            known, files = described or {}, {}
            for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
                name = path.relative_to(temporary).as_posix()
                files[f"{relative}/{name}"] = known.get(name) or describe(path)
            self._record(files)

        with atomic.write_folder(place, before_rename=record) as temporary:
            yield temporary

    def remove(self, relative: str) -> None:
        """Remove a file or folder if it exists; raises `WorkspaceError` if a file in it is not capo's."""
        self.run.check_writable()
        if self.has(relative):
            place = self._open_place(relative)
            self._check_own(place)
            atomic.remove(place)

    # Reading.

    def read_bytes(self, relative: str) -> bytes:
        """Read a file."""
        return self.path(relative).read_bytes()

    def read_json(self, relative: str) -> Any:
        """Read a JSON file."""
        with self._reading(relative) as path:
            return json.loads(path.read_text(encoding="utf-8"))

    def read_json_lines(self, relative: str) -> list[dict[str, Any]]:
        """Read a file of one JSON object per line."""
        with self._reading(relative) as path:
            # Not splitlines(): it would also cut at separators inside the strings.
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    def read_table(self, relative: str, columns: list[str] | None = None) -> "pa.Table":
        """Read a Parquet file, or some of its columns."""
        if relative in self._verified or not self.has(relative):
            with self._reading(relative) as path:
                return read_parquet(path, columns)
        import pyarrow as pa

        # The bytes that are verified are those that are parsed, and are read once.
        with explain_damage(self._place(relative)):
            data = self._place(relative).read_bytes()
        self._verify(relative, describe_bytes(data))
        with explain_damage(self._place(relative)):
            return read_parquet(pa.BufferReader(data), columns)

    def read_row(self, relative: str, row: int) -> "dict[str, Tensor]":
        """Read and verify one row of every tensor of a file that `write_tensors` wrote.

        Reads no other row, except of files of version 0.1, which are verified as a whole.
        """
        header = self._recorded(relative, "header")
        if header is None:
            from safetensors import safe_open

            with self._reading(relative) as path, safe_open(path, "pt") as file:
                return {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118
        with explain_damage(self._place(relative)):
            return read_row(self._place(relative), row, header)

    def read_columns(self, relative: str, columns: list[str]) -> "pa.Table":
        """Read columns of a Parquet file without the others, verified by the digest of its footer and by the
        checksums of their pages.

        For columns that are small compared with the rest. Files of versions that recorded no digest of the
        footer are verified as a whole.
        """
        footer = self._recorded(relative, "footer")
        if footer is None:
            return self.read_table(relative, columns)
        with explain_damage(self._place(relative)):
            return read_parquet(self._place(relative), columns, footer)

    # Records.

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None before the commit; raises `WorkspaceError` for a malformed one."""
        try:
            status = self._manifest_path.stat()
        except FileNotFoundError:
            return None
        file = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._manifest[0] != file:
            self._manifest = file, read_manifest(self._manifest_path)
        return self._manifest[1]

    def check_no_foreign_files(self, *, resume: bool) -> None:
        """Raise `WorkspaceError` if the artifact's folder contains files that capo did not write.

        An artifact that version 0.1 began has no record. Its files are accepted to `resume` it, but not to
        remove them.
        """
        known = self._read_known()
        if known is None and resume:
            return
        if foreign := [name for name in self._on_disk() if name not in (known or {})]:
            raise self._foreign(foreign)

    def _read_known(self) -> Versions | None:
        """Read the files on record; None if the artifact has no record, as before version 0.2."""
        with self._recording:
            manifest = self.manifest()
            self._known = self._written.read() if manifest is None else add_versions({}, manifest.files)
            return self._known

    def _recorded(self, relative: str, part: str) -> str | None:
        """Return the recorded digest of a `part` of a file; None if there is none, or more than one."""
        known = self._read_known() if self._known is None else self._known
        digests = [described.get(part) for described in (known or {}).get(relative, [])]
        return digests[0] if len(digests) == 1 else None

    def _record(self, files: Mapping[str, Description]) -> None:
        """Put files on record that are complete and about to be renamed into place."""
        self.run.check_writable()
        with self._recording:
            self._written.add(files)
            self._known = add_versions(self._known or {}, files)
            self._verified -= files.keys()

    def _on_disk(self, folder: Path | None = None) -> list[str]:
        """List all files in the artifact's folder or one inside it, capo's and others, sorted."""
        if self._single:
            return [self._single] if (self.folder / self._single).is_file() else []
        start = folder or self.folder
        prefix = "" if start == self.folder else f"{start.relative_to(self.folder).as_posix()}/"
        return sorted(name for name, _ in finished_files(start, prefix))

    def _sizes(self) -> dict[str, int]:
        """Return the length of every file on disk."""
        if self._single:
            return {name: (self.folder / name).stat().st_size for name in self._on_disk()}
        return {name: entry.stat().st_size for name, entry in finished_files(self.folder, "")}

    # Checks.

    def _place(self, relative: str) -> Path:
        parts = PurePosixPath(relative).parts
        outside = not parts or relative.startswith("/") or ".." in parts
        if outside or (self._single and relative != self._single):
            raise ValueError(f"{relative!r} is not a path inside {self.name}")
        return self.folder.joinpath(*parts)

    def _open_place(self, relative: str) -> Path:
        self.run.check_writable()  # first: a directory that was taken away has no records either
        if self._manifest_path.exists() or not self._begun_path.exists():
            raise WorkspaceError(f"{self.name} can be written only after `begin` and before `commit`")
        return self._place(relative)

    def _check_own(self, place: Path) -> None:
        """Raise `WorkspaceError` if `place` is, or contains, a file that capo did not write."""
        if not place.exists():
            return
        names = [place.relative_to(self.folder).as_posix()] if place.is_file() else self._on_disk(place)
        if self._known is None or any(name not in self._known for name in names):
            self._read_known()  # other processes may have written more
        if foreign := [name for name in names if name not in (self._known or {})]:
            raise self._foreign(foreign)

    def _foreign(self, names: list[str]) -> WorkspaceError:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        listed = ", ".join(str(self.folder / name) for name in names[:3])
        record = self._written.path if self.manifest() is None else self._manifest_path
        return WorkspaceError(
            f"{listed}{more}: capo has no record of writing this ({record} lacks it), and neither uses nor "
            "removes it; move it out of the run directory, and rerun the same command"
        )

    def _verify(self, relative: str, described: Description | None = None) -> None:
        """Raise `WorkspaceError` unless a file is as recorded; `described` is what it contains, if known."""
        if relative in self._verified:
            return
        if self._known is None and self._read_known() is None:
            return
        if described is None:
            described = describe(self._place(relative))
        # Another process may have written the file after this one read the record.
        if not _is_among(described, (self._known or {}).get(relative, [])):
            contents = (self._read_known() or {}).get(relative)
            if contents is None:
                raise self._foreign([relative])
            if not _is_among(described, contents):
                raise damaged(self._place(relative), "its digest is not the recorded one")
        self._verified.add(relative)

    def _check_complete(self, folder: Path) -> None:
        """Raise `WorkspaceError` for a file of `folder` that the manifest has and the disk has not."""
        manifest = self.manifest()
        prefix = "" if folder == self.folder else f"{folder.relative_to(self.folder).as_posix()}/"
        for name in manifest.files if manifest else ():
            if name.startswith(prefix) and not self._place(name).is_file():
                raise WorkspaceError(f"{self._place(name)} is missing; rerun the {self.name} stage")

    @contextmanager
    def _writing(self, relative: str) -> Iterator[HashedFile]:
        place = self._open_place(relative)
        self._check_own(place)
        self._appended.pop(relative, None)
        written: Description = {}
        with self.run.replacing(place, lambda temporary: self._record({relative: written})) as temporary:
            with HashedFile(temporary) as file:
                yield file
            written |= file.description

    @contextmanager
    def _reading(self, relative: str) -> Iterator[Path]:
        path = self.path(relative)
        with explain_damage(self._place(relative)):
            yield path


def _is_among(described: Description, contents: Iterable[Description]) -> bool:
    return any(same_content(described, known) for known in contents)
