"""Texts that commands keep for later ones are returned as they were written, or not at all."""

import sqlite3

import pytest

from capo.store.cached_texts import CachedTexts


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path))
    texts = CachedTexts("texts.sqlite")
    texts.keep({"a": "first", "b": "second"})
    return texts


def test_texts_are_found_by_their_keys_and_replaced(texts):
    texts.keep({"b": "other"})
    assert texts.find(["a", "b", "c"]) == {"a": "first", "b": "other"}


@pytest.mark.parametrize("damage", ["text = 'fist'", "text = x'ff'", "checksum = 7", "key = 'c'"])
def test_a_row_that_changed_on_disk_is_not_used(texts, tmp_path, damage):
    with sqlite3.connect(tmp_path / "texts.sqlite") as database:
        database.execute(f"UPDATE texts SET {damage} WHERE key = 'a'")
    assert texts.find(["a", "b", "c"]) == {"b": "second"}


def test_no_flipped_bit_changes_a_text(texts, tmp_path):
    path, expected = tmp_path / "texts.sqlite", {"a": "first", "b": "second"}.items()
    whole = path.read_bytes()
    for position in range(len(whole) - 200, len(whole)):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
        )
        assert texts.find(["a", "b"]).items() <= expected
