"""One result of a run: begun from its inputs, filled file by file, committed with its digests."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from capo.engine.progress import say
from capo.store import atomic
from capo.store.errors import WorkspaceError
from capo.store.manifest import (
    SCHEMA,
    Manifest,
    canonical,
    describe,
    differences,
    explain_change,
    pretty,
    read_record,
    versions,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from capo.store.run_directory import Run


class StaleArtifact(WorkspaceError):
    """An artifact made from other inputs than asked for; `changes` maps field to (old, new).

    `dependent` artifacts were made from it and are out of date with it.
    """

    def __init__(
        self, name: str, changes: Mapping[str, tuple[Any, Any]], dependent: Sequence[str] = ()
    ) -> None:
        self.name, self.changes, self.dependent = name, dict(changes), tuple(dependent)
        lines = [f"  {explain_change(field, *values)}" for field, values in self.changes.items()]
        again = f"it and {', '.join(dependent)}" if dependent else "it"
        advice = f"Give --force to make {again} again, or choose another --run directory to keep both."
        super().__init__("\n".join([f"{name} was made from something else:", *lines, advice]))


class Artifact:
    """One result of a run; `relative` paths are relative to its `folder`."""

    def __init__(self, run: "Run", name: str) -> None:
        self.run, self.name = run, name
        self._single = name in ("prompts", "pairs")  # one file in the run directory itself
        self.folder = run.path if self._single else run.path / name
        self._begun_path = run.path / "manifests" / f"{name}.inputs.json"
        self._manifest_path = run.path / "manifests" / f"{name}.json"
        self._recorded: Manifest | None = None
        """What files are verified by: read once, as it has a line for each of thousands."""
        self._verified: set[str] = set()

    # Life: begin, fill, commit.

    def begin(self, inputs: Mapping[str, Any], *, force: bool = False) -> None:
        """Start making it from `inputs` (JSON values), or go on with what is there.

        Raises `StaleArtifact` if it was begun from other inputs; with `force` that one is removed.
        """
        self.run.check_writable()
        inputs = json.loads(canonical(inputs))
        begun = self.begun()
        if begun is not None and (changes := differences(begun, inputs)):
            if not force:
                raise StaleArtifact(self.name, changes)
            begun = None
        if self._manifest_path.exists():
            atomic.remove(self._manifest_path)
        self._recorded = None
        self._verified.clear()
        if begun is not None:
            self._mention_versions()
        else:
            if self._begun_path.exists():
                atomic.remove(self._begun_path)
            self._clear()
            record = {"artifact": self.name, "schema": SCHEMA, "inputs": inputs, "versions": versions()}
            self._write_record(self._begun_path, record)

    def commit(self, summary: Mapping[str, Any] | None = None) -> None:
        """Declare it complete: digest every file, then write the manifest."""
        begun = self.begun()
        if begun is None:
            raise WorkspaceError(f"{self.name} is committed without having been begun")
        files = {r: describe(self._place(r)) for r in self.files()}
        manifest = Manifest(self.name, SCHEMA, begun, files, dict(summary or {}), versions())
        self._write_record(self._manifest_path, asdict(manifest))
        self._verified = set(files)

    def adopt(self, other: "Artifact", *, force: bool = False) -> None:
        """Become what `other`, a committed artifact of another run, is: its files are linked, or copied.

        Raises `StaleArtifact` as `begin` does.
        """
        manifest = other._committed()
        self.begin(manifest.inputs, force=force)
        self._clear()
        for relative in manifest.files:
            atomic.link(other._place(relative), self._open_place(relative))
        self._write_record(self._manifest_path, asdict(manifest))

    def begun(self) -> dict[str, Any] | None:
        """The inputs it was begun with; None when it was not."""
        record = read_record(self._begun_path)
        return None if record is None else record["inputs"]

    def manifest(self) -> Manifest | None:
        """None when it was not committed."""
        record = read_record(self._manifest_path)
        return None if record is None else Manifest(**record)

    @property
    def done(self) -> bool:
        """Committed, and every file is there in its full length."""
        manifest = self.manifest()
        return manifest is not None and self.lost(manifest) is None

    def lost(self, manifest: Manifest) -> str | None:
        """The first file of the manifest that is not there or has another length."""
        for relative, described in manifest.files.items():
            path = self._place(relative)
            if not path.is_file() or path.stat().st_size != described["bytes"]:
                return relative
        return None

    @property
    def digest(self) -> str:
        return self._committed().digest

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of it when it was committed."""
        return self._committed().summary

    def verify(self) -> None:
        """Compare every file with its digest; raises `WorkspaceError` naming one that differs."""
        for relative in self._committed().files:
            self._verify(relative)

    # Files.

    def files(self) -> list[str]:
        """All its files, in order."""
        paths = self.run.path.glob(f"{self.name}.*") if self._single else self.folder.rglob("*")
        inside = (p.relative_to(self.folder) for p in paths if p.is_file())
        return sorted(p.as_posix() for p in inside if not atomic.is_temporary(p))

    def has(self, relative: str) -> bool:
        return self._place(relative).exists()

    def remove(self, relative: str) -> None:
        """Remove a file or a folder; nothing happens when it is not there."""
        self.run.check_writable()
        if self.has(relative):
            atomic.remove(self._open_place(relative))

    def path(self, relative: str = "") -> Path:
        """Where a file or folder is, for libraries that read paths; verified like all reading."""
        place = self._place(relative) if relative else self.folder
        if not place.exists():
            raise WorkspaceError(f"{place}: not there; run the {self.name} stage again")
        for each in [place] if place.is_file() else place.rglob("*"):
            if each.is_file():
                self._verify(each.relative_to(self.folder).as_posix())
        return place

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.run.replacing(self._open_place(relative)) as temporary:
            temporary.write_bytes(data)

    def read_bytes(self, relative: str) -> bytes:
        return self.path(relative).read_bytes()

    def write_json(self, relative: str, value: Any) -> None:
        self.write_bytes(relative, pretty(value).encode())

    def read_json(self, relative: str) -> Any:
        with self._readable(relative) as path:
            return json.loads(path.read_text(encoding="utf-8"))

    def write_json_lines(self, relative: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """One JSON object a line; the whole file is written anew."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        self.write_bytes(relative, "".join(lines).encode())

    def read_json_lines(self, relative: str) -> list[dict[str, Any]]:
        with self._readable(relative) as path:
            # Not splitlines(): it would also cut at separators inside the strings.
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    def write_table(self, relative: str, table: "pa.Table") -> None:
        """Parquet, with a checksum a page, so that damage shows even before the commit."""
        import pyarrow.parquet as pq

        with self.run.replacing(self._open_place(relative)) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def read_table(self, relative: str, columns: list[str] | None = None) -> "pa.Table":
        import pyarrow.parquet as pq

        with self._readable(relative) as path:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            return file.read(columns=columns)

    def write_tensors(
        self, relative: str, tensors: Mapping[str, "Tensor"], metadata: dict[str, str] | None = None
    ) -> None:
        from safetensors.torch import save_file

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with self.run.replacing(self._open_place(relative)) as temporary:
            save_file(plain, temporary, metadata=metadata)

    def read_tensors(self, relative: str) -> "dict[str, Tensor]":
        from safetensors.torch import load_file

        with self._readable(relative) as path:
            return load_file(path)

    @contextmanager
    def write_directory(self, relative: str) -> Iterator[Path]:
        """A temporary folder to fill; whole and flushed, it takes the place of `relative`."""
        self.run.check_writable()
        with atomic.write_folder(self._open_place(relative)) as temporary:
            yield temporary

    # Inside.

    def _place(self, relative: str) -> Path:
        parts = PurePosixPath(relative).parts
        outside = not parts or relative.startswith("/") or ".." in parts
        if outside or (self._single and not relative.startswith(f"{self.name}.")):
            raise ValueError(f"{relative!r} is no place inside {self.name}")
        return self.folder.joinpath(*parts)

    def _open_place(self, relative: str) -> Path:
        if self._manifest_path.exists() or not self._begun_path.exists():
            raise WorkspaceError(f"{self.name} can be written only after `begin` and before `commit`")
        return self._place(relative)

    def _clear(self) -> None:
        if self._single:
            for relative in self.files():
                atomic.remove(self._place(relative))
        elif self.folder.exists():
            atomic.remove(self.folder)

    def _mention_versions(self) -> None:
        """Results may differ in the last digit between versions of a library: say so, go on."""
        record = read_record(self._begun_path) or {}
        for library, (old, new) in differences(record["versions"], versions()).items():
            say(f"{self.name}: begun with {library} {old}, goes on with {new}")

    def _committed(self) -> Manifest:
        manifest = self.manifest()
        if manifest is None:
            raise WorkspaceError(f"{self.run.path}: {self.name} is not finished")
        return manifest

    def _verify(self, relative: str) -> None:
        if relative in self._verified:
            return
        self._recorded = self._recorded or self.manifest()
        if self._recorded is None:
            return
        if describe(self._place(relative)) != self._recorded.files.get(relative):
            raise self._damaged(relative, "its digest is not the recorded one")
        self._verified.add(relative)

    @contextmanager
    def _readable(self, relative: str) -> Iterator[Path]:
        path = self.path(relative)
        try:
            yield path
        except Exception as error:
            # Each library has its own errors for a file that it cannot make sense of.
            raise self._damaged(relative, str(error)) from error

    def _damaged(self, relative: str, why: str) -> WorkspaceError:
        path = self._place(relative)
        return WorkspaceError(f"{path} is damaged ({why}); remove it and give the command again")

    def _write_record(self, path: Path, record: Mapping[str, Any]) -> None:
        with self.run.replacing(path) as temporary:
            temporary.write_text(pretty(record), encoding="utf-8")
