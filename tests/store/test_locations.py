"""The same content at another place is no change; other content, or another way to read it, is one."""

import pytest

from capo.store.manifest import differences

ONE, OTHER = "blake2b:" + "1" * 32, "blake2b:" + "2" * 32


@pytest.mark.parametrize(
    ("field", "content", "before", "after"),
    [
        ("model.checkpoint", "model.weights", "./sdxl", "/data/sdxl"),
        ("evaluate.policy", "evaluate.policy.content", "studies/a/soup-0", "/moved/a/soup-0"),
        ("evaluate.prompts.source", "evaluate.prompts.content", "parti:a/p.tsv", "parti:p.tsv"),
        ("images.source", "images.content", "a.1", "b.2"),
        ("rewards.mine.checkpoint", "rewards.mine.weights", "a", "b"),
        ("rewards.mine.command", "rewards.mine.weights", ["python", "a/r.py"], ["python", "b/r.py"]),
    ],
)
def test_moved_content_is_the_same(field, content, before, after):
    identity = f"python r.py {ONE}" if field.startswith("rewards") else ONE
    old = {field: before, content: identity}
    assert differences(old, {field: after, content: identity}) == {}
    changed = identity.replace(ONE, OTHER)
    assert set(differences(old, {field: after, content: changed})) == {field, content}
    assert set(differences(old, {field: before, content: changed})) == {content}
    assert set(differences({field: before}, {field: after})) == {field}


def test_texts_that_differ_in_spaces_differ():
    for other in ("a  b", "a+b", "a b "):
        assert differences({"report.title": "a b"}, {"report.title": other})


@pytest.mark.parametrize(
    ("before", "after", "content"),
    [
        ("a.txt", "a.jsonl", "1" * 32),
        ("parti:p.tsv", "drawbench:p.tsv", "1" * 32),
        ("shapes:train", "shapes:test", "capo-diffusion==1.0"),
        ("hub:a/b", "hub:a/c", None),
    ],
)
def test_other_prompts_differ_although_their_identity_is_the_same(before, after, content):
    values = [{"prompts.source": source, "prompts.content": content} for source in (before, after)]
    assert set(differences(*values)) == {"prompts.source"}
