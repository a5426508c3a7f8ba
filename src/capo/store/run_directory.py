"""The run directory, and the only way to write into it.

A run has one artifact for each stage, and one for the scores of each reward. An artifact is begun from its
inputs, filled file by file, and committed: its manifest, with the digest of every file, is written last.
So an artifact is absent, begun and resumable, or complete and verified. Files made from different inputs
never mix in one artifact: `StaleArtifact` says which inputs changed.

    with Run.open("runs/shapes", recipe) as run:
        prompts = run.artifact("prompts")
        prompts.begin({"seed": 0})
        prompts.write_table("prompts.parquet", table)
        prompts.commit({"prompts": 192})
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo.engine.shard_work import MAIN
from capo.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from capo.store import atomic
from capo.store.artifact import Artifact
from capo.store.claim import LOCK, check_claimable, claim
from capo.store.errors import LeftToMain, WorkspaceError, explain_os_errors
from capo.store.lock import Claim, PartOfLock, hold_lock
from capo.store.manifest import MANIFESTS
from capo.store.replaced import FOLDER as REPLACED
from capo.store.replaced import ReplacedFolder
from capo.store.shares import hold_share, reject_shares
from capo.store.written_files import remove_superseded

TIMINGS = "timings.jsonl"
RECIPE = "recipe.yaml"
WRITTEN = "recipe.written.yaml"
SWEEP = "tune"
"""The folder of a run directory with the runs of `capo tune`, one per value."""


class Run:
    """A run directory: `Run(path)` reads it, `Run.open(path)` also writes to it."""

    def __init__(self, path: str | Path, writer: str = MAIN) -> None:
        self.path = Path(path)
        self.writer = writer
        """The name under which this process records the files that it writes."""
        self._artifacts: dict[str, Artifact] = {}
        self._claim: Claim | None = None
        self._shared = False
        self._former_recipe: bytes | None = None
        self.replaced_folder = ReplacedFolder(self, None)
        """Where artifacts go that are replaced."""

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, recipe: Recipe | None = None) -> "Iterator[Run]":
        """Create the directory or open it for writing, as its only writer; save the resolved `recipe` in it.

        Undoes writes that a crash interrupted. Raises `WorkspaceError` if the directory is not capo's, is in
        use by another process, or cannot be written.
        """
        run = cls(path)
        run.check_claimable()
        with explain_os_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        with hold_lock(run.path / LOCK) as lock:
            reject_shares(run.path)
            run.check_claimable()
            claim(run.path, "run")
            atomic.remove_leftovers(run.path)
            remove_superseded(run.path / MANIFESTS)
            run._claim = lock
            recipe_file = run.path / RECIPE
            run._former_recipe = recipe_file.read_bytes() if recipe_file.is_file() else None
            run.replaced_folder = ReplacedFolder(run, run._former_recipe)
            if recipe is not None:
                run._save_recipe(recipe)
            try:
                yield run
            finally:
                run._claim = None

    @classmethod
    @contextmanager
    def share(cls, path: str | Path) -> "Iterator[Run]":
        """Open the directory next to other processes that share it, to write shards by its `access`.

        The run itself cannot be written: what only one process may do raises `LeftToMain`. Raises
        `WorkspaceError` if a process has the directory to itself.
        """
        run = cls(path)
        run.check_claimable()
        with hold_share(run.path, run.path / LOCK) as share:
            claim(run.path, "run", share.holder)
            run._claim, run._shared = share, True
            try:
                yield run
            finally:
                run._claim = None

    def access(self) -> "RunAccess":
        """Return the access of workers to this run, which this process holds open for writing."""
        if self._claim is None:
            self.check_writable()
        assert self._claim is not None
        self._claim.check()
        lock = self._claim.path.relative_to(self.path)
        return RunAccess(self.path.absolute(), lock, self._claim.holder)

    def artifact(self, name: str) -> "Artifact":
        """Return an artifact by name, such as `samples` or `scores/REWARD`; it need not exist yet."""
        if name not in self._artifacts:
            self._artifacts[name] = Artifact(self, name)
        return self._artifacts[name]

    def own_bytes(self) -> int:
        """Return the size of the run's files, without what it replaced and without the runs of a sweep."""
        others = self.path / REPLACED, self.path / SWEEP
        files = (file for place in self.path.glob("*") if place not in others for file in _files(place))
        return sum(file.stat().st_size for file in files)

    def check_claimable(self) -> None:
        """Raise `WorkspaceError` if the directory has contents but is not a run directory of capo."""
        check_claimable(self.path, "run", instead="Choose an empty or new directory with --run")

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.replacing(self.path / relative) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def replacing(
        self, path: Path, before_rename: atomic.BeforeRename = lambda temporary: None
    ) -> Iterator[Path]:
        """Yield a temporary path whose file replaces `path`, as `atomic.write_file` does."""
        self.check_writable()
        tag = "" if self.writer == MAIN else f"{self.writer}-"
        with atomic.write_file(path, before_rename, tag) as temporary:
            yield temporary
            self.check_writable()

    def record_timing(self, stage: str, **fields: Any) -> None:
        """Add a line to `timings.jsonl`, the only file that records times and hosts."""
        line = json.dumps({"stage": stage, **fields})
        self.write_text(TIMINGS, (self._read(TIMINGS) or "") + line + "\n")

    def timings(self) -> dict[str, dict[str, Any]]:
        """Return the last line of `timings.jsonl` for each artifact; raises `WorkspaceError` if malformed."""
        rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate((self._read(TIMINGS) or "").split("\n"), start=1):
            try:
                if line:
                    row = json.loads(line)
                    rows[row["stage"]] = row
            except (ValueError, TypeError, KeyError) as error:
                place = f"{self.path / TIMINGS}, line {number}"
                raise WorkspaceError(
                    f"{place}: not a record of a stage ({error}); remove that line"
                ) from error
        return rows

    def check_writable(self) -> None:
        """Raise `WorkspaceError` unless inside `Run.open`, in the directory that was locked then."""
        if self._claim is None:
            raise WorkspaceError(f"{self.path} is open for reading only; use Run.open to write to it")
        if self._shared:
            raise LeftToMain(
                f"{self.path} is shared with other processes; a command without --shard does this"
            )
        self._claim.check()

    def restore_recipe(self) -> None:
        """Write the recipe that the directory had when it was opened, if any."""
        if self._former_recipe is not None:
            self.write_bytes(RECIPE, self._former_recipe)

    def _save_recipe(self, recipe: Recipe) -> None:
        """Write `recipe.yaml`, but keep a file with the same content: it may have the user's comments.

        The user's own file, in which paths may be relative, is kept beside it.
        """
        if recipe.written is not None and self._read(WRITTEN) != recipe.written:
            self.write_text(WRITTEN, recipe.written)
        try:
            if load_recipe(self.path / RECIPE) == recipe:
                return
        except RecipeError:  # missing, of another version, or damaged
            pass
        self.write_text(RECIPE, dump_recipe(recipe))

    def _read(self, relative: str) -> str | None:
        try:
            return (self.path / relative).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise WorkspaceError(f"{self.path / relative} is damaged ({error}); remove it") from error


@dataclass(frozen=True)
class RunAccess:
    """Permission to write files into begun artifacts of a run that the main process holds. Picklable."""

    path: Path
    lock: Path
    """The main process's lock file in the directory."""
    holder: str
    """Identifies the main process's hold on the run; once that ends, writing is an error."""

    def open(self, writer: str) -> Run:
        """Return the run, to write under the name `writer`, which no other process uses at the same time."""
        run = Run(self.path, writer)
        run._claim = PartOfLock(self.path / self.lock, self.holder)
        return run


def _files(place: Path) -> Iterator[Path]:
    """Yield a file itself, or the files of a folder."""
    return (path for path in (place, *place.rglob("*")) if path.is_file())
