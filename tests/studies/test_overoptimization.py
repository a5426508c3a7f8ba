"""Gains along training: averaged over seeds, in tables and plots, for old and new runs."""

import pytest

from capo.studies.gain_plots import gain_plots
from capo.studies.gains import best_and_last, gains_of, mean_gains
from capo.studies.measure_names import CORRECT, HELD_OUT, MEAN, source_title


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
    return {"steps": steps, "measures": {MEAN: rates}, "gains": gains_of(validations)}


BOTH = [
    curve(rows([0.6, 0.7, 0.65], [0.55, 0.6, 0.5], [0.02, 0.0, -0.04])),
    curve(rows([0.64, 0.66, 0.69, 0.7], [0.59, 0.5, 0.5, 0.5], [0.0, 0.02, -0.08, 0.0], error=0.04)),
]


def test_seeds_are_averaged_over_the_steps_they_share():
    found = mean_gains(BOTH)
    assert found["steps"] == [0, 50, 100, 150]
    assert found["best_steps"] == [100, 200]
    assert found["gains"][MEAN]["value"] == pytest.approx([0, 0.12, 0.18, 0.17])
    assert found["gains"][MEAN]["standard_error"] == pytest.approx([0, 0.03, 0.03, 0.03])
    assert found["gains"][HELD_OUT]["value"] == pytest.approx([0, 0.07, 0.05, 0.0])
    assert found["gains"][CORRECT]["value"] == pytest.approx([0, 0.01, 0.01, -0.06])


def test_missing_fields_of_earlier_versions_are_left_out():
    old = curve(rows([0.6, 0.7, 0.65], error=None))
    found = mean_gains([old, old])
    assert list(found["gains"]) == [MEAN]
    assert found["gains"][MEAN]["standard_error"] == [0, None, None, None]
    mixed = mean_gains([BOTH[0], old])
    assert list(mixed["gains"]) == [MEAN], "a mean of some seeds would be one of other prompts"
    (plot,) = gain_plots([{"name": "old", "over_optimization": found}])
    assert 'class="band' not in plot.svg
    assert [key.label for key in plot.keys] == [MEAN, "best step, 100"]


def test_few_validations_make_no_curve():
    assert mean_gains([]) is None
    assert mean_gains([curve(rows([0.6, 0.7]))]) is None
    assert gain_plots([{"name": "short", "over_optimization": None}]) == []


def test_one_panel_per_row_on_the_same_axes():
    found = mean_gains(BOTH)
    drawn = [{"name": name, "over_optimization": found} for name in ("capo", "<dpo>")]
    first, second = gain_plots(drawn)
    assert (first.title, second.title) == ("capo", "<dpo>")
    assert "&lt;dpo&gt;" in second.svg
    assert [key.css for key in first.keys] == ["mean", "held-out", "judge", "best"]
    for css in ("mean", "held-out", "judge"):
        assert f'class="line {css}"' in first.svg
        assert f'class="band {css}"' in first.svg
    assert f"{MEAN} +17.0; {HELD_OUT} +0.0; {source_title(CORRECT)} -6.0" in first.svg


def test_the_table_has_the_best_and_the_last_step():
    short = {"name": "short", "over_optimization": None}
    rows = [
        {"name": "one", "curves": BOTH[:1], "over_optimization": mean_gains(BOTH[:1])},
        {"name": "both", "curves": BOTH, "over_optimization": mean_gains(BOTH)},
    ]
    head, lines = best_and_last([*rows, short])
    assert head == ["row", "best step", "last", MEAN, HELD_OUT, source_title(CORRECT)]
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
