"""Scores as weighted means over prompts."""

import csv
import io

import pytest

from capo.benchmarks.benchmark_results import rows_csv
from capo.benchmarks.summary import Score, by_category, mean_by_prompt, mean_of_means
from capo.reporting.benchmark_schema import PublishedRow

ROWS = [
    {"prompt": 0, "image": 0, "category": "count", "correct": True},
    {"prompt": 0, "image": 1, "category": "count", "correct": False},
    {"prompt": 1, "image": 0, "category": "count", "correct": True},
    {"prompt": 2, "image": 0, "category": "color", "correct": False},
]


def test_categories_are_means_over_prompts_and_overall_a_mean_of_categories():
    assert mean_by_prompt(ROWS, "correct") == {0: 0.5, 1: 1.0, 2: 0.0}
    count, color = by_category(ROWS, "correct")
    assert (count.name, count.value, color.name, color.value) == ("count", 0.75, "color", 0.0)
    overall = mean_of_means("overall", (count, color))
    assert overall.value == 0.375  # not 0.5, the mean over prompts
    assert overall.strata == {0: "count", 1: "count", 2: "color"}
    assert overall.weight(2) == 2 * overall.weight(0)


def test_weights_count_and_an_empty_score_has_no_value():
    assert Score("atoms", {0: 1.0, 1: 0.0}, {0: 3.0, 1: 1.0}).value == 0.75
    assert Score("none", {}).value is None
    with pytest.raises(ValueError, match="prompt 0"):
        mean_of_means("overall", [Score("a", {0: 1.0}), Score("b", {0: 1.0})])


def test_published_scores_keep_their_decimals():
    row = PublishedRow(model="SDXL", scores={"overall": 0.55, "counting": 0.5}, source="a paper")
    assert row.printed == {"overall": "0.55", "counting": "0.50"}


def test_no_cell_of_the_rows_is_a_formula():
    rows = [{"prompt": "=cmd|' /C calc'!A0", "score": -1.5, "words": ["=1"], "note": "+1"}]
    (row,) = csv.DictReader(io.StringIO(rows_csv({"tuned": rows})))
    assert row == {
        "model": "tuned", "prompt": "'=cmd|' /C calc'!A0", "score": "-1.5", "words": '["=1"]', "note": "'+1",
    }  # fmt: skip
