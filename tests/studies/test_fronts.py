"""Fronts traced by soups: their rows, hypervolumes by hand, the table and the page."""

import importlib.util
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from capo.studies import StudyError, load_study
from capo.studies.fronts import Front
from capo.studies.hypervolume import front_results, hypervolume
from capo.studies.run_measures import measure_run
from capo.studies.study import Row, Study
from capo.studies.study_figures import figure_files, study_figures
from capo.studies.study_file import dump_study
from capo.studies.study_page import render_study
from capo.studies.study_results import study_results
from capo.studies.study_run import StudyRun
from capo.studies.study_table import study_table
from capo.studies.table_cells import row_settings
from parsed_page import ParsedPage
from synthetic_run import Options, make_run

ROWS = [{"name": name, "set": {"pairs.selection": "sum"}} for name in ("a", "b", "c", "many")]
FRONT = {"name": "f", "of": ["a", "b", "c"], "points": 4}


def load(folder, rows=ROWS, **fields):
    path = folder / "study.yaml"
    values = {"name": "basic", "title": "Which?", "recipe": "shapes", "rows": rows, **fields}
    path.write_text(yaml.safe_dump(values))
    return load_study(path)


def front_of(*names, step=0.5, weights=((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))):
    return Front("f", (names[0], names[-1]), step, dict(zip(names, weights, strict=True)))


def test_a_dumped_study_loads_as_the_same_study(tmp_path):
    """Including its fronts and its quick form."""
    study = load(tmp_path, fronts=[FRONT], quick={"train.steps": 3})
    (tmp_path / "again.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "again.yaml") == study
    assert load_study(tmp_path / "again.yaml", quick=True).shared["train.steps"] == 3


def test_a_front_is_all_mixtures_on_a_grid(tmp_path):
    study = load(tmp_path, fronts=[FRONT])
    mixed = {row.name: row.weights for row in study.rows if row.soup}
    third, two = 1 / 3, 2 / 3
    assert mixed == {
        "f-0.667-0.333-0": (two, third, 0),
        "f-0.333-0.667-0": (third, two, 0),
        "f-0.667-0-0.333": (two, 0, third),
        "f-0.333-0.333-0.333": (third, third, third),
        "f-0-0.667-0.333": (0, two, third),
        "f-0.333-0-0.667": (third, 0, two),
        "f-0-0.333-0.667": (0, third, two),
    }
    assert {row.soup for row in study.rows if row.soup} == {("a", "b", "c")}
    (front,) = study.fronts
    assert {name: front.rows[name] for name in "abc"} == {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1)}
    assert len(front.rows) == 10
    assert front.soups == mixed
    row = {"set": {}, "soup": ["a", "b", "c"], "weights": [two, third, 0]}
    assert row_settings(row) == "soup of 0.667 a, 0.333 b"
    assert row_settings(row | {"interpolation": "linear"}) == "linear soup of 0.667 a, 0.333 b"


def test_a_soup_of_a_study_may_be_weighted(tmp_path):
    soup = {"name": "s", "soup": ["a", "b"], "weights": [3, 1]}
    assert load(tmp_path, rows=[*ROWS, soup]).rows[-1].weights == (3, 1)


@pytest.mark.parametrize(
    ("fronts", "message"),
    [
        ([FRONT | {"of": ["a", "x"]}], r"fronts.f.of: no trained row 'x' \(a, b, c, many\)"),
        ([FRONT | {"of": ["a", "a"]}], r"fronts.f.of: a row occurs more than once"),
        ([FRONT | {"of": ["a"]}], r"fronts.0.of: "),
        ([FRONT | {"points": 2}], r"fronts.0.points: "),
        ([FRONT, FRONT], r"fronts: 'f' occurs more than once"),
        ([FRONT | {"point": 3}], r"fronts.0.point: unknown key; did you mean 'points'\?"),
    ],
)
def test_problems_with_fronts_are_named(tmp_path, fronts, message):
    with pytest.raises(StudyError, match=message):
        load(tmp_path, fronts=fronts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"soup": ["a", "b"], "weights": [1]}, "rows.s.weights: 1 weights for a soup of 2 rows"),
        ({"weights": [1]}, "rows.s.weights: 1 weights for a soup of 0 rows"),
        ({"soup": ["a", "b"], "weights": [0, 0]}, "rows.s.weights: all are 0"),
        ({"soup": ["a", "b"], "weights": [1, -1]}, "rows.4.weights.1: "),
    ],
)
def test_problems_with_weights_are_named(tmp_path, row, message):
    with pytest.raises(StudyError, match=re.escape(message)):
        load(tmp_path, rows=[*ROWS, {"name": "s"} | row])


def test_one_reward_has_no_front(tmp_path):
    reward = {"name": "aesthetic", "source": "shapes-aesthetic"}
    with pytest.raises(StudyError, match="two training rewards"):
        load(tmp_path, fronts=[FRONT], set={"rewards": [reward]})


def test_without_moocore_a_front_fails_at_once(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "capo.studies.study_checks.find_spec", lambda name: None if name == "moocore" else find(name)
    )
    with pytest.raises(StudyError, match=re.escape("pip install 'capo-diffusion[front]'")):
        load_study("front")


def test_the_shipped_front_shares_the_rows_of_table2():
    front, table2 = load_study("front"), load_study("table2")
    theirs = {row.name: table2.row_recipe(row, 0).model_dump(exclude={"name"}) for row in table2.rows}
    for row in front.rows:
        if not row.soup:
            assert front.row_recipe(row, 0).model_dump(exclude={"name"}) == theirs[f"capo-{row.name}"]


def test_the_hypervolume_by_hand():
    # Above 50%: 0.1 by 0.2 and 0.2 by 0.1, which share 0.1 by 0.1, in a square of 0.5 by 0.5.
    corners = np.array([[0.6, 0.7], [0.7, 0.6]])
    assert hypervolume(corners) == pytest.approx((0.02 + 0.02 - 0.01) / 0.25)
    below = np.array([[0.49, 0.99], [0.99, 0.1]])
    assert hypervolume(np.concatenate([corners, below])) == pytest.approx(hypervolume(corners))
    assert hypervolume(below) == 0
    assert hypervolume(np.array([[1.0, 1.0, 1.0]])) == pytest.approx(1)


def test_the_hypervolume_by_monte_carlo():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 1.0, (12, 3))
    darts = rng.uniform(0.5, 1.0, (100_000, 3))
    covered = np.zeros(len(darts), dtype=bool)
    for point in points:
        covered |= (darts < point).all(axis=1)
    assert hypervolume(points) == pytest.approx(covered.mean(), abs=4 * np.sqrt(0.25 / len(darts)))


def values(**means):
    """One seed's win-rates by two rewards on 40 prompts with these means."""
    spread = np.tile([-0.05, 0.05], 20)
    return {
        row: [{r: {str(p): m + s for p, s in enumerate(spread)} for r, m in zip("xy", of, strict=True)}]
        for row, of in means.items()
    }


def test_dominance_between_a_front_and_other_rows():
    rows = values(a=(0.7, 0.5), mix=(0.55, 0.5), b=(0.5, 0.7), over=(0.72, 0.6), under=(0.45, 0.5))
    found = front_results(front_of("a", "mix", "b"), rows, ["x", "y"], seed=0)
    assert {p["row"]: p["dominated_by"] for p in found["points"]} == {"a": [], "mix": ["a"], "b": []}
    over, under = found["others"]
    assert (over["row"], over["dominates"], over["dominated_by"]) == ("over", ["a", "mix"], [])
    assert (under["row"], under["dominates"], under["dominated_by"]) == ("under", [], ["a", "mix", "b"])
    assert over["hypervolume"]["value"] == pytest.approx(0.22 * 0.1 / 0.25)
    assert under["hypervolume"]["value"] == 0
    assert found["hypervolume"]["value"] == pytest.approx(0, abs=1e-12)  # its points are at 50% by one
    interval = over["hypervolume"]
    # The same prompts for both rewards: both means move together by 0.05 / sqrt(40) in a standard error.
    low, high = ((0.22 + d) * (0.1 + d) / 0.25 for d in (-1.96 * 0.05 / 40**0.5, 1.96 * 0.05 / 40**0.5))
    assert (interval["low"], interval["high"]) == pytest.approx((low, high), rel=0.08)
    assert found == front_results(front_of("a", "mix", "b"), rows, ["x", "y"], seed=0)


def test_an_unfinished_point_is_left_out():
    rows = values(a=(0.7, 0.6), b=(0.6, 0.7)) | {"mix": []}
    found = front_results(front_of("a", "mix", "b"), rows, ["x", "y"], seed=0)
    assert [point["row"] for point in found["points"]] == ["a", "b"]
    assert front_results(front_of("c", "mix", "d"), rows, ["x", "y"], seed=0) is None


def test_a_row_may_lack_prompts_that_others_have():
    rows = values(a=(0.7, 0.6), b=(0.6, 0.7))
    del rows["a"][0]["x"]["0"]
    mean = np.mean(list(rows["a"][0]["x"].values()))
    (point, _) = front_results(front_of("z", "b", "y"), rows, ["x", "y"], 0)["others"] + [None]
    assert point["row"] == "a"
    assert point["hypervolume"]["value"] == pytest.approx((mean - 0.5) * 0.1 / 0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    soup = ("one", "two")
    rows = (Row("one", {}, None, ()), Row("two", {}, None, ()), Row("both", {}, None, ()))
    rows += (Row("f-0.5-0.5", {}, None, soup, (0.5, 0.5)),)
    runs = []
    for number, row in enumerate(rows):
        options = Options(
            prompts=4, samples=4, evaluation_prompts=10, evaluation_samples=2, steps=4, pixels=16,
            gain=0.3 * number,
        )  # fmt: skip
        recipe, _ = make_run(folder / row.name / "seed-0", options)
        runs.append(StudyRun(row, 0, folder, recipe))
    fronts = (front_of("one", "f-0.5-0.5", "two"),)
    study = Study("made-up", "Made up", "shapes", {}, rows, (0,), "both", fronts)
    return study_results(study, [measure_run(run) for run in runs], {}), runs


def test_the_page_has_a_panel_for_every_two_rewards(made):
    results, runs = made
    (front,) = results["fronts"]
    assert front["rewards"] == ["preference", "vqa", "aesthetic"]
    figures = study_figures(results, runs)
    source = render_study(results, runs, figures)
    page = ParsedPage(source)
    drawn = [e.attributes["aria-label"] for e in page.all("svg") if "aria-label" in e.attributes]
    by_row = {row["name"]: row["measures"] for row in results["rows"]}
    for x, y in itertools.combinations(front["rewards"], 2):
        (label,) = [each for each in drawn if each.startswith(f"Win-rates by {x} and by {y}: ")]
        for row in ("one", "two", "both", "f-0.5-0.5"):
            shown = [f"{100 * by_row[row][reward]['value']:.1f}%" for reward in (x, y)]
            assert f"{row} {shown[0]} and {shown[1]}" in label
    # Every panel has four crosses of two strokes and the two segments between three points.
    classes = [e.attributes.get("class", "") for e in page.all("path")]
    assert sum("whisker" in each for each in classes) == 3 * 4 * 2
    assert classes.count("line mesh") == 3 * 2
    assert "dominates nothing" in page.text
    labels = [
        text.text
        for text in ElementTree.fromstring(figure_files(results, figures)["front-f.svg"]).iter()
        if text.text
    ]
    assert labels.count("soups") == 1, "one legend for all panels"
    assert {"preference and vqa", "vqa and aesthetic", "both"} <= set(labels)


def test_the_table_has_the_front(made):
    text = study_table(made[0], [])
    assert "## Front `f`" in text
    part = text.partition("## Front `f`")[2].partition("\n## ")[0]
    assert [line.split(" | ")[0] for line in part.splitlines() if line.startswith("| ")][2:] == [
        "| one", "| f-0.5-0.5", "| two", "| both",
    ]  # fmt: skip
    assert re.search(r"^- both ", part, re.MULTILINE)
