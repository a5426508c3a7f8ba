"""Scores kept between runs, so that the same image is never scored twice for the same prompt.

The key of a score covers the bytes of the image file and the prompt. The file that holds it covers
everything else the score depends on: the reward's identity, the code of this room, the library
versions and the kind of device. Every reward has its own SQLite file in the user's cache folder.
Two processes may use a file at once, and the user may delete it at any time. Every row carries a
checksum: a damaged row is ignored and its image is scored again. Missing scores are not kept.

`CAPO_SCORE_CACHE=0` in the environment turns the cache off.
"""

import hashlib
import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.recipe import RewardSection
from capo.rewards.catalog import shipped_entry
from capo.rewards.protocol import Scored
from capo.rewards.resolve import reward_identity
from capo.store.manifest import canonical, versions
from capo.store.user_cache import cache_folder

VERSION = 2
"""Version of the stored rows. Raise it when scores of earlier versions must not be used.

1 kept scores of images that a function reward could have edited before, and had no checksums.
"""
TABLE = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL, truncated INTEGER, "
    "checksum BLOB NOT NULL) WITHOUT ROWID"
)
LOCK_TIMEOUT = 60.0
"""Seconds to wait while another process writes."""
KEYS_PER_QUERY = 500


def score_key(image: bytes | memoryview, prompt: str) -> bytes:
    """Return the 16-byte key of an image file and its prompt."""
    content = hashlib.blake2b(image, digest_size=16).digest()
    return hashlib.blake2b(content + prompt.encode(), digest_size=16).digest()


def open_cache(section: RewardSection, device: str) -> "ScoreCache | None":
    """Return the score cache of a reward on a kind of device, or None if its scores are not kept.

    By default only shipped rewards in this process are kept, because their identity covers
    everything they do. A function may import code that its identity does not cover, a program may
    change at any time, and a server has its own device and libraries. `cache` in the section
    overrides this default.
    """
    if os.environ.get("CAPO_SCORE_CACHE") == "0" or not _is_kept(section):
        return None
    depends_on = {
        "version": VERSION,
        "identity": reward_identity(section),
        "device": device,
        "code": _code(),
        "versions": _versions(),
    }
    name = hashlib.blake2b(canonical(depends_on).encode(), digest_size=16).hexdigest()
    return ScoreCache(cache_folder() / "scores" / f"{name}.sqlite")


class ScoreCache:
    """The kept scores of one reward. If the file cannot be used, a message says so and scoring proceeds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._usable = True

    def find(self, keys: Sequence[bytes]) -> list[Scored | None]:
        """Return the score of every key, None if it is not cached or its row is damaged."""
        rows = self._run(lambda database: _select(database, keys), [])
        intact = {row[0]: _scored(row) for row in rows if _is_intact(row)}
        if len(intact) < len(rows):
            say(
                f"{self._path}: {len(rows) - len(intact)} damaged scores ignored; their images are "
                "scored again"
            )
        return [intact.get(key) for key in keys]

    def keep(self, keys: Sequence[bytes], scored: Sequence[Scored]) -> None:
        """Store the scores that are not missing."""
        rows = [
            (key, s.score, s.truncated, _checksum(key, s.score, s.truncated))
            for key, s in zip(keys, scored, strict=True)
            if s.score is not None
        ]
        statement = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)"
        self._run(lambda database: database.executemany(statement, rows), None)

    def _run(self, work: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
        if not self._usable:
            return otherwise
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One connection per call, because a second thread reads ahead.
            with closing(sqlite3.connect(self._path, timeout=LOCK_TIMEOUT)) as database, database:
                database.execute(TABLE)
                return work(database)
        except (sqlite3.Error, OSError) as error:
            self._usable = False
            say(f"{self._path}: {error}; continuing without the scores of earlier runs")
            return otherwise


Row = tuple[Any, ...]
"""key, score, truncated and checksum, of any type if the file is damaged."""


def _select(database: sqlite3.Connection, keys: Sequence[bytes]) -> list[Row]:
    rows: list[Row] = []
    for start in range(0, len(keys), KEYS_PER_QUERY):
        some = keys[start : start + KEYS_PER_QUERY]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, score, truncated, checksum FROM scores WHERE key IN ({marks})"
        rows += database.execute(query, some)
    return rows


def _scored(row: Row) -> Scored:
    _, score, truncated, _ = row
    return Scored(score, truncated=None if truncated is None else bool(truncated))


def _is_intact(row: Row) -> bool:
    key, score, truncated, checksum = row
    valid = isinstance(score, float) and truncated in (None, 0, 1)
    return valid and checksum == _checksum(key, score, truncated)


def _checksum(key: bytes, score: float, truncated: bool | int | None) -> bytes:
    content = key + struct.pack("<db", score, -1 if truncated is None else truncated)
    return hashlib.blake2b(content, digest_size=8).digest()


def _is_kept(section: RewardSection) -> bool:
    if section.cache is not None:
        return section.cache
    return shipped_entry(section) is not None


@cache
def _code() -> str:
    """Return a digest of this room's source, so that a change of code starts a new file."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return versions() | {library: version(library) for library in ("pillow", "tokenizers")}
