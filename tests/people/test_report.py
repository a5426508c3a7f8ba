"""The report of a human study: shares by hand, raters set aside, and the files it consists of."""

import csv
import json
import random

import numpy as np
import pytest

from capo.people.analysis import judgments, vote_statistics
from capo.people.collect import add_votes
from capo.people.human_study import HumanStudyError, is_swapped, read_key, read_study
from capo.people.screening import screen
from capo.people.votes import VotesError, collected_votes
from capo.people.votes_page import extremes, warnings
from capo.people.votes_report import write_votes_report
from parsed_page import ParsedPage
from synthetic_study import ballot, write_ballot, write_study


def vote_for(folder, choose, tie=True):
    """Return a rater of models: `choose(entry of the key, pair)` returns a name, or None for a tie."""
    pairs = json.loads((folder / "key.json").read_text())["pairs"]

    def side(pair, question):
        about = pairs[pair.pair]
        chosen = choose(about, pair)
        return "tie" if chosen is None else "left" if about["left"] == chosen else "right"

    return side


def add(folder, study, rater, choose, ms=2000):
    path = write_ballot(folder.parent / rater, study, ballot(study, rater, choose, ms))
    assert add_votes(folder, [path])[0].outcome == "added"


@pytest.fixture
def reported(tmp_path):
    """Three raters on four prompts: one prefers `tuned`, one the base, one ties but on even prompts."""
    folder = tmp_path / "study"
    study = write_study(folder, prompts=4, tie=True, more=("more1",))
    add(
        folder,
        study,
        "ada",
        vote_for(folder, lambda about, _: "tuned" if "tuned" in about.values() else "base"),
    )
    add(folder, study, "bob", vote_for(folder, lambda about, _: "base"))
    even = vote_for(
        folder, lambda about, _: next(n for n in (about["left"], about["right"]) if n != "base")
        if about["category"] == "even" else None
    )  # fmt: skip
    add(folder, study, "cyd", even)
    return folder, write_votes_report(folder)


def test_shares_are_those_counted_by_hand(reported):
    _, results = reported
    tuned, more = results["comparisons"]
    assert (tuned["model"], more["model"]) == ("tuned", "more1")
    assert tuned["win_rate"]["value"] == pytest.approx((4 + 0 + 2 + 1) / 12)
    assert more["win_rate"]["value"] == pytest.approx((0 + 0 + 2 + 1) / 12)
    assert tuned["ties"] == pytest.approx(2 / 12)
    assert tuned["categories"]["even"]["value"] == pytest.approx(4 / 6)
    assert tuned["categories"]["odd"]["value"] == pytest.approx(3 / 6)
    assert tuned["agreement"] == pytest.approx((1 + 0 + 1 + 0) / 12)  # ada and cyd, on even prompts
    assert (tuned["win_rate"]["prompts"], tuned["win_rate"]["raters"]) == (4, 3)
    assert tuned["win_rate"]["low"] < 0.5 < tuned["win_rate"]["high"]


def test_files_agree_and_are_the_same_again(reported):
    folder, results = reported
    report = folder / "report"
    assert json.loads((report / "results.json").read_text()) == results
    with (report / "votes.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row["chosen"] for row in rows if row["rater"] == "ada" and "the tuned" in row.values()]
    assert chosen == ["the tuned"] * 4
    head, _, shares, _ = (report / "table.md").read_text().splitlines()
    assert head == "| the tuned | the base | Improvement | the more1 | the base | Improvement |"
    assert shares == "| 58.3% | 41.7% | +16.7 | 25.0% | 75.0% | -50.0 |"
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    write_votes_report(folder)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_the_page_is_inert_and_has_the_images_of_both_models(reported):
    folder, _ = reported
    page = ParsedPage((folder / "report" / "index.html").read_text())
    images = [e.attributes for e in page.elements if e.tag == "img"]
    assert len(images) == 2 * 8
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert "script" not in {tag for tag, _ in page.vocabulary}
    assert "58.3%" in page.text


def test_raters_are_set_aside_by_conduct(tmp_path):
    folder = tmp_path / "study"
    study = write_study(folder, prompts=16, repeated=6)
    careful = vote_for(folder, lambda about, pair: "tuned" if len(pair.content) % 3 else "base")

    def forgetful(pair, question):  # the side in study.json, whatever it shows: repetitions are exchanged
        return "left"

    pairs = {pair.pair: pair for pair in study.pairs}

    def sided(pair, question):
        return "right" if is_swapped(study, "sided", pairs[pair.pair]) else "left"

    add(folder, study, "careful", careful)
    add(folder, study, "fast", careful, ms=120)
    add(folder, study, "forgetful", forgetful)
    add(folder, study, "sided", sided)
    key, votes = read_key(folder, study), collected_votes(folder, study)
    found = {rater.rater: rater.set_aside for rater in screen(votes, key, tie=False)}
    assert found["careful"] is None
    assert "120 ms" in found["fast"]
    assert "6 of 6 catch trials" in found["forgetful"]
    assert "left side" in found["sided"]
    results = write_votes_report(folder)
    assert results["votes"] == {"collected": 88, "judgments": 64, "counted": 16}
    assert results["comparisons"][0]["with_all_raters"]["votes"] == 64


def test_setting_aside_never_looks_at_the_model(tmp_path):
    """Raters who mirror each other's preferences get the same verdict."""
    folder = tmp_path / "study"
    study = write_study(folder, prompts=12, repeated=5)
    for seed in range(6):

        def opinion(about, pair, seed=seed, flip=False):
            draw = random.Random(f"{seed}{pair.pair}").random() < 0.4
            return "tuned" if draw != flip else "base"

        add(folder, study, f"a{seed}", vote_for(folder, opinion))
        add(folder, study, f"b{seed}", vote_for(folder, lambda a, p, o=opinion: o(a, p, flip=True)))
    votes = collected_votes(folder, study)
    screened = {rater.rater: rater for rater in screen(votes, read_key(folder, study), tie=False)}
    assert all(screened[f"a{n}"].failed == screened[f"b{n}"].failed for n in range(6))
    kept = {rater for rater, about in screened.items() if about.set_aside is None}
    assert {rater[1] for rater in kept if rater[0] == "a"} == {rater[1] for rater in kept if rater[0] == "b"}
    assert 0 < len(kept) < 12


def test_identical_pairs_are_ties_where_ties_are_allowed(tmp_path):
    for tie in (True, False):
        folder = tmp_path / f"study-{tie}"
        study = write_study(folder, prompts=6, identical=5, tie=tie)
        add(folder, study, "eve", vote_for(folder, lambda about, _: about["left"]))
        (eve,) = screen(collected_votes(folder, study), read_key(folder, study), tie)
        assert (eve.judged, eve.failed) == ((5, 5) if tie else (0, 0))


@pytest.mark.parametrize(("repeated", "warned"), [(0, True), (3, True), (4, False)])
def test_the_page_warns_of_catch_trials_that_cannot_set_anyone_aside(tmp_path, repeated, warned):
    folder = tmp_path / "study"
    study = write_study(folder, prompts=6, repeated=repeated, identical=4)
    add(folder, study, "eve", vote_for(folder, lambda *_: "tuned"))
    shown = warnings(write_votes_report(folder))
    assert any("catch trial" in each for each in shown) == warned


def test_votes_plan_the_next_study(reported):
    folder, _ = reported
    study = read_study(folder)
    key, votes = read_key(folder, study), collected_votes(folder, study)
    judged = [j for j in judgments(votes, key, []) if j.model == "tuned"]
    planned = vote_statistics(judged)
    assert planned.agreement == pytest.approx(2 / 12)
    assert planned.votes.agreement == 0.5  # at least that of chance
    assert (planned.prompts, planned.raters) == (4, 3)
    assert planned.spread == pytest.approx(np.std([1.0, 0.0, 0.75], ddof=1), abs=0.1)


def test_nothing_is_reported_without_votes_or_with_a_changed_image(tmp_path):
    folder = tmp_path / "study"
    study = write_study(folder, prompts=3)
    with pytest.raises(VotesError, match="people add"):
        write_votes_report(folder)
    add(folder, study, "ada", lambda *_: "left")
    image = folder / "page" / study.pairs[0].left.file
    image.write_bytes(b"other")
    with pytest.raises(HumanStudyError, match="changed"):
        write_votes_report(folder)
    assert not (folder / "report").exists()


def test_reasons_are_listed_if_all_raters_are_set_aside(tmp_path):
    folder = tmp_path / "study"
    study = write_study(folder, prompts=3)
    for rater in ("ada", "bob"):
        add(folder, study, rater, lambda *_: "left", ms=100)
    with pytest.raises(VotesError, match=r"ada: took 100 ms.*\n.*bob: took 100 ms"):
        write_votes_report(folder)


def test_extremes_are_disjoint_and_skip_single_votes():
    def row(name, votes, share):
        return {"pair": name, "question": "q", "votes": votes, "share": share}

    rows = [row("a", 1, 1.0), row("b", 5, 1.0), row("c", 6, 0.0), row("d", 4, 0.5), row("e", 5, 0.6)]
    most, least = extremes(rows)
    assert [each["pair"] for each in most] == ["c", "b"]
    assert [each["pair"] for each in least] == ["d", "e"]
