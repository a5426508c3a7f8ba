"""Shipped studies in their quick form, on the shipped checkpoints: structure, not numbers.

Studies mostly differ in numbers, such as β. Rows of every kind run here; that all rows of all studies have
valid and different recipes is tested in `test_study.py`.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capo.recipe import RewardSection
from capo.rewards import load_reward
from capo.scoring import rater
from capo.studies import load_study, shipped_studies
from capo.studies.measure_names import MEAN
from capo.studies.run_study import StudyOutcome, run_study
from capo.studies.study import Row, Study

RUN = {
    "adaptive": ("n8", "to16"),
    "fig5": ("b-2", "b0"),
    "fig6": ("capo-sum",),
    "front": (
        "preference", "alignment", "aesthetic", "sum", "frs", "soups-0.5-0.5-0", "soups-0.5-0-0.5",
        "soups-0-0.5-0.5",
    ),
    "interpolation-flow": ("preference", "alignment", "aesthetic", "slerp", "linear"),
    "margin": ("sum-all", "frs-clear"),
    "noise-flow": ("shared-clear", "prior-all"),
    "overoptimization": ("dpo", "ipo"),
    "overoptimization-flow": ("dpo", "ipo"),
    "rounds": ("half", "two-base", "two-start"),
    "search": ("recipe",),
    "table4": ("human-dpo",),
    "table5": ("constant",),
    "times-flow": ("weights", "logit-normal"),
}  # fmt: skip
"""The rows that run."""


@functools.cache
def quick(name: str) -> Study:
    return load_study(name, quick=True)


def settings(value: Any, name: str) -> Iterator[tuple[str, object]]:
    """Yield the fields of a recipe: choices by value, and numbers by sign."""
    if isinstance(value, dict | list):
        for key, field in value.items() if isinstance(value, dict) else enumerate(value):
            yield from settings(field, f"{name}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, (value > 0) - (value < 0)
    else:
        yield name, value


def kinds(study: Study, row: Row) -> set[tuple[str, object]]:
    """Return what the row sets, and what it is made of."""
    recipe = study.row_recipe(row, 0)
    named = {("recipe", "name"), ("recipe", "report.title"), ("recipe", "start.run")}
    values = recipe.model_dump(mode="json", exclude={"name": True, "report": {"title"}, "start": {"run"}})
    structure = {
        ("objective", (recipe.model.checkpoint, recipe.train.objective)),
        ("start", row.start is not None),
        ("soup", (row.interpolation, len(row.weights) > 0) if row.soup else None),
        ("front", len(study.fronts) > 0),
    }
    return (set(settings(values, "recipe")) | structure) - named


def test_a_row_of_every_kind_runs() -> None:
    missing = {
        (name, row.name): lacking
        for name in shipped_studies()
        for row in quick(name).rows
        if (lacking := kinds(quick(name), row) - _kinds_that_run())
    }
    assert missing == {}


@functools.cache
def _kinds_that_run() -> set[tuple[str, object]]:
    return {kind for name, rows in RUN.items() for row in quick(name).rows if row.name in rows
            for kind in kinds(quick(name), row)}  # fmt: skip


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all studies, so that later ones reuse artifacts of earlier ones; rewards load once."""
    loaded: dict[str, Any] = {}

    def load(section: RewardSection, device: Any) -> Any:
        key = section.model_dump_json()
        if key not in loaded:
            loaded[key] = load_reward(section, device)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rater, "load_reward", load)
        yield tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("name", RUN)
def test_a_shipped_study_runs_from_end_to_end(name: str, studies: Path) -> None:
    rows = tuple(row for row in quick(name).rows if row.name in RUN[name])
    against = quick(name).against if quick(name).against in RUN[name] else rows[0].name
    study = replace(quick(name), rows=rows, against=against)
    outcome = run_study(study, studies / study.name)
    results = outcome.results
    assert outcome.failed == {}
    assert tuple(row["name"] for row in results["rows"]) == RUN[name]
    measures = [measure["name"] for measure in results["measures"]]
    assert measures[:4] == [MEAN, "preference", "alignment", "aesthetic"]
    for row in [*results["rows"], {"measures": results["null"]}]:
        assert list(row["measures"]) == measures
        for each in measures[:5]:
            estimate = row["measures"][each]
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert all(len(compared) == len(rows) - 1 for compared in results["comparisons"].values())
    assert "numbers mean nothing" in (outcome.folder / "table.md").read_text()
    _look_closer(name, outcome)


def _look_closer(name: str, outcome: StudyOutcome) -> None:
    """Check what only one study has."""
    results, page = outcome.results, (outcome.folder / "index.html").read_text()
    if name == "interpolation-flow":
        assert len(results["equal_drift"]["rows"]) == 3, "soups are not trained"
        assert results["rows"][-1]["soup"] == ["preference", "alignment", "aesthetic"]
    if name == "front":
        assert [front["name"] for front in results["fronts"]] == ["soups"]
    if name == "fig5":
        assert 'id="weights"' in page
    if name == "fig6":
        assert 'id="scores"' in page
