"""The runs of a study: one run directory for every row and seed.

STUDY/
  study.yaml            the study, with its axes expanded to rows
  ROW/seed-0/           an ordinary run directory
  ROW/seed-0.json       the record of a finished run; suffices for the tables if the directory is removed
  ROW/soup-0/           the merged policy of a soup row
  results.json, table.md, index.html, figures/
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import pipeline
from capo.diffusion.saved import find_policy, is_policy
from capo.pipeline.graph import steps_of
from capo.recipe import Recipe
from capo.store.manifest import MANIFESTS, alike, canonical
from capo.studies.record_file import read_record
from capo.studies.study import Row, Study, run_directory

RECORD_FORMAT = 1

WITHOUT_POLICY = ("prompts", "validation", "baseline")
"""Artifacts that do not depend on the policy."""

RUN_ERRORS = (ValueError, OSError, ImportError, ArithmeticError, RuntimeError)
"""Errors that end one run but not the study."""


@dataclass(frozen=True)
class StudyRun:
    """One row with one seed."""

    row: Row
    seed: int
    folder: Path
    trained: Recipe
    """The recipe that trains the row's policy; for a soup, as if it were trained."""
    before: tuple[Path, ...] = ()
    """Run directories of the earlier rounds, the first round last."""
    parts: tuple[Recipe, ...] = ()
    """Recipes of the earlier rounds, or of the rows that a soup merges."""

    @property
    def name(self) -> str:
        """Row and seed, for messages."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def directory(self) -> Path:
        """The run directory."""
        return run_directory(self.folder, self.row.name, self.seed)

    @property
    def record(self) -> Path:
        """The file with the measures of the finished run."""
        return self.directory.with_suffix(".json")

    @property
    def kept(self) -> bool:
        """True if the directory was removed and the record matches the study's current settings."""
        return not self.directory.exists() and self._recorded

    @property
    def outlives_sources(self) -> bool:
        """True if the run is on record, and a policy or run directory that it was made from was removed."""
        soup = (self.soup,) if self.row.soup else ()
        sources = (*self.before, *self.ingredients, *soup)
        return not all(source.exists() for source in sources) and self._recorded

    @property
    def _recorded(self) -> bool:
        return self.record.is_file() and read_record(self.record)["made_from"] == self.made_from

    @property
    def made_from(self) -> str:
        """Fingerprint of everything that determines the results: fields, prompts, weights, and `parts`.

        Names of rows do not enter.
        """
        steps = [_inputs_of(recipe) for recipe in (self.trained, *self.parts)]
        merged = {"weights": self.weights, "interpolation": self.row.interpolation}
        return _digest([RECORD_FORMAT, steps, merged if self.row.soup else None])

    @property
    def soup(self) -> Path:
        """The folder of a soup row's policy."""
        return self.folder / self.row.name / f"soup-{self.seed}"

    @property
    def ingredients(self) -> list[Path]:
        """The run directories whose policies a soup merges."""
        return [run_directory(self.folder, name, self.seed) for name in self.row.soup]

    @property
    def weights(self) -> list[float]:
        """The weights of the merged policies."""
        return list(self.row.weights) or [1.0] * len(self.row.soup)

    @property
    def merged(self) -> bool:
        """True if the soup exists and was made from the current policies, weights and interpolation."""
        if not (self.soup.exists() and all(map(is_policy, self.ingredients))):
            return False
        made = find_policy(self.soup).record.get("soup")
        if made is None:
            raise ValueError(f"{self.soup} is not a soup; move it out of the study's folder")
        identities = [find_policy(directory).identity for directory in self.ingredients]
        if (made["weights"], made["interpolation"]) != (self.weights, self.row.interpolation):
            return False
        merged = [policy["identity"] for policy in made["policies"]]
        return len(merged) == len(identities) and all(map(alike, merged, identities))

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run directory; for a soup, it evaluates the merged policy."""
        if not self.row.soup:
            return self.trained
        evaluate = self.trained.evaluate.model_copy(update={"policy": str(self.soup)})
        return self.trained.model_copy(update={"evaluate": evaluate})

    @property
    def stage(self) -> str | None:
        """The only stage to run: `evaluate` for a soup; None, which means all stages, for other rows."""
        return "evaluate" if self.row.soup else None

    @property
    def state(self) -> str:
        """`done`, `stale`, `missing`, or the next artifact to make: `train is partial`.

        Raises one of `RUN_ERRORS` if a file of the run is damaged.
        """
        if self.kept:
            return "done"
        if self.row.soup and not self.outlives_sources and not self.merged:
            return "stale" if self.soup.exists() else "missing"
        artifacts = pipeline.status(self.recipe, self.directory)
        if self.row.soup:
            artifacts = [artifact for artifact in artifacts if artifact.name in ("baseline", "evaluate")]
        states = {artifact.state for artifact in artifacts}
        if len(states) == 1:
            return states.pop()
        if "stale" in states:
            return "stale"
        following = next(artifact for artifact in artifacts if artifact.state != "done")
        return f"{following.name} is {following.state}"


def runs_of(study: Study, folder: Path) -> list[StudyRun]:
    """Return all runs, seed by seed; soups after their policies, rounds after their start."""
    earlier = {row.name: study.earlier_rounds(row) for row in study.rows}
    rows = sorted(study.rows, key=lambda row: (bool(row.soup), len(earlier[row.name])))
    recipes = {(row.name, seed): study.row_recipe(row, seed, folder) for seed in study.seeds for row in rows}
    return [
        StudyRun(
            row,
            seed,
            folder,
            recipes[row.name, seed],
            tuple(run_directory(folder, name, seed) for name in earlier[row.name]),
            tuple(recipes[name, seed] for name in (*earlier[row.name], *row.soup)),
        )
        for seed in study.seeds
        for row in rows
    ]


@dataclass(frozen=True)
class ArtifactUse:
    """An artifact that a run needs."""

    run: StudyRun
    artifact: str
    key: str
    """A fingerprint, equal for uses that can share one artifact."""

    @property
    def kind(self) -> str:
        """`scores` for the scores by any reward; for others the name of the artifact."""
        return self.artifact.partition("/")[0]


def artifact_uses(runs: Sequence[StudyRun]) -> dict[str, list[ArtifactUse]]:
    """Return the artifacts that the runs need, by kind."""
    uses: dict[str, list[ArtifactUse]] = {}
    for run in runs:
        for artifact, key in _artifact_keys(run).items():
            use = ArtifactUse(run, artifact, key)
            uses.setdefault(use.kind, []).append(use)
    return uses


def _artifact_keys(run: StudyRun) -> dict[str, str]:
    """Return the artifacts that a run needs, with their keys.

    A further round shares only artifacts of the base: the inputs of its others are known only once the
    earlier round exists.
    """
    recipe = run.trained.model_copy(update={"start": None})
    made: dict[str, str] = {}
    further = [run.made_from] if run.before else []
    for step in steps_of(recipe):
        above = [made[name] for name in step.upstream]
        own = [] if step.artifact in WITHOUT_POLICY else further
        made[step.artifact] = _digest([step.artifact, step.inputs, above, *own])
    if run.row.soup:
        return {"baseline": made["baseline"], "evaluate": _digest([run.made_from, made["baseline"]])}
    return {name: key for name, key in made.items() if name != "report"}


def donor_directories(folder: Path) -> list[Path]:
    """Return the run directories of this study and of the studies in the same folder."""
    studies = {folder, *(path.parent for path in folder.parent.glob("*/study.yaml"))}
    return sorted(run for study in studies for run in study.glob("*/seed-*") if (run / MANIFESTS).is_dir())


def _inputs_of(recipe: Recipe) -> list[Any]:
    """Return the inputs of all artifacts as if for a first round; earlier rounds have inputs of their own."""
    steps = steps_of(recipe.model_copy(update={"start": None}))
    reference = None if recipe.start is None else recipe.start.reference
    return [reference, *([s.artifact, s.inputs] for s in steps if s.artifact != "report")]


def _digest(content: Any) -> str:
    return hashlib.blake2b(canonical(content).encode(), digest_size=16).hexdigest()
