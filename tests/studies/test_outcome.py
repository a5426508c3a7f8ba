"""Numbers, table and page of a study of synthetic runs, against plain loops over their files."""

import itertools
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from capo.reporting.wording import NONE, points
from capo.store import Run
from capo.studies import load_study
from capo.studies.commands import study_command
from capo.studies.contrasts import contrasts
from capo.studies.measure_names import JUDGED, MEAN
from capo.studies.run_measures import measure_run
from capo.studies.study import Row, Study
from capo.studies.study_figures import figure_files, study_figures
from capo.studies.study_page import render_study
from capo.studies.study_results import study_results
from capo.studies.study_run import StudyRun
from capo.studies.study_table import study_table
from capo.studies.study_warnings import study_warnings
from capo.studies.table_cells import NULL_ROW
from parsed_page import ParsedPage
from synthetic_run import Options, make_run

ROWS = {
    "good": Row("good", {"train.weighting": "sigmoid"}, None, ()),
    "<b>same</b>": Row("<b>same</b>", {"train.weighting": "constant"}, "as <i>good</i>", ()),
}
SEEDS = (0, 1)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    runs = []
    for (name, row), seed in itertools.product(ROWS.items(), SEEDS):
        options = Options(
            prompts=8,
            samples=6,
            evaluation_prompts=20,
            evaluation_samples=3,
            steps=40,
            gain=(0.9 if name == "good" else 0.0) + 0.1 * seed,
            pixels=16,
            train={"weighting": row.own["train.weighting"]},
        )
        recipe, _ = make_run(folder / name.replace("/", "|") / f"seed-{seed}", options)
        row = Row(name.replace("/", "|"), row.own, row.tune, ())
        runs.append(StudyRun(row, seed, folder, recipe))
    rows = tuple({run.row.name: run.row for run in runs}.values())
    study = Study("made-up", "A & B", "shapes", {}, rows, SEEDS, "good")
    return study_results(study, [measure_run(run) for run in runs], {"other, seed 1": "it <diverged>"}), runs


def page_of(results, runs):
    return render_study(results, runs, study_figures(results, runs))


def scores(run, model, reward):
    home = run.artifact("evaluate" if model == "tuned" else "baseline")
    found = {}
    for row in home.read_table(f"scores/{model}/{reward}.parquet").to_pylist():
        found.setdefault(row["prompt_id"], []).append(row["score"])
    return found


def rates(run, reward, model="tuned"):
    """Win-rate of each prompt by counting."""
    candidate, base = scores(run, model, reward), scores(run, "base", reward)
    return {
        p: np.mean([(a > b) + (a == b) / 2 for a, b in itertools.product(candidate[p], base[p])])
        for p in base
    }


def test_rows_are_means_over_seeds_and_prompts(made):
    results, runs = made
    assert [m["name"] for m in results["measures"]] == [
        MEAN, "preference", "vqa", "aesthetic", "heldout", JUDGED,
    ]  # fmt: skip
    for row in results["rows"]:
        own = [Run(run.directory) for run in runs if run.row.name == row["name"]]
        for reward in ("vqa", "heldout"):
            by_seed = [rates(run, reward) for run in own]
            estimate = row["measures"][reward]
            assert estimate["seeds"] == pytest.approx([np.mean(list(each.values())) for each in by_seed])
            by_prompt = [np.mean([each[p] for each in by_seed]) for p in by_seed[0]]
            assert estimate["value"] == pytest.approx(np.mean(by_prompt))
            assert estimate["standard_error"] == pytest.approx(np.std(by_prompt, ddof=1) / np.sqrt(20))
        mean = [row["measures"][r]["value"] for r in ("preference", "vqa", "aesthetic")]
        assert row["measures"][MEAN]["value"] == pytest.approx(np.mean(mean))
    null = [np.mean(list(rates(Run(run.directory), "vqa", "null").values())) for run in runs[:2]]
    assert results["null"]["vqa"]["seeds"] == pytest.approx(null)


def test_images_better_by_all_rewards_at_once(made):
    results, runs = made
    rewards = ("preference", "vqa", "aesthetic", "heldout")
    shares = []
    for run in runs[:2]:
        tuned, base = ([scores(Run(run.directory), m, r) for r in rewards] for m in ("tuned", "base"))
        wins = [
            all(t[p][k] > b[p][k] for t, b in zip(tuned, base, strict=True))
            for p in base[0]
            for k in range(3)
        ]
        shares.append(np.mean(wins))
    estimate = results["rows"][0]["joint"]["domination"]
    assert estimate["seeds"] == pytest.approx(shares)
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert (
        f"| good | {100 * estimate['value']:.1f}% (" in study_table(results, []).partition("all rewards")[2]
    )
    assert f"{100 * estimate['value']:.1f}%" in page_of(*made)


def test_rows_are_compared_prompt_by_prompt(made):
    results, runs = made
    good, same = ([Run(r.directory) for r in runs[start : start + 2]] for start in (0, 2))
    differences = {}
    for a, b in zip(same, good, strict=True):
        left, right = rates(a, "preference"), rates(b, "preference")
        for prompt in left:
            differences.setdefault(prompt, []).append(left[prompt] - right[prompt])
    (found,) = results["comparisons"]["preference"]
    assert found["value"] == pytest.approx(np.mean([np.mean(each) for each in differences.values()]))
    assert found["p_corrected"] == found["p"]  # of a single comparison
    (clear,) = results["comparisons"][MEAN]
    assert clear["p"] < 0.01
    assert "is below good by the mean of the training rewards" in clear["sentence"]
    assert "with this sign in 2 of 2 seeds" in clear["sentence"]


def test_drift_cost_and_judgments(made):
    results, runs = made
    metrics = Run(runs[0].directory).artifact("train").read_json_lines("metrics.jsonl")
    step = 200  # the values of the synthetic evaluation, which follows the last step
    lately = [row for row in metrics if row["step"] <= step][-20:]
    row = results["rows"][0]
    assert row["drift"] == pytest.approx(np.mean([each["drift"] for each in lately]))
    assert row["error_growth"] == pytest.approx(np.mean([each["error/chosen"] for each in lately]))
    seconds = sum(each["seconds"] for each in Run(runs[0].directory).timings().values())
    assert row["seconds"] == pytest.approx(seconds)
    assert row["images"] == 8 * 6
    assert results["seconds_spent"] == pytest.approx(4 * seconds)
    assert set(row["judge"]) == {
        "color_attr", "colors", "counting", "position", "single_object", "two_object",
    }  # fmt: skip
    json.dumps(results, allow_nan=False)


def test_the_table_has_every_row_and_the_null_row(made):
    text = study_table(made[0], study_warnings(*made))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0].startswith(f"| row | {MEAN} | preference | vqa | aesthetic | heldout (held out) |")
    value = made[0]["rows"][0]["measures"][MEAN]["value"]
    assert lines[2].startswith(f"| good | {100 * value:.1f}% (")
    assert lines[4].startswith(f"| *{NULL_ROW}* |")
    columns = {line.replace("\\|", "").count("|") for line in lines[:5]}
    assert columns == {len(made[0]["measures"]) + 6}, "names cannot break the table"
    assert "- other, seed 1 failed: it <diverged>" in text


def test_the_table_marks_significant_differences_and_has_the_commands(made):
    results, runs = made
    text = study_table(results, study_warnings(results, runs))
    part = text.partition("## Compared with good")[2].partition("\n## ")[0]
    (line,) = [each for each in part.splitlines() if each.startswith("| <b>same")]
    found = results["comparisons"][MEAN][0]
    assert found["p"] < 0.001
    value, low, high = (points(found[key]) for key in ("value", "low", "high"))
    assert f"| **{value}** ({low} to {high}; p < 0.001; 2 of 2 seeds) |" in line
    assert line.replace("\\|", "").count("|") == len(results["measures"]) + 2
    assert "\ncapo run shapes --set train.weighting=sigmoid --set name=good --set seed=0\n" in text
    assert "made by" not in text, "no shipped study"


def test_settings_are_printed_as_users_type_them(made):
    results, runs = made
    typed = "train.max_grad_norm=null, train.lora_dora=true, train.lora_targets=[to_q]"
    own = {"train.max_grad_norm": None, "train.lora_dora": True, "train.lora_targets": ["to_q"]}
    rows = [row | {"set": own} for row in results["rows"]]
    for shown in (results | {"shared": own}, results | {"rows": rows}):
        assert typed in ParsedPage(page_of(shown, runs)).text
        assert typed in study_table(shown, []).replace("`", "")


def test_the_command_of_a_shipped_study_is_known():
    study = load_study("table6", quick=True, against="constant")
    results = {
        "study": study.name, "recipe": study.recipe, "shared": study.shared, "quick": study.quick,
        "seeds": [0], "against": "constant", "rows": [{"name": r.name, "set": r.own} for r in study.rows],
    }  # fmt: skip
    assert study_command(results) == "capo compare table6 --quick --against constant"
    assert study_command(results | {"seeds": [1]}) is None, "a file of the same name"
    whole = {"quick": False, "study": "table6", "rows": []} | {"shared": load_study("table6").shared}
    some = "capo compare table6 --seeds 0,2 --against constant"
    assert study_command(results | whole | {"seeds": [0, 2]}) == some


def test_a_row_of_other_rewards_and_fewer_seeds(made, tmp_path):
    """Its missing reward leaves a gap in the table and shifts no column of the page."""
    _, runs = made
    options = Options(
        prompts=4, samples=4, evaluation_prompts=20, evaluation_samples=3, steps=8, pixels=16,
        training_rewards=("vqa",), held_out=("aesthetic",),
    )  # fmt: skip
    recipe, _ = make_run(tmp_path / "few" / "seed-0", options)
    few = StudyRun(Row("few", {}, None, ()), 0, tmp_path, recipe)
    good = [run for run in runs if run.row.name == "good"]
    rows = (good[0].row, few.row)
    study = Study("x", "X", "shapes", {}, rows, SEEDS, "good")
    results = study_results(study, [measure_run(run) for run in (*good, few)], {})
    messages = study_warnings(results, [*good, few])
    assert len(messages) == 1
    assert "different rewards" in messages[0]
    text, page = study_table(results, messages), ParsedPage(page_of(results, [*good, few])).text
    scores = text.partition("## Mean scores")[2].partition("\n## ")[0].splitlines()
    assert [line.split(" | ")[1] for line in scores if line.startswith("| few")] == [NONE]
    assert "few (1 of 2 seeds)" in text
    assert "few 1 of 2 seeds" in page
    assert "different rewards" in page


def test_no_comparison_is_explained(made):
    results, runs = made
    nothing = results | {"comparisons": {m["name"]: [] for m in results["measures"]}}
    gone = nothing | {"against": "gone"}
    for shown in (study_table(gone, []), page_of(gone, runs)):
        assert "gone has no finished run" in shown
    assert "the study has one row" in study_table(nothing | {"rows": results["rows"][:1]}, [])


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("href", "src", "action")]


def test_the_page_is_static_and_escapes_names(made):
    page = page_of(*made)
    found = Tags()
    found.feed(page)
    assert not {"script", "iframe", "object", "form"} & set(found.tags)
    local = {a for a in found.addresses if not a.startswith(("#", "data:"))}
    assert {a.rpartition("/")[2] for a in local} == {"index.html"}
    assert all(not a.startswith(("http", "//", "/")) for a in local)
    assert "<b>same" not in page
    assert "it &lt;diverged&gt;" in page
    assert page == page_of(*made)


def test_the_page_draws_what_it_has(made):
    page = page_of(*made)
    for title in (
        f"{MEAN}, over steps", f"{MEAN}, over drift", "heldout, over drift", "Weight on an error of noise",
        "sigmoid, b = 1.5", "Calibrated", 'id="overoptimization"', "At a drift of",
    ):  # fmt: skip
        assert title in page
    judged = page.count('class="interval judge"')
    assert judged == 2, "an interval a row"


def labels(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_figures_are_standalone_files(made):
    found = figure_files(made[0], study_figures(*made))
    kinds = ("win-rates", "curves", "over-optimization", "loss-weights", "scores")
    assert set(found) == {f"{kind}.svg" for kind in kinds}
    for svg in found.values():
        drawn = ElementTree.fromstring(svg)
        width, height = float(drawn.get("width")), float(drawn.get("height"))
        charts = drawn.findall(f"{SVG}svg")
        assert charts
        for chart in charts:
            assert 0 <= float(chart.get("x")) <= width - float(chart.get("width"))
            assert 0 <= float(chart.get("y")) <= height - float(chart.get("height"))
        for mark in drawn.findall(f"{SVG}g"):
            x, y = map(float, re.findall(r"[\d.]+", mark.get("transform")))
            assert 0 <= x < width
            assert 0 <= y < height - 10
        assert "var(" not in svg, "not every program that reads SVG knows variables"
        assert "<b>same" not in svg
    assert labels(found["curves.svg"]).count("<b>same<|b>") == 4, "in every legend"
    assert {"vqa, raw", "vqa, calibrated", "heldout, raw"} <= set(labels(found["scores.svg"]))


def test_the_forest_picture_has_every_row_and_measure(made):
    results = made[0]
    drawn = figure_files(results, study_figures(*made))["win-rates.svg"]
    names = [row["name"] for row in results["rows"]] + [NULL_ROW]
    assert labels(drawn)[: len(names)] == names
    estimates = [row["measures"] for row in results["rows"]] + [results["null"]]
    assert drawn.count('class="interval ') == sum(map(len, estimates))


def test_a_quick_study_warns_about_its_numbers(made):
    results = made[0] | {"quick": True}
    assert "numbers mean nothing" in page_of(results, made[1])
    assert "numbers mean nothing" in study_table(results, study_warnings(results, made[1]))


def test_seeds_without_a_difference_agree_with_nothing():
    difference = {"row": "b", "value": 0.0, "seeds": [0.0, 0.0], "low": -0.1, "high": 0.1, "p_corrected": 1.0}
    ahead = difference | {"value": 0.2, "seeds": [0.4, 0.0]}
    results = {"rows": [{"name": "a"}, {"name": "b"}], "comparisons": {"x": [difference], "y": [ahead]}}
    found = contrasts(results)["b"]
    assert "0 of 2 seeds" in str(found["x"])
    assert "1 of 2 seeds" in str(found["y"])
