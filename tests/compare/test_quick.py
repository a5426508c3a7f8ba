"""A shipped study in its quick form, on the shipped checkpoints: its shape, not its outcome."""

from capo.compare import load_study
from capo.compare.running import run_study
from capo.reporting.forest import MEAN


def test_table2_runs_from_end_to_end(tmp_path):
    study = load_study("table2", quick=True)
    outcome = run_study(study, tmp_path / study.name)
    results = outcome.results
    assert outcome.failed == {}
    assert [row["name"] for row in results["rows"]] == [row.name for row in study.rows]
    measures = [measure["name"] for measure in results["measures"]]
    assert measures[:4] == [MEAN, "preference", "alignment", "aesthetic"]
    for row in [*results["rows"], {"measures": results["null"]}]:
        assert list(row["measures"]) == measures
        for name in measures[:5]:
            estimate = row["measures"][name]
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert all(len(found) == len(study.rows) - 1 for found in results["comparisons"].values())
    assert len(results["equal_drift"]["rows"]) == 15, "soups are not trained"
    assert results["rows"][-1]["soup"] == ["capo-preference", "capo-alignment", "capo-aesthetic"]
    assert "its numbers mean nothing" in (outcome.folder / "table.md").read_text()
