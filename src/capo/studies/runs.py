"""The runs of a study: a run directory for every row and seed.

STUDY/
  study.yaml            what was compared, as resolved
  ROW/seed-0/           an ordinary run directory
  ROW/seed-0.json       what the tables need of it, once it is done; holds when the directory is removed
  ROW/soup-0/           the merged policy of a soup's row
  results.json, table.md, index.html, figures/
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import pipeline
from capo.diffusion.saved import find_policy, is_policy
from capo.pipeline.graph import steps_of
from capo.recipe import Recipe
from capo.store import WorkspaceError
from capo.store.manifest import canonical
from capo.studies.study import Row, Study, run_directory

RECORD_FORMAT = 1

OF_THE_BASE = ("prompts", "validation", "baseline")
"""Artifacts that no policy has a part in."""


@dataclass(frozen=True)
class StudyRun:
    """One row with one seed."""

    row: Row
    seed: int
    folder: Path
    trained: Recipe
    """The recipe as if its policy were trained."""
    before: tuple[Path, ...] = ()
    """The run directories of the rounds before, the first round last."""
    parts: tuple[Recipe, ...] = ()
    """The recipes of the rounds before, or of what a soup is made of."""

    @property
    def directory(self) -> Path:
        return run_directory(self.folder, self.row.name, self.seed)

    @property
    def record(self) -> Path:
        """The file that has what the tables need of it."""
        return self.directory.with_suffix(".json")

    @property
    def kept(self) -> bool:
        """Whether its directory is gone, and its record is of what the study has here now."""
        if self.directory.exists() or not self.record.is_file():
            return False
        return bool(read_record(self.record)["made_from"] == self.made_from)

    @property
    def made_from(self) -> str:
        """A fingerprint of all that decides its results: fields, prompts, weights, and those of `parts`.

        The names of rows are no part of it.
        """
        steps = [_first_steps(recipe) for recipe in (self.trained, *self.parts)]
        merged = {"weights": self.weights, "interpolation": self.row.interpolation}
        return _digest([RECORD_FORMAT, steps, merged if self.row.soup else None])

    @property
    def soup(self) -> Path:
        """Where the policy of a soup's row is."""
        return self.folder / self.row.name / f"soup-{self.seed}"

    @property
    def ingredients(self) -> list[Path]:
        """The run directories whose policies are merged."""
        return [run_directory(self.folder, name, self.seed) for name in self.row.soup]

    @property
    def weights(self) -> list[float]:
        """How much each of the policies counts that are merged."""
        return list(self.row.weights) or [1.0] * len(self.row.soup)

    @property
    def merged(self) -> bool:
        """Whether the soup is there, and of the policies that are there now."""
        if not (self.soup.exists() and all(map(is_policy, self.ingredients))):
            return False
        made = find_policy(self.soup).record["soup"]
        wanted = [find_policy(directory).identity for directory in self.ingredients]
        method = (made["weights"], made["interpolation"])
        return [each["identity"] for each in made["policies"]] == wanted and method == (
            self.weights,
            self.row.interpolation,
        )

    @property
    def recipe(self) -> Recipe:
        if not self.row.soup:
            return self.trained
        evaluate = self.trained.evaluate.model_copy(update={"policy": str(self.soup)})
        return self.trained.model_copy(update={"evaluate": evaluate})

    @property
    def stage(self) -> str | None:
        """A soup is evaluated and nothing else; a row that is trained has every stage."""
        return "evaluate" if self.row.soup else None

    @property
    def state(self) -> str:
        """`done`, `stale`, `missing`, or the artifact that is made next: `train is partial`."""
        if self.kept:
            return "done"
        if self.row.soup and not self.soup.exists():
            return "missing"
        if self.row.soup and not self.merged:
            return "stale"
        try:
            everything = pipeline.status(self.recipe, self.directory)
        except ValueError:
            if not self.before:
                raise
            return "missing"  # the round before is not there, or does not fit; running this row says why
        needed = {"baseline", "evaluate"} if self.row.soup else None
        found = [s for s in everything if not needed or s.name in needed]
        states = {each.state for each in found}
        if len(states) == 1:
            return states.pop()
        if "stale" in states:
            return "stale"
        following = next(each for each in found if each.state != "done")
        return f"{following.name} is {following.state}"


def runs_of(study: Study, folder: Path) -> list[StudyRun]:
    """All runs, seed by seed; soups after what they are made of, rounds after what they start from."""
    before = {row.name: study.rounds_before(row) for row in study.rows}
    rows = sorted(study.rows, key=lambda row: (bool(row.soup), len(before[row.name])))
    recipes = {(row.name, seed): study.row_recipe(row, seed, folder) for seed in study.seeds for row in rows}
    return [
        StudyRun(
            row,
            seed,
            folder,
            recipes[row.name, seed],
            tuple(run_directory(folder, name, seed) for name in before[row.name]),
            tuple(recipes[name, seed] for name in (*before[row.name], *row.soup)),
        )
        for seed in study.seeds
        for row in rows
    ]


def read_record(path: Path) -> dict[str, Any]:
    """A run's record; raises `WorkspaceError` when it is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkspaceError(f"{path}: damaged ({error}); remove it") from None
    if not isinstance(record, dict) or "made_from" not in record:
        raise WorkspaceError(f"{path}: not what a study keeps of a run; remove it")
    return record


def _first_steps(recipe: Recipe) -> list[Any]:
    """What each artifact is made from, as if it were a first round: the rounds before are told apart."""
    steps = steps_of(recipe.model_copy(update={"start": None}))
    reference = None if recipe.start is None else recipe.start.reference
    return [reference, *([s.artifact, s.inputs] for s in steps if s.artifact != "report")]


def artifact_keys(run: StudyRun) -> dict[str, str]:
    """Each artifact that a run has to have, and a fingerprint that other runs share which have the same.

    Of a further round all but the base's are its own: what it is made from is known only once the round
    before is there.
    """
    recipe = run.trained.model_copy(update={"start": None})
    made: dict[str, str] = {}
    for step in steps_of(recipe):
        above = [made[name] for name in step.upstream]
        own = [run.made_from] if run.before and step.artifact not in OF_THE_BASE else []
        made[step.artifact] = _digest([step.artifact, step.inputs, above, *own])
    if run.row.soup:
        return {"baseline": made["baseline"], "evaluate": _digest([run.made_from, made["baseline"]])}
    return {name: key for name, key in made.items() if name != "report"}


def shared_artifacts(runs: Sequence[StudyRun]) -> dict[str, tuple[int, int]]:
    """How many different ones there are of each kind of artifact, and how many there would be if each run
    made its own."""
    uses: Counter[str] = Counter()
    keys: dict[str, set[str]] = {}
    for run in runs:
        for artifact, key in artifact_keys(run).items():
            kind = artifact.partition("/")[0]
            uses[kind] += 1
            keys.setdefault(kind, set()).add(key)
    return {kind: (len(keys[kind]), count) for kind, count in uses.items()}


def _digest(content: Any) -> str:
    return hashlib.blake2b(canonical(content).encode(), digest_size=16).hexdigest()


def donors(folder: Path) -> list[Path]:
    """The run directories of this study and of those beside it."""
    studies = {folder, *(path.parent for path in folder.parent.glob("*/study.yaml"))}
    return sorted(run for study in studies for run in study.glob("*/seed-*") if (run / "manifests").is_dir())
