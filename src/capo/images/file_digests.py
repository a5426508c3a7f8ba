"""Digests of files, cached across commands, so that hundreds of gigabytes are read once.

A file is read again if its path, size or modification time is new. The cache may be deleted at any time.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from capo.store.user_cache import cache_folder

TABLE = "CREATE TABLE IF NOT EXISTS digests (file TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID"
WRITER_SECONDS = 60.0
"""Seconds to wait while another process writes."""


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Return the digest (blake2b, 16 bytes, hexadecimal) of each file's contents."""
    keys = [_key(path) for path in paths]
    known = _look_up(keys)
    unknown = [(key, path) for key, path in zip(keys, paths, strict=True) if key not in known]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = pool.map(_digest, [path for _, path in unknown])
        fresh = dict(zip([key for key, _ in unknown], digests, strict=True))
    _store(fresh)
    known |= fresh
    return [known[key] for key in keys]


def _key(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _look_up(keys: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    # A cache that cannot be read or written is not used.
    with suppress(sqlite3.Error, OSError), closing(_open()) as database:
        for key in keys:
            for (digest,) in database.execute("SELECT digest FROM digests WHERE file = ?", (key,)):
                known[key] = digest
    return known


def _store(fresh: dict[str, str]) -> None:
    if fresh:
        with suppress(sqlite3.Error, OSError), closing(_open()) as database, database:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", fresh.items())


def _open() -> sqlite3.Connection:
    place = cache_folder() / "digests.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(place, timeout=WRITER_SECONDS)
    database.execute(TABLE)
    return database
