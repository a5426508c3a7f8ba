"""Scores kept from one run to the next: what was scored before is not scored again.

A score is known by the content of its image, its prompt, and all that the reward's answer depends
on: its identity, the code of this package's rewards, the versions of the libraries and the kind of
device. Each reward has an SQLite file of its own in the user's cache folder; two processes may use
it at once, and it may be removed at any time. Missing scores are never kept.

`CAPO_SCORE_CACHE=0` in the environment does without.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capo.engine.device import cache_folder
from capo.engine.progress import say
from capo.recipe import RewardSection
from capo.rewards.catalog import SHIPPED
from capo.rewards.protocol import Scored
from capo.rewards.resolve import reward_identity
from capo.store.manifest import canonical, versions

TABLE = (
    "CREATE TABLE IF NOT EXISTS scores "
    "(key BLOB PRIMARY KEY, score REAL NOT NULL, truncated INTEGER) WITHOUT ROWID"
)
PATIENCE = 60.0
"""Seconds to wait while another process writes."""
ASKED_AT_ONCE = 500
"""Keys in one query."""


def score_key(image: bytes, prompt: str) -> bytes:
    """What tells an image file with its prompt from all others, 16 bytes."""
    content = hashlib.blake2b(image, digest_size=16).digest()
    return hashlib.blake2b(content + prompt.encode(), digest_size=16).digest()


def open_cache(section: RewardSection, device: str) -> "ScoreCache | None":
    """The known scores of a reward on a kind of device; None where none are kept.

    They are kept of shipped rewards that run here, whose identity covers all that they do, unless
    the section says otherwise. A function may import what its identity knows nothing of, a program
    may change at any time, and a server scores by its own device and libraries.
    """
    if os.environ.get("CAPO_SCORE_CACHE") == "0" or not _kept(section):
        return None
    origin = {
        "identity": reward_identity(section),
        "device": device,
        "code": _code(),
        "versions": _versions(),
    }
    name = hashlib.blake2b(canonical(origin).encode(), digest_size=16).hexdigest()
    return ScoreCache(cache_folder() / "scores" / f"{name}.sqlite")


class ScoreCache:
    """The known scores of one reward. One that cannot be read or written is done without, and said so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._works = True

    def find(self, keys: Sequence[bytes]) -> list[Scored | None]:
        """The score of each key, None where it is not known."""
        known = self._do(lambda database: _find(database, keys), {})
        return [known.get(key) for key in keys]

    def keep(self, keys: Sequence[bytes], scored: Sequence[Scored]) -> None:
        """Remember all that have a score."""
        rows = [
            (key, s.score, s.truncated) for key, s in zip(keys, scored, strict=True) if s.score is not None
        ]
        self._do(
            lambda database: database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows),
            None,
        )

    def _do(self, work: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
        if not self._works:
            return otherwise
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A connection each time: a thread reads ahead.
            with closing(sqlite3.connect(self._path, timeout=PATIENCE)) as database, database:
                database.execute(TABLE)
                return work(database)
        except (sqlite3.Error, OSError) as error:
            self._works = False
            say(f"{self._path}: {error}; going on without the scores of earlier runs")
            return otherwise


def _find(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Scored]:
    known: dict[bytes, Scored] = {}
    for start in range(0, len(keys), ASKED_AT_ONCE):
        some = keys[start : start + ASKED_AT_ONCE]
        marks = ",".join("?" * len(some))
        for key, *found in database.execute(f"SELECT * FROM scores WHERE key IN ({marks})", some):
            known[key] = _scored(*found)
    return known


def _scored(score: float, truncated: int | None) -> Scored:
    return Scored(score, truncated=None if truncated is None else bool(truncated))


def _kept(section: RewardSection) -> bool:
    if section.cache is not None:
        return section.cache
    here = not section.command and not section.url
    return here and (section.source or section.name) in SHIPPED


@cache
def _code() -> str:
    """A digest of this package's rewards, so that a change of one leaves what it scored behind."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return versions() | {library: version(library) for library in ("pillow", "tokenizers")}
