"""Digests of files, kept from one command to the next: hundreds of gigabytes are read once.

A file is known by its path, size and time of change; one of these differs, and it is read again.
What is kept may be removed at any time.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from capo.engine.device import cache_folder

TABLE = "CREATE TABLE IF NOT EXISTS digests (file TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID"
PATIENCE = 60.0
"""Seconds to wait while another process writes."""


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The digest (blake2b, 16 bytes, hexadecimal) of the contents of each file."""
    names = [_name(path) for path in paths]
    known = _find(names)
    wanted = [(name, path) for name, path in zip(names, paths, strict=True) if name not in known]
    with ThreadPoolExecutor() as pool:  # which hashing leaves Python's lock to
        fresh = dict(zip([name for name, _ in wanted], pool.map(_read, [p for _, p in wanted]), strict=True))
    _keep(fresh)
    known |= fresh
    return [known[name] for name in names]


def _name(path: Path) -> str:
    found = path.stat()
    return f"{path.resolve()}\0{found.st_size}\0{found.st_mtime_ns}"


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _find(names: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    # One that cannot be read or written is done without.
    with suppress(sqlite3.Error, OSError), closing(_open()) as database:
        for name in names:
            for (digest,) in database.execute("SELECT digest FROM digests WHERE file = ?", (name,)):
                known[name] = digest
    return known


def _keep(fresh: dict[str, str]) -> None:
    if fresh:
        with suppress(sqlite3.Error, OSError), closing(_open()) as database, database:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", fresh.items())


def _open() -> sqlite3.Connection:
    place = cache_folder() / "digests.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(place, timeout=PATIENCE)
    database.execute(TABLE)
    return database
