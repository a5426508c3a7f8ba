"""The files of an image folder: only regular files inside it, no devices and no links to the outside."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from capo.engine.progress import say

NAMES_SHOWN = 5


def file_problem(folder: Path, path: Path) -> str | None:
    """Say why `path` is not a file of `folder`, or return None.

    Links are followed only to regular files inside the folder. Opens nothing, so that a pipe cannot block.
    """
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError, ValueError):  # a loop of links is a RuntimeError up to Python 3.12
        # Path.is_symlink raises for a name that is too long.
        return "a broken link" if os.path.islink(path) else "no such file"  # noqa: PTH114
    if not target.is_relative_to(folder.resolve()):
        return "a link to outside the folder"
    return None if stat.S_ISREG(mode) else "not a regular file"


def visible_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the sorted files of `folder`, at any depth, and the reasons for skipped ones by relative path.

    Hidden files and folders, whose names begin with a dot, are ignored. Linked folders are skipped.
    """
    files: list[Path] = []
    skipped: dict[str, str] = {}
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in [*subfolders, *(name for name in names if not name.startswith("."))]:
            path = Path(parent, name)
            if name not in subfolders:
                problem = file_problem(folder, path)
            elif path.is_symlink():
                problem = "a link to a folder"
            else:
                continue
            if problem is None:
                files.append(path)
            else:
                skipped[path.relative_to(folder).as_posix()] = problem
    return sorted(files), skipped


def report_skipped(folder: Path, skipped: Mapping[str, str]) -> None:
    """Print the names of skipped files, if any."""
    if not skipped:
        return
    names = [f"{name!r} ({reason})" for name, reason in sorted(skipped.items())]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    named = ", ".join(names[:NAMES_SHOWN])
    say(f"{folder}: skipped {named}{more}; only regular files inside the folder count")
