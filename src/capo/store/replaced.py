"""What `--force` replaced: kept in the run directory until the user removes it.

replaced/2026-12-01T09-30-00Z/
  replaced.json          when, and which inputs changed of every artifact
  recipe.yaml            the recipe before
  timings.jsonl          what the artifacts cost
  manifests/, samples/   the artifacts, laid out as in a run directory, so that a run can reuse them
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.store import atomic
from capo.store.errors import WorkspaceError
from capo.store.finished_files import LITTER
from capo.store.manifest import MANIFESTS, check_seal, pretty, sealed

if TYPE_CHECKING:
    from capo.store.artifact import Changes
    from capo.store.run_directory import Run

FOLDER = "replaced"
RECORD = "replaced.json"
OWN_FILES = {RECORD, "recipe.yaml", "timings.jsonl"}


@dataclass(frozen=True)
class Replaced:
    """A folder of artifacts that one command replaced."""

    folder: Path
    time: str
    """UTC, as `2026-12-01T09-30-00Z`."""
    changes: Mapping[str, "Changes"]
    """Artifact → the inputs that differed. Leaves out what a kill kept from being moved."""

    @property
    def files(self) -> list[Path]:
        """All files in the folder."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    @property
    def bytes(self) -> int:
        """The space that its files take. Those that a later run reused are counted too."""
        return sum(path.stat().st_size for path in self.files)

    def remove(self) -> None:
        """Remove the folder; raises `WorkspaceError` if it contains a file that capo did not put there."""
        from capo.store.run_directory import Run

        run, known = Run(self.folder), set(OWN_FILES)
        for name in self.changes:
            artifact = run.artifact(name)
            known |= {str((artifact.folder / file).relative_to(self.folder)) for file in artifact.files()}
        relative = [path.relative_to(self.folder) for path in self.files if path.name not in LITTER]
        foreign = [path for path in relative if str(path) not in known and path.parts[0] != MANIFESTS]
        if foreign:
            raise WorkspaceError(
                f"{self.folder / foreign[0]}: capo has no record of writing this, and does not remove it; "
                "move it out of the run directory, and rerun the same command"
            )
        atomic.remove(self.folder)


def replaced_folders(run: Path) -> list[Replaced]:
    """Return what was replaced in a run directory, the newest first."""
    folders = sorted((run / FOLDER).glob(f"*/{RECORD}"), reverse=True)
    return [_read(path) for path in folders]


def _read(path: Path) -> Replaced:
    from capo.store.run_directory import Run

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check_seal(record)
        changes: dict[str, Changes] = {
            name: {field: (old, new) for field, (old, new) in fields.items()}
            for name, fields in record["artifacts"].items()
            if Run(path.parent).artifact(name).files()
        }
        return Replaced(path.parent, record["time"], changes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(f"{path} is damaged ({error}); remove its folder") from error


class ReplacedFolder:
    """The folder for what one command replaces; it appears with the first artifact."""

    def __init__(self, run: "Run", former_recipe: bytes | None) -> None:
        self._run, self._former_recipe = run, former_recipe
        self._time = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        self._changes: dict[str, Mapping[str, tuple[Any, Any]]] = {}
        self._timings: dict[str, dict[str, Any]] = {}
        self._path: Path | None = None

    def prepare(self, name: str, changes: "Changes") -> "Run":
        """Record that the artifact `name` is about to be moved; return the folder as a run."""
        from capo.store.run_directory import RECIPE, TIMINGS, Run

        if self._path is None:
            self._path = self._free_path()
            if self._former_recipe is not None:
                self._run.write_bytes(self._relative(RECIPE), self._former_recipe)
        self._changes[name] = changes
        record = sealed({"time": self._time, "artifacts": self._changes})
        self._run.write_text(self._relative(RECORD), pretty(record))
        if (timing := self._run.timings().get(name)) is not None:  # now, since its replacement adds another
            self._timings[name] = timing
        lines = [json.dumps(timing) + "\n" for timing in self._timings.values()]
        self._run.write_text(self._relative(TIMINGS), "".join(lines))
        return Run(self._path)

    def forget(self, name: str) -> None:
        """Take back `prepare`, after the artifact was put back; the folder goes with its last artifact."""
        self._changes.pop(name, None)
        self._timings.pop(name, None)
        if self._path is not None and not self._changes:
            atomic.remove(self._path)
            self._path = None
            if not any((self._run.path / FOLDER).iterdir()):
                (self._run.path / FOLDER).rmdir()

    def _relative(self, name: str) -> str:
        assert self._path is not None
        return str(self._path.relative_to(self._run.path) / name)

    def _free_path(self) -> Path:
        names = [self._time, *(f"{self._time}-{number}" for number in range(2, 1000))]
        paths = (self._run.path / FOLDER / name for name in names)
        return next(path for path in paths if not path.exists())
