"""The records in docs/evidence stand for finished runs, as the guide on studies promises."""

from pathlib import Path

import pytest

from capo.studies import load_study
from capo.studies.study_run import runs_of

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


@pytest.mark.parametrize(
    "folder", [path.parent for path in sorted(EVIDENCE.rglob("study.yaml"))], ids=lambda f: f.name
)
def test_kept_records_need_no_run(folder):
    """Fails if a change gives the inputs of runs other fingerprints.

    Then run one of the rows, and write new keys only if it has the numbers of its record.
    """
    runs = {run.record: run for run in runs_of(load_study(str(folder / "study.yaml")), folder)}
    records = sorted(folder.glob("*/seed-*.json"))
    assert records
    assert [record for record in records if not runs[record].kept] == []
