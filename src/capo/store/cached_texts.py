"""Texts kept across commands in a SQLite file of the user's cache folder, by key.

The user may delete the file at any time. A file that cannot be read or written is not used, and neither is a
text that has changed on disk.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress

from capo.store.user_cache import cache_folder

TABLE = (
    "CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, text TEXT NOT NULL, checksum TEXT NOT NULL) "
    "WITHOUT ROWID"
)
WRITER_SECONDS = 60.0
"""Seconds to wait while another process writes."""


class CachedTexts:
    """The texts of one file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the texts that are kept."""
        found: dict[str, str] = {}
        # A checksum of another type or text that is not UTF-8 is damage too.
        with suppress(sqlite3.Error, OSError, TypeError), closing(self._open()) as database:
            for key in keys:
                for text, checksum in database.execute(
                    "SELECT text, checksum FROM texts WHERE key = ?", (key,)
                ):
                    if checksum == _checksum(key, text):
                        found[key] = text
        return found

    def keep(self, texts: Mapping[str, str]) -> None:
        """Keep texts, in place of those that their keys have."""
        rows = [(key, text, _checksum(key, text)) for key, text in texts.items()]
        if rows:
            with suppress(sqlite3.Error, OSError), closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        place = cache_folder() / self._name
        place.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(place, timeout=WRITER_SECONDS)
        database.execute(TABLE)
        return database


def _checksum(key: str, text: str) -> str:
    return hashlib.blake2b(f"{key}\0{text}".encode(), digest_size=8).hexdigest()
