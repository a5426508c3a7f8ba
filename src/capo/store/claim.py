"""Folders that capo made: a marker file keeps capo from writing into, or clearing, any other folder."""

import json
from pathlib import Path
from typing import Literal

from capo.store import atomic
from capo.store.errors import WorkspaceError, explain_os_errors
from capo.store.manifest import MANIFESTS

MARKER = ".capo"
LOCK = ".lock"
SHARES = ".shares"
"""The folder of the locks of processes that share the directory."""

Kind = Literal["run", "study"]


def check_claimable(folder: Path, kind: Kind, *, instead: str) -> None:
    """Raise `WorkspaceError` unless `folder` is a `kind` folder of capo, is empty, or does not exist.

    The error names what the folder contains, and ends with the alternative `instead`.
    """
    with explain_os_errors(folder):
        if not folder.exists() or _claimed_as(folder) == kind:
            return
        contents = sorted(entry.name for entry in folder.iterdir() if not _is_ours(entry.name))
    if contents:
        more = f" and {len(contents) - 3} more" if len(contents) > 3 else ""
        raise WorkspaceError(
            f"{folder} was not made by capo as a {kind} directory, and is not empty: it contains "
            f"{', '.join(contents[:3])}{more}; nothing was changed. {instead}"
        )


def claim(folder: Path, kind: Kind, writer: str = "") -> None:
    """Mark `folder`, which passed `check_claimable` and is locked by this process, as made by capo.

    `writer` names this process if others may do the same at the same time.
    """
    if not (folder / MARKER).exists():
        with atomic.write_file(folder / MARKER, writer=writer) as temporary:
            temporary.write_text(json.dumps({"made_by": "capo", "kind": kind}) + "\n", encoding="utf-8")


def _is_ours(name: str) -> bool:
    """Report whether an entry of an otherwise empty folder is left from an interrupted claim."""
    return name in (LOCK, SHARES) or (name.endswith(MARKER) and name.startswith(atomic.TEMPORARY))


def _claimed_as(folder: Path) -> Kind | None:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return marker["kind"]
    except FileNotFoundError:
        return _claimed_by_0_1(folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WorkspaceError(
            f"{folder / MARKER} is damaged ({error}); if capo made this folder, remove that file and copy it "
            "from another run directory"
        ) from error


def _claimed_by_0_1(folder: Path) -> Kind | None:
    """Recognize the folders of version 0.1, which had no marker, by files that only capo writes."""
    if any(map(_is_manifest, sorted((folder / MANIFESTS).rglob("*.json")))):
        return "run"
    return "study" if any(folder.glob(".lock-seed-*")) else None


def _is_manifest(path: Path) -> bool:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(record, dict) and {"schema", "inputs", "versions"} <= record.keys()
