"""Statistics of rows against numbers worked by hand."""

import numpy as np
import pytest

from capo.scoring.prompt_win_rates import RATE
from capo.studies.equal_drift import equal_drift
from capo.studies.estimates import holm, paired, row_estimate, sentence
from capo.studies.measure_names import JUDGED, MEAN
from capo.studies.run_measures import RunMeasures, ValidationCurve


def test_holm_by_hand():
    # Sorted: 0.01·4, 0.02·3, 0.03·2, 0.5·1, each no smaller than the one before.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_prompt_counts_once_over_all_seeds():
    found = row_estimate([{"a": 0.4, "b": 0.8}, {"b": 0.6, "c": 0.2}], RATE)
    assert found["value"] == pytest.approx((0.4 + 0.7 + 0.2) / 3)
    assert found["seeds"] == pytest.approx([0.6, 0.4])
    assert found["spread"] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert found["standard_error"] == pytest.approx(np.std([0.4, 0.7, 0.2], ddof=1) / np.sqrt(3))
    assert found["low"] <= found["value"] <= found["high"]
    assert row_estimate([{"a": 0.4}], RATE)["spread"] is None


def test_rows_are_compared_on_shared_prompts():
    row = {0: {"a": 0.9, "b": 0.5}, 1: {"a": 0.7, "c": 0.1}, 2: {"a": 0.0}}
    other = {0: {"a": 0.5, "b": 0.5, "z": 1.0}, 1: {"a": 0.5}, 3: {"a": 1.0}}
    found = paired(row, other, seed=0)
    # Prompt a: mean of 0.4 and 0.2; prompt b: 0. Seeds 2 and 3 have no partner.
    assert found["value"] == pytest.approx((0.3 + 0.0) / 2)
    assert found["seeds"] == pytest.approx([0.2, 0.2])
    back = paired(other, row, seed=0)
    assert back["value"] == pytest.approx(-found["value"])
    assert (back["low"], back["high"]) == pytest.approx((-found["high"], -found["low"]))
    assert paired(row, {5: {"a": 0.1}}, seed=0) is None


def test_sentences():
    found = {"value": -0.023, "low": -0.031, "high": -0.015, "seeds": [-0.03, -0.02, 0.01]}
    assert sentence("dpo", "capo", "heldout", found | {"p_corrected": 0.004}) == (
        "dpo is below capo by heldout: −2.3 points (95% interval −3.1 to −1.5; p = 0.004), "
        "with this sign in 2 of 3 seeds."
    )
    assert sentence("dpo", "capo", MEAN, found | {"p_corrected": 0.05}) == (
        "dpo and capo do not differ significantly by the mean of the training rewards: −2.3 points "
        "(95% interval −3.1 to −1.5; p = 0.05)."
    )


def run(row, seed, drift, rates):
    curve = (
        None if drift is None else ValidationCurve(tuple(range(1, len(drift) + 1)), drift, {MEAN: rates}, {})
    )
    return RunMeasures(row, seed, {}, {}, {}, {}, {}, None, None, None, False, curve, {}, None, 0.0)


def test_equal_drift_uses_the_first_crossing():
    runs = [run("back", 0, (0.4, 0.2, 0.6), (0.9, 0.3, 0.1)), run("near", 0, (0.2,), (0.7,))]
    found = equal_drift(runs)
    assert [each["value"] for each in found["rows"]["back"][MEAN]] == pytest.approx([0.7])


def test_the_judges_curve_starts_at_zero():
    curves = [ValidationCurve((1,), (drift,), {MEAN: (0.7,), JUDGED: (0.04,)}, {}) for drift in (0.2, 0.4)]
    runs = [
        RunMeasures(row, 0, {}, {}, {}, {}, {}, None, None, None, False, curve, {}, None, 0.0)
        for row, curve in zip(("near", "far"), curves, strict=True)
    ]
    found = equal_drift(runs)
    assert found["measures"] == [MEAN, JUDGED]
    assert [each["value"] for each in found["rows"]["far"][JUDGED]] == pytest.approx([0.02])


def test_at_equal_drift_by_hand():
    runs = [
        run("far", 0, (0.1, 0.4), (0.6, 0.9)),
        run("far", 1, (0.1, 0.4), (0.6, 0.7)),
        run("near", 0, (0.1, 0.2), (0.7, 0.5)),
        run("soup", 0, None, None),
    ]
    found = equal_drift(runs)
    assert found["levels"] == pytest.approx([0.1, 0.15, 0.2])
    far = found["rows"]["far"][MEAN]
    # At 0.2, a third of the way from 0.1 to 0.4: 0.6 + 0.3 / 3 and 0.6 + 0.1 / 3; at 0.15, a sixth.
    sixth, third = (0.65 + 0.6 + 0.1 / 6) / 2, (0.7 + 0.6 + 0.1 / 3) / 2
    assert [each["value"] for each in far] == pytest.approx([0.6, sixth, third])
    assert far[2]["spread"] == pytest.approx(np.std([0.7, 0.6 + 0.1 / 3], ddof=1))
    assert [each["value"] for each in found["rows"]["near"][MEAN]] == pytest.approx([0.7, 0.6, 0.5])
    assert set(found["rows"]) == {"far", "near"}
    assert equal_drift(runs[:2]) is None
