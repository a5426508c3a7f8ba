"""Answers that are slow to find and depend on little, cached across commands.

An answer is forgotten once the question, capo's own code or the version of a library is new.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import capo
from capo.store.cached_texts import CachedTexts
from capo.store.file_digests import SETTLED_SECONDS, file_digests
from capo.store.manifest import canonical, versions

KEPT = CachedTexts("answers.sqlite")


def remember(question: Any, find: Callable[[], Any]) -> Any:
    """Return the answer to a question, both JSON values, or None; `find` is called unless it is known.

    None, for an answer that may be different the next time, is not kept.
    """
    text = canonical([question, versions(), _own_code()])
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    if kept := KEPT.find([key]):
        return json.loads(kept[key])
    answer = find()
    if answer is not None:
        KEPT.keep({key: canonical(answer)})
    return answer


def described_files(place: Path, patterns: Sequence[str]) -> list[Any] | None:
    """Return the names of the files at `place`, a file or a folder, with the digests of those that match.

    Files that none of `patterns` match are described by their sizes. Returns None if a file may still be
    changing. Raises `FileNotFoundError` if nothing exists at `place`.
    """
    files = [place] if not place.is_dir() else sorted(path for path in place.rglob("*") if path.is_file())
    if any(path.stat().st_mtime > time.time() - SETTLED_SECONDS for path in files):
        return None
    read = [path for path in files if any(path.match(pattern) for pattern in patterns)]
    digests = dict(zip(read, file_digests(read), strict=True))
    return [[path.relative_to(place).as_posix(), digests.get(path, path.stat().st_size)] for path in files]


@cache
def _own_code() -> str:
    """Return a digest of the sizes and times of all modules of this package."""
    folder = Path(capo.__file__).parent
    modules = sorted(folder.rglob("*.py"))
    described = [f"{m.relative_to(folder)} {m.stat().st_size} {m.stat().st_mtime_ns}" for m in modules]
    return hashlib.blake2b("\n".join(described).encode(), digest_size=16).hexdigest()
