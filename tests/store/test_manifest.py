"""Which inputs count as changed, and how a change is described."""

import pytest

from capo.store.manifest import alike, explain_change

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (f"owner/model@{COMMIT}", "owner/model@main", True),
        (f"owner/model@{COMMIT} + loras/a", "owner/model@main + loras/a", True),
        (f"owner/model@{COMMIT}", "owner/other@main", False),
        (f"owner/model@{COMMIT[:-1]}", "owner/model@main", False),
        (f"owner/model@{COMMIT}", f"owner/model@{COMMIT[::-1]}", False),
        ("owner/model@main", None, False),
    ],
)
def test_a_branch_of_the_hub_may_be_any_commit_of_the_same_repository(one, other, equal):
    assert alike(one, other) is equal
    assert alike(other, one) is equal


def test_a_change_of_a_long_text_is_told_by_the_words_that_differ():
    words = [f"word-{n}" for n in range(40)]
    changed = [*words[:20], "another", *words[21:]]
    assert explain_change("source", " ".join(words), " ".join(changed)) == "source: word-20 → another"
    message = explain_change("source", " ".join(words), " ".join(words[1:]))
    assert message.startswith("source: word-0 word-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blake2b:{}", "contents changed"),
        ("{}", "contents changed"),
        ("my_rewards:warmth blake2b:{}", "contents of my_rewards:warmth changed"),
        ("python score.py blake2b:{} --fast", "contents of score.py changed"),
        (f"owner/model@{COMMIT} + blake2b:{{}}*0.5", "contents changed"),
    ],
)
def test_digests_are_not_spelled_out(text, message):
    before, after = (text.format(digit * 32) for digit in "ab")
    assert explain_change("field", before, after) == f"field: {message}"


def test_changes_beside_a_digest_are_spelled_out():
    before, after = f"blake2b:{'a' * 32}*0.5", f"blake2b:{'b' * 32}*1.0"
    assert explain_change("field", before, after) == f"field: {before} → {after}"
    before, after = f"owner/model@{COMMIT}", f"owner/model@{COMMIT[::-1]}"
    assert explain_change("field", before, after) == f"field: {before} → {after}"


def test_a_long_path_is_told_by_its_end():
    before, after = (f"/{'folder/' * 20}{name}.txt" for name in ("a", "b"))
    assert explain_change("prompts.source", before, after).endswith("/b.txt")
