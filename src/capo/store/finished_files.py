"""The finished files of a folder, at any depth."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from capo.store import atomic

LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that desktops leave in every folder they show. They are ignored, and go when their folder goes."""


def finished_files(folder: Path | str, prefix: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """Yield all finished files in a folder, at any depth, with their paths from `prefix` on."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a folder may be removed meanwhile
        for entry in entries:
            if entry.name in LITTER or atomic.is_temporary(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from finished_files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry
