"""Votes files: what is read, what is refused and where, and how files are added to a study."""

import json

import pytest

from capo.people.collect import add_votes
from capo.people.human_study import is_swapped
from capo.people.votes import (
    SERVED,
    Vote,
    VotesError,
    ballot_text,
    collected_votes,
    read_vote_lines,
    read_votes,
    vote_line,
)
from synthetic_study import AT, ballot, write_ballot, write_study


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study")


def left(pair, question):
    return "left"


def test_votes_are_read_with_the_side_that_was_chosen(study, tmp_path):
    path = write_ballot(tmp_path, study, ballot(study, "ada", left))
    votes = read_votes(path, study).votes
    assert [vote.side for vote in votes] == ["left"] * 8
    assert {vote.choice for vote in votes} == {"left", "right"}  # the screen exchanged some


def spoiled(content, text):
    """Return hostile variants of a votes file: a name, the text, the line and a word of the message."""

    def resealed(change):
        changed = json.loads(json.dumps(content))
        change(changed)
        return ballot_text(changed)

    def vote(**fields):
        return resealed(lambda c: c["votes"][2].update(fields))

    return {
        "cut off": (text[: len(text) // 2], None, "damaged"),
        "not text": (text.replace("ada", "\udcff"), 1, "UTF-8"),
        "edited": (text.replace('"choice":"left"', '"choice":"right"', 1), 1, "digest"),
        "not votes": ('{"a": 1}', 1, "not a votes file"),
        "list": ("[]", 1, "not a votes file"),
        "foreign": (text.replace(content["study"], "0" * 16), 1, "study"),
        "twice": (resealed(lambda c: c["votes"].append(c["votes"][2])), 10, "second vote"),
        "unknown pair": (vote(pair="p9999"), 4, "p9999"),
        "script": (vote(pair="<script>alert(1)</script>"), 4, "pair"),
        "unknown question": (vote(question="smell"), 4, "smell"),
        "tie": (vote(choice="tie"), 4, "tie"),
        "sides": (vote(swapped=not content["votes"][2]["swapped"]), 4, "exchanged"),
        "other rater": (resealed(lambda c: c.update(rater="bob")), None, "bob"),
        "path as rater": (resealed(lambda c: c.update(rater="../../x")), 1, "rater"),
        "negative time": (vote(ms=-1), 4, "ms"),
        "number as text": (vote(ms="5"), 4, "ms"),
        "more fields": (vote(weight=9), 4, "weight"),
        "field twice": (text.replace('"ms":2000', '"ms":2000,"ms":1', 1), None, "twice"),
        "NaN": (text.replace('"ms":2000', '"ms":NaN', 1), None, "NaN"),
        "version": (resealed(lambda c: c.update(format=2)), 1, "format"),
        "name in escapes": (text.replace('"votes":', '"v\\u006ftes":').replace('"ms":2', '"ms":-2'), 1, "ms"),
        "indented": (json.dumps(json.loads(text) | {"digest": "0"}, indent=1), 3, "digest"),
    }  # fmt: skip


def test_hostile_files_are_refused_by_file_and_line(study, tmp_path):
    content = ballot(study, "ada", left)
    path = tmp_path / "votes.json"
    for name, (text, line, word) in spoiled(content, ballot_text(content)).items():
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(VotesError) as caught:
            read_votes(path, study)
        message = str(caught.value)
        assert word in message, name
        assert str(path) in message, name
        assert line is None or f"line {line}:" in message, (name, message)
    (outcome,) = add_votes(tmp_path / "study", [path])
    assert outcome.outcome == "refused"
    assert "digest" in outcome.reason
    assert not (tmp_path / "study" / "votes").exists()


def test_a_link_is_not_followed(study, tmp_path):
    path = write_ballot(tmp_path, study, ballot(study, "ada", left))
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(VotesError, match="regular"):
        read_votes(tmp_path / "link.json", study)


def test_adding_again_changes_nothing_and_a_later_file_extends(study, tmp_path):
    whole = ballot(study, "ada", left)
    part = whole | {"votes": whole["votes"][:3], "finished": None}
    first = write_ballot(tmp_path / "part", study, part)
    later = write_ballot(tmp_path / "whole", study, whole)
    other = write_ballot(tmp_path / "bob", study, ballot(study, "bob", left))
    folder = tmp_path / "study"

    def outcomes(*paths):
        return [added.outcome for added in add_votes(folder, paths)]

    assert outcomes(first, first, other) == ["added", "already there", "added"]
    assert outcomes(later) == ["extended"]
    stored = {path.name: path.read_bytes() for path in (folder / "votes").iterdir()}
    assert outcomes(later, first) == ["already there", "refused"]  # the first lacks votes now
    changed = write_ballot(tmp_path / "changed", study, ballot(study, "ada", lambda *_: "right"))
    assert outcomes(changed) == ["refused"]
    assert {path.name: path.read_bytes() for path in (folder / "votes").iterdir()} == stored
    assert len(collected_votes(folder, study)) == 16
    ada, bob = sorted((folder / "votes").iterdir())
    bob.write_bytes(ada.read_bytes())
    with pytest.raises(VotesError, match=rf"{bob}: has the votes of rater ada"):
        collected_votes(folder, study)


def test_a_file_without_votes_is_refused(study, tmp_path):
    path = write_ballot(tmp_path, study, ballot(study, "ada", left) | {"votes": []})
    (outcome,) = add_votes(tmp_path / "study", [path])
    assert (outcome.outcome, outcome.reason.split(";")[0]) == ("refused", f"{path}: no votes")
    assert not (tmp_path / "study" / "votes").exists()


def test_served_lines_replace_earlier_ones_and_an_unacknowledged_one_is_skipped(study, tmp_path):
    def line(pair, side, rater="eve"):
        swapped = is_swapped(study, rater, pair)
        shown = {"left": "right", "right": "left"}[side] if swapped else side
        vote = Vote(pair=pair.pair, question="looks", choice=shown, swapped=swapped, ms=900, at=AT)
        return vote_line(study, rater, vote)

    first, second = study.pairs[:2]
    path = tmp_path / "study" / "votes" / SERVED
    path.parent.mkdir()
    path.write_text(line(first, "left") * 2 + line(first, "right") + line(second, "left")[:-9])
    assert [(vote.pair, vote.side) for vote in read_vote_lines(path, study)] == [("p0001", "right")]
    agreeing = ballot(study, "eve", lambda *_: "right")
    file = write_ballot(tmp_path, study, agreeing)
    assert add_votes(tmp_path / "study", [file])[0].outcome == "added"
    assert len(collected_votes(tmp_path / "study", study)) == 8
    path.write_text(line(first, "left") + line(second, "right").replace(study.id, "f" * 16))
    with pytest.raises(VotesError, match="line 2"):
        read_vote_lines(path, study)
