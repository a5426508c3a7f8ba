"""Artifacts: results of a run, begun from their inputs, filled file by file, and committed with digests."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from capo.engine.progress import say
from capo.store import atomic
from capo.store.artifact_files import ArtifactFiles
from capo.store.errors import WorkspaceError
from capo.store.file_digests import file_digests
from capo.store.manifest import (
    SCHEMA,
    Description,
    Manifest,
    canonical,
    describe,
    differences,
    explain_change,
    pretty,
    read_record,
    same_content,
    sealed,
    versions,
)

Changes = Mapping[str, tuple[Any, Any]]
"""Inputs that differ: field → (value the artifact was made from, value of the recipe)."""


class StaleArtifact(WorkspaceError):
    """Artifacts whose inputs changed; `changes` has the changed fields of each, in the order of the run.

    An artifact without changed fields of its own is stale because an artifact it was made from is.
    """

    def __init__(self, changes: Mapping[str, Changes], listed: str = "") -> None:
        """`listed` names the artifacts in the advice, with what they cost."""
        self.changes = dict(changes)
        lines: list[str] = []
        for name, fields in self.changes.items():
            if fields:
                lines.append(f"{name} is stale: its inputs changed:")
                lines += [f"  {explain_change(field, *values)}" for field, values in fields.items()]
            else:
                lines.append(f"{name} is stale: an artifact it was made from is stale")
        lines.append(
            f"Use --force (in Python, force=True) to remake {listed or ', '.join(self.changes)}, which keeps "
            "the old ones in the folder `replaced`; or choose another run directory."
        )
        super().__init__("\n".join(lines))


class Artifact(ArtifactFiles):
    """One result of a run: absent, begun and resumable, or complete and verified."""

    replaced: "Artifact | None" = None
    """What the last `begin` replaced, in its new place."""
    _taken: frozenset[str] = frozenset()
    """Files that came from there."""

    def begin(self, inputs: Mapping[str, Any], *, force: bool = False) -> None:
        """Start making the artifact from `inputs` (JSON values), or resume it and keep its files.

        Raises `StaleArtifact` if it was begun from other inputs and has files; with `force` they are moved
        to `replaced` instead. Raises `WorkspaceError` before any change if its folder contains files that
        capo did not write.
        """
        self.run.check_writable()
        inputs = json.loads(canonical(inputs))
        begun = self.begun()
        changes = {} if begun is None else differences(begun, inputs)
        if changes and self.files() and not force:
            raise StaleArtifact({self.name: changes})
        resume = begun is not None and not changes
        self.check_no_foreign_files(resume=resume)
        self._verified.clear()
        self.replaced, self._taken = None, frozenset()
        if resume:
            self._reopen()
            self._report_versions()
            return
        if changes and self.files():
            self.replaced = self.run.replaced_folder.prepare(self.name, changes).artifact(self.name)
            self._move_to(self.replaced)
        else:
            self._clear()
        self._forget()
        self._written.start()
        self._write_record(self._begun_path, self._begun_record(inputs))

    def begin_shared(self, inputs: Mapping[str, Any]) -> None:
        """Begin or resume the artifact next to processes that do the same with equal inputs.

        Raises `StaleArtifact` if it was begun from other inputs, and `WorkspaceError` if it was committed.
        """
        inputs = json.loads(canonical(inputs))
        begun = self.begun()
        if begun is not None and (changes := differences(begun, inputs)):
            raise StaleArtifact({self.name: changes})
        self.check_no_foreign_files(resume=begun is not None)
        if self.manifest() is not None:
            raise WorkspaceError(
                f"{self.run.path}: {self.name} was complete but lacks a file; run the command without --shard"
            )
        if begun is None:
            with atomic.write_file(self._begun_path, writer=f"{os.getpid()}-") as temporary:
                temporary.write_text(pretty(sealed(self._begun_record(inputs))), encoding="utf-8")

    def put_back(self) -> bool:
        """Undo a `begin` that replaced another artifact, unless a file was written since; return whether."""
        if self.replaced is None or not self._taken.issuperset(self.files()):
            return False
        self._clear()
        self._forget()
        self.replaced._move_to(self)
        for path in self.replaced._records:
            atomic.remove(path)
        self.run.replaced_folder.forget(self.name)
        self.replaced = None
        return True

    def commit(self, summary: Mapping[str, Any] | None = None) -> None:
        """Declare the artifact complete: write its manifest, with the digest of every file."""
        self.run.check_writable()
        begun = self.begun()
        if begun is None:
            raise WorkspaceError(f"{self.run.path}: {self.name} cannot be committed before it is begun")
        sizes = self._sizes()
        files = {name: self._final_description(name, sizes[name]) for name in self.files()}
        self._finish(Manifest(self.name, SCHEMA, begun, files, dict(summary or {}), versions()))

    def adopt(self, other: "Artifact", *, force: bool = False) -> None:
        """Become a copy of `other`, a committed artifact of another run, by hard links where possible.

        Raises `StaleArtifact` under the conditions of `begin`.
        """
        manifest = other._committed()
        self.begin(manifest.inputs, force=force)
        self._clear()
        self._record(manifest.files)
        for relative in manifest.files:
            atomic.link(other._place(relative), self._open_place(relative))
        self._finish(manifest)

    def take(self, other: "Artifact", files: Mapping[str, str]) -> None:
        """Add files of the artifact `other` at new paths, verified, by hard links where possible."""
        for theirs, relative in files.items():
            source = other.path(theirs)
            place = self._open_place(relative)
            self._record({relative: describe(source)})
            atomic.link(source, place)
            self._taken |= {relative}

    def begun(self) -> dict[str, Any] | None:
        """Return the inputs the artifact was begun from, or None if it was not begun."""
        record = read_record(self._begun_path)
        return None if record is None else record["inputs"]

    @property
    def done(self) -> bool:
        """True if the artifact is committed and no file is missing or of another length."""
        manifest = self.manifest()
        return manifest is not None and self.lost(manifest) is None

    def lost(self, manifest: Manifest) -> str | None:
        """Return the first file of the manifest that is missing or of another length."""
        sizes = self._sizes()
        for relative, described in manifest.files.items():
            if sizes.get(relative) != described["bytes"]:
                return relative
        return None

    @property
    def digest(self) -> str:
        """The digest of the contents of all files of a committed artifact."""
        return self._committed().digest

    @property
    def summary(self) -> dict[str, Any]:
        """The counts and means that the stage recorded at the commit."""
        return self._committed().summary

    def verify(self) -> None:
        """Compare every file with its digest; raises `WorkspaceError` naming one that differs."""
        for relative in self._committed().files:
            self._verify(relative)

    def verify_once(self) -> None:
        """Do what `verify` does, but read no file again that this machine has read since it last changed."""
        files = self._committed().files
        digests = file_digests([self._place(relative) for relative in files])
        for (relative, described), digest in zip(files.items(), digests, strict=True):
            self._verify(relative, {"bytes": described["bytes"], "blake2b": digest})

    def _begun_record(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"artifact": self.name, "schema": SCHEMA, "inputs": inputs, "versions": versions()}

    def _reopen(self) -> None:
        """Allow writing again: move the files of the manifest to the record of written files."""
        known = self._read_known()
        if known is None and self._begun_path.exists() and (names := self._on_disk()):
            # Begun by version 0.1, which kept no record: accept the files as they are now.
            complete = [name for name in names if not PurePath(name).name.startswith(atomic.TEMPORARY_0_1)]
            known = {name: [describe(self._place(name))] for name in complete}
            self._written.replace(known)
        elif self._manifest_path.exists():
            self._written.replace(known or {})
            atomic.remove(self._manifest_path)
        self._known = known

    def _move_to(self, other: "Artifact") -> None:
        """Move the files to the same artifact of another directory, which gets the records too."""
        self._written.merge()
        for mine, others in zip(self._records, other._records, strict=True):
            if mine.exists():
                atomic.link(mine, others)
        source = self.folder / self._single if self._single else self.folder
        atomic.move(source, other.folder / self._single if self._single else other.folder)

    def _forget(self) -> None:
        """Remove all records: first the manifest, so that no kill leaves one without its files."""
        for path in self._records:
            atomic.remove(path)
        self._known = None
        self._verified.clear()

    @property
    def _records(self) -> tuple[Path, Path, Path]:
        return self._manifest_path, self._begun_path, self._written.path

    def _clear(self) -> None:
        """Remove the files on record, the folders they leave empty, and the record."""
        atomic.remove_files([self._place(name) for name in self.files()])
        if not self._single and self.folder.is_dir():
            for folder in sorted((p for p in self.folder.rglob("*") if p.is_dir()), reverse=True):
                _remove_if_empty(folder)
            _remove_if_empty(self.folder)
        self._written.start()
        self._known = {}

    def _finish(self, manifest: Manifest) -> None:
        self._write_record(self._manifest_path, asdict(manifest))
        self._written.remove()

    def _final_description(self, relative: str, size: int) -> Description:
        """Describe a file of `size` bytes at the commit; it is read again only if it was overwritten."""
        candidates = [c for c in (self._known or {}).get(relative, []) if c["bytes"] == size]
        if len(candidates) != 1:
            self._verified.discard(relative)  # it may have changed since it was read
            self._verify(relative)
            described = describe(self._place(relative))
            return next(c for c in candidates if same_content(c, described))
        return candidates[0]

    def _report_versions(self) -> None:
        """Warn about libraries of other versions, which may change the last digit of results."""
        record = read_record(self._begun_path) or {}
        for library, (old, new) in differences(record["versions"], versions()).items():
            say(f"{self.name}: begun with {library} {old}, resumed with {new}")

    def _committed(self) -> Manifest:
        manifest = self.manifest()
        if manifest is None:
            raise WorkspaceError(
                f"{self.run.path}: {self.name} is not complete; rerun the stage that makes it"
            )
        return manifest

    def _write_record(self, path: Path, record: Mapping[str, Any]) -> None:
        with self.run.replacing(path) as temporary:
            temporary.write_text(pretty(sealed(record)), encoding="utf-8")


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
