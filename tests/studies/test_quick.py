"""Every shipped study in its quick form, on the shipped checkpoints: structure, not numbers."""

from pathlib import Path

import pytest

from capo.studies import load_study, shipped_studies
from capo.studies.measure_names import MEAN
from capo.studies.run_study import Outcome, run_study


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """One folder for all studies, so that later ones reuse artifacts of earlier ones."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("name", shipped_studies())
def test_a_shipped_study_runs_from_end_to_end(name, studies):
    study = load_study(name, quick=True)
    outcome = run_study(study, studies / study.name)
    results = outcome.results
    assert outcome.failed == {}
    assert [row["name"] for row in results["rows"]] == [row.name for row in study.rows]
    measures = [measure["name"] for measure in results["measures"]]
    assert measures[:4] == [MEAN, "preference", "alignment", "aesthetic"]
    for row in [*results["rows"], {"measures": results["null"]}]:
        assert list(row["measures"]) == measures
        for each in measures[:5]:
            estimate = row["measures"][each]
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert all(len(found) == len(study.rows) - 1 for found in results["comparisons"].values())
    assert "numbers mean nothing" in (outcome.folder / "table.md").read_text()
    _look_closer(name, outcome)


def _look_closer(name: str, outcome: Outcome) -> None:
    """Check what only one study has."""
    results, page = outcome.results, (outcome.folder / "index.html").read_text()
    if name == "table2":
        assert len(results["equal_drift"]["rows"]) == 15, "soups are not trained"
        assert results["rows"][-1]["soup"] == ["capo-preference", "capo-alignment", "capo-aesthetic"]
    if name == "front":
        assert [front["name"] for front in results["fronts"]] == ["soups"]
    if name == "fig5":
        assert 'id="weights"' in page
    if name == "fig6":
        assert 'id="scores"' in page
