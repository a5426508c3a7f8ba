"""Rows of the score cache: intact ones come back, damaged ones are reported and never used."""

import sqlite3

import pytest

from capo.recipe import RewardSection
from capo.rewards import Scored
from capo.rewards.score_cache import ScoreCache, open_cache

KEYS = [bytes([number]) * 16 for number in range(3)]
SCORES = [Scored(0.5, truncated=True), Scored(-1.25), Scored(2.0, truncated=False)]


@pytest.fixture(autouse=True)
def messages(monkeypatch):
    """What the cache tells the user."""
    messages = []
    monkeypatch.setattr("capo.rewards.score_cache.say", messages.append)
    return messages


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scores.sqlite"
    ScoreCache(path).keep(KEYS, SCORES)
    return path


def test_intact_rows_are_returned(path, messages):
    assert ScoreCache(path).find([*KEYS, b"unknown"]) == [*SCORES, None]
    assert messages == []


@pytest.mark.parametrize(
    "damage",
    [
        "score = 0.50000001",
        "score = 'half'",
        "truncated = 0",
        "truncated = NULL",
        "truncated = 7",
        "checksum = x'00'",
        f"key = x'{(b'z' * 16).hex()}'",
    ],
)
def test_a_damaged_row_is_reported_and_its_image_scored_again(path, damage, messages):
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE scores SET {damage} WHERE key = ?", [KEYS[0]])
    database.close()
    keys = [*KEYS, b"z" * 16]
    assert ScoreCache(path).find(keys) == [None, *SCORES[1:], None]
    (message,) = messages
    assert "1 damaged" in message
    ScoreCache(path).keep(KEYS[:1], SCORES[:1])
    assert ScoreCache(path).find(KEYS) == SCORES


def test_one_flipped_bit_of_a_score_is_noticed(path):
    """The bytes of 0.5 in the file, with the lowest bit of the exponent flipped: another finite number."""
    content = path.read_bytes()
    half, other = bytes.fromhex("3fe0000000000000"), bytes.fromhex("3ff0000000000001")
    assert content.count(half) == 1
    path.write_bytes(content.replace(half, other))
    assert ScoreCache(path).find(KEYS) == [None, *SCORES[1:]]


def test_scores_of_an_earlier_version_are_not_read(tmp_path, monkeypatch):
    monkeypatch.delenv("CAPO_SCORE_CACHE")
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path))
    section = RewardSection(name="shapes-aesthetic")
    monkeypatch.setattr("capo.rewards.score_cache.VERSION", 1)
    open_cache(section, "cpu").keep(KEYS, SCORES)
    monkeypatch.undo()
    monkeypatch.delenv("CAPO_SCORE_CACHE")
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path))
    assert open_cache(section, "cpu").find(KEYS) == [None] * 3
