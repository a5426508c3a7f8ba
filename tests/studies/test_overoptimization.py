"""Gains along the steps of a row: over seeds, in the table and on the page, of old runs and new ones."""

import pytest

from capo.reporting.forest import MEAN
from capo.studies.overoptimization import HELD_OUT, RIGHT, best_and_last, gains, over_seeds, panels


def rows(rates, held_out=None, judge=None, error=0.02):
    """Lines of `validation.jsonl`, the first of them at step 50; without errors as they once were."""
    found = [{"step": 50 * (i + 1), "win_rate": rate} for i, rate in enumerate(rates)]
    for i, row in enumerate(found):
        if error is not None:
            row["standard_error"] = error
        if held_out is not None:
            row |= {"held_out_win_rate": held_out[i], "held_out_standard_error": 0.03}
        if judge is not None:
            row |= {"judge_difference": judge[i], "judge_standard_error": 0.01}
    return found


def curve(validations):
    rates = [row["win_rate"] for row in validations]
    steps = [row["step"] for row in validations]
    return {"steps": steps, "measures": {MEAN: rates}, "gains": gains(validations)}


BOTH = [
    curve(rows([0.6, 0.7, 0.65], [0.55, 0.6, 0.5], [0.02, 0.0, -0.04])),
    curve(rows([0.64, 0.66, 0.69, 0.7], [0.59, 0.5, 0.5, 0.5], [0.0, 0.02, -0.08, 0.0], error=0.04)),
]


def test_seeds_are_averaged_over_the_steps_they_share():
    found = over_seeds(BOTH)
    assert found["steps"] == [0, 50, 100, 150]
    assert found["best_steps"] == [100, 200]
    assert found["gains"][MEAN]["value"] == pytest.approx([0, 0.12, 0.18, 0.17])
    assert found["gains"][MEAN]["standard_error"] == pytest.approx([0, 0.03, 0.03, 0.03])
    assert found["gains"][HELD_OUT]["value"] == pytest.approx([0, 0.07, 0.05, 0.0])
    assert found["gains"][RIGHT]["value"] == pytest.approx([0, 0.01, 0.01, -0.06])


def test_what_earlier_versions_did_not_log_is_left_out():
    old = curve(rows([0.6, 0.7, 0.65], error=None))
    found = over_seeds([old, old])
    assert list(found["gains"]) == [MEAN]
    assert found["gains"][MEAN]["standard_error"] == [0, None, None, None]
    mixed = over_seeds([BOTH[0], old])
    assert list(mixed["gains"]) == [MEAN], "a mean of some seeds would be one of other prompts"
    (plot,) = panels([{"name": "old", "over_optimization": found}])
    assert 'class="band' not in plot.svg
    assert [key.label for key in plot.keys] == [MEAN, "best step, 100"]


def test_few_validations_make_no_curve():
    assert over_seeds([]) is None
    assert over_seeds([curve(rows([0.6, 0.7]))]) is None
    assert panels([{"name": "short", "over_optimization": None}]) == []


def test_a_panel_a_row_on_the_same_axes():
    found = over_seeds(BOTH)
    drawn = [{"name": name, "over_optimization": found} for name in ("capo", "<dpo>")]
    first, second = panels(drawn)
    assert (first.title, second.title) == ("capo", "<dpo>")
    assert "&lt;dpo&gt;" in second.svg
    assert [key.css for key in first.keys] == ["mean", "held-out", "judge", "best"]
    for css in ("mean", "held-out", "judge"):
        assert f'class="line {css}"' in first.svg
        assert f'class="band {css}"' in first.svg
    assert "at the last: " in first.svg
    assert f"{MEAN} +17.0; {HELD_OUT} +0.0; {RIGHT} -6.0" in first.svg


def test_the_table_sets_the_best_step_beside_the_last():
    short = {"name": "short", "over_optimization": None}
    rows = [
        {"name": "one", "curves": BOTH[:1], "over_optimization": over_seeds(BOTH[:1])},
        {"name": "both", "curves": BOTH, "over_optimization": over_seeds(BOTH)},
    ]
    head, lines = best_and_last([*rows, short])
    assert head == ["row", "best step", "last", MEAN, HELD_OUT, RIGHT]
    one, both = lines
    assert one == ["one", "100", "150", "+20.0 → +15.0", "+10.0 → +0.0", "+0.0 → \N{MINUS SIGN}4.0"]
    # Each seed at its own steps: by the training rewards 0.2 and 0.2, then 0.15 and 0.2.
    assert both == [
        "both",
        "100, 200",
        "150, 200",
        "+20.0 → +17.5",
        "+5.0 → +0.0",
        "+0.0 → \N{MINUS SIGN}2.0",
    ]
