"""The run directory, and the only way to write into it.

A run holds one artifact a stage (and one a reward for the scores). An artifact is begun with
the inputs it depends on, filled file by file, and committed: its manifest, with the digest of
every file, is written last. So an artifact is absent, begun and resumable, or complete and
verified. Two sets of inputs never mix in one artifact: `StaleArtifact` says what changed.

    with Run.open("runs/shapes", recipe) as run:
        prompts = run.artifact("prompts")
        prompts.begin({"seed": 0})
        prompts.write_table("prompts.parquet", table)
        prompts.commit({"prompts": 192})
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capo.recipe import Recipe, dump_recipe
from capo.store import atomic
from capo.store.artifact import Artifact
from capo.store.errors import WorkspaceError, explain_os_errors
from capo.store.lock import Lock, hold_lock


class Run:
    """A run directory: read with `Run(path)`, written within `Run.open(path)`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._artifacts: dict[str, Artifact] = {}
        self._lock: Lock | None = None

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, recipe: Recipe | None = None) -> "Iterator[Run]":
        """Create or reopen for writing, alone: clears what a crash left; saves `recipe` resolved.

        Raises `WorkspaceError` when another process has it open or it cannot be written.
        """
        run = cls(path)
        with explain_os_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        with hold_lock(run.path / ".lock") as lock:
            atomic.remove_leftovers(run.path)
            run._lock = lock
            if recipe is not None and run._read("recipe.yaml") != (text := dump_recipe(recipe)):
                run.write_text("recipe.yaml", text)
            try:
                yield run
            finally:
                run._lock = None

    def artifact(self, name: str) -> "Artifact":
        """By name: `prompts`, `samples`, `scores/REWARD`, `pairs`, `validation`, `train`, `baseline`, ..."""
        if name not in self._artifacts:
            self._artifacts[name] = Artifact(self, name)
        return self._artifacts[name]

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.replacing(self.path / relative) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A temporary path whose file takes the place of `path`, once whole and flushed."""
        self.check_writable()
        with atomic.write_file(path) as temporary:
            yield temporary

    def record_timing(self, stage: str, **fields: Any) -> None:
        """Add a line to `timings.jsonl`, the only file with clocks and hosts in it."""
        line = json.dumps({"stage": stage, **fields})
        self.write_text("timings.jsonl", (self._read("timings.jsonl") or "") + line + "\n")

    def timings(self) -> dict[str, dict[str, Any]]:
        """By artifact, what `timings.jsonl` says of the last time it was made."""
        lines = (self._read("timings.jsonl") or "").splitlines()
        return {row["stage"]: row for row in map(json.loads, lines)}

    def check_writable(self) -> None:
        """Raises unless this is inside `Run.open` and the directory is still there."""
        if self._lock is None:
            raise WorkspaceError(f"{self.path} is open for reading only; write within Run.open")
        self._lock.check()

    def _read(self, relative: str) -> str | None:
        try:
            return (self.path / relative).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
