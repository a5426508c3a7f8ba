"""The folder of a study: what is in it, what is not, and what is refused."""

import json
import shutil
from collections import Counter

import pytest

from capo.cli.people_tables import print_study, study_values
from capo.people.build_study import PREFERENCE, PROMPT_FOLLOWING
from capo.people.human_study import (
    KEY,
    PAGE,
    STUDY,
    HumanStudyError,
    Question,
    check_study_images,
    is_swapped,
    rater_order,
    read_key,
    read_study,
)
from made_study import PROMPTS, SECRETS, drawn, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "study"
    make(folder, ("base", "tuned", "more1"), catches=4)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "study")


def test_every_model_meets_the_base_on_every_prompt(folder):
    study = read_study(folder)
    key = read_key(folder, study)
    assert [pair.pair for pair in study.pairs] == [f"p{n:04d}" for n in range(1, 13)]
    compared = Counter(frozenset((p.left, p.right)) for p in key.pairs.values() if p.catch is None)
    assert compared == {frozenset(("base", "tuned")): 4, frozenset(("base", "more1")): 4}
    assert {p.category for p in key.pairs.values()} == {"one", "two"}
    check_study_images(folder, study)


def test_catch_trials_are_what_the_key_says(folder):
    study = read_study(folder)
    key = read_key(folder, study)
    pairs = {pair.pair: pair for pair in study.pairs}
    catches = {name: p for name, p in key.pairs.items() if p.catch is not None}
    assert Counter(p.catch for p in catches.values()) == {"identical": 2, "repeated": 2}
    for name, entry in catches.items():
        shown, original = pairs[name], pairs[entry.of]
        assert shown.prompt == original.prompt
        if entry.catch == "identical":
            assert shown.left == shown.right
            assert shown.left in (original.left, original.right)
        else:
            assert (shown.left, shown.right) == (original.right, original.left)


def test_nothing_that_is_published_names_a_model(folder):
    for path in (folder / PAGE).rglob("*"):
        if path.is_file():
            data = path.read_bytes() + path.name.encode()
            assert not any(secret.encode() in data for secret in SECRETS.values()), path
            assert not any(word in data.lower() for word in (b"tuned", b"more1", b'"base"')), path
    assert all(SECRETS["base"].encode() in drawn("base")(prompt) for prompt in PROMPTS)


def test_the_same_images_and_seed_give_the_same_study(folder, tmp_path):
    make(tmp_path / "again", ("base", "tuned", "more1"), catches=4)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    other = make(tmp_path / "other", ("base", "tuned", "more1"), catches=4, seed=1)
    assert other.id != read_study(folder).id


def test_raters_see_repeated_pairs_exchanged_and_far_from_each_other(folder):
    study = read_study(folder)
    key = read_key(folder, study)
    repeated = [(name, entry.of) for name, entry in key.pairs.items() if entry.catch == "repeated"]
    pairs = {pair.pair: pair for pair in study.pairs}
    orders, swaps = set(), []
    for rater in map(str, range(40)):
        order = [pair.pair for pair in rater_order(study, rater)]
        assert sorted(order) == sorted(pairs)
        orders.add(tuple(order))
        swaps += [is_swapped(study, rater, pair) for pair in study.pairs]
        for again, first in repeated:
            assert is_swapped(study, rater, pairs[again]) == is_swapped(study, rater, pairs[first])
            assert abs(order.index(again) - order.index(first)) >= 4
    assert len(orders) == 40
    assert 0.4 < sum(swaps) / len(swaps) < 0.6


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CHANGES = {
    "another prompt": (STUDY, lambda v: v["pairs"][0].update(prompt="other")),
    "sides exchanged": (STUDY, lambda v: v["pairs"][0].update(left=v["pairs"][0]["right"])),
    "a path outside": (STUDY, lambda v: v["pairs"][0]["left"].update(file="../../key.json")),
    "an absolute path": (STUDY, lambda v: v["pairs"][0]["left"].update(file="/etc/passwd")),
    "an unknown field": (STUDY, lambda v: v.update(script="alert(1)")),
    "a pair twice": (STUDY, lambda v: v["pairs"].append(v["pairs"][0])),
    "no pairs": (STUDY, lambda v: v.update(pairs=[])),
    "the models of the key": (KEY, lambda v: v["pairs"]["p0001"].update(left="tuned", right="tuned")),
    "a pair less in the key": (KEY, lambda v: v["pairs"].pop("p0001")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_study_is_refused(copied, change):
    name, action = CHANGES[change]
    edit(copied / name, action)
    with pytest.raises(HumanStudyError, match=name):
        read_key(copied, read_study(copied))


@pytest.mark.parametrize("spoil", ["cut off", "missing", "link"])
def test_changed_images_are_refused(copied, spoil):
    study = read_study(copied)
    path = copied / PAGE / study.pairs[0].left.file
    data = path.read_bytes()
    path.unlink()
    if spoil == "cut off":
        path.write_bytes(data[:-1])
    elif spoil == "link":
        path.symlink_to("/etc/passwd")
    with pytest.raises(HumanStudyError, match=rf"{path.name}: .*; restore the original"):
        check_study_images(copied, study)


def test_the_default_instruction_mentions_what_raters_can_answer(tmp_path):
    def instruction(name, **settings):
        return make(tmp_path / name, **settings).instruction

    assert "No difference" not in instruction("plain")
    assert "No difference" in instruction("tie", tie=True)
    assert "2 questions" in instruction("two", questions=(PREFERENCE, PROMPT_FOLLOWING))
    assert "better" not in instruction("other", questions=(Question(name="q", text="Which is newer?"),))
    assert instruction("own", tie=True, instruction="Look.") == "Look."


def test_what_cannot_be_a_study_is_refused_before_anything_is_written(tmp_path):
    for settings, reason in (
        ({"post": "javascript:alert(1)"}, "not an address"),
        ({"post": "https://example.org; script-src *"}, "not an address"),
        ({"catches": 5}, "5 catch trials"),
        ({"title": "\x1b[2J"}, r"--title: control character U\+001B"),
        ({"instruction": "x" * 10_001}, "--instruction: 10,001 characters"),
        ({"questions": (Question(name="q", text=" "),)}, "--question: no text"),
    ):
        with pytest.raises(ValueError, match=reason):
            make(tmp_path / "study", **settings)
    (tmp_path / "study").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        make(tmp_path / "study")
    assert [path.name for path in tmp_path.rglob("*")] == ["study"]


@pytest.mark.parametrize(
    ("settings", "judged"), [({}, 2), ({"tie": True}, 4), ({"tie": True, "catches": 2}, 2)]
)
def test_catch_trials_that_cannot_set_anyone_aside_are_a_warning(tmp_path, capsys, settings, judged):
    study = make(tmp_path / "study", **{"catches": 4, **settings})
    assert study_values(tmp_path / "study", study)["judged_votes"] == judged
    print_study(tmp_path / "study", study)
    assert ("Warning" in capsys.readouterr().out) == (judged < 4)
