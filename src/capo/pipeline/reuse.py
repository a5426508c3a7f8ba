"""Reusing artifacts that another run made from the same inputs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.store import Artifact, Run, WorkspaceError
from capo.store.manifest import MANIFESTS, canonical, differences
from capo.store.replaced import replaced_folders
from capo.store.run_directory import SWEEP
from capo.store.step import Step


def own_donors(directory: Path) -> list[Path]:
    """Return the folders inside a run directory from which it can take artifacts: replaced, or of a sweep."""
    return [*(replaced.folder for replaced in replaced_folders(directory)), *swept_runs(directory)]


def swept_runs(directory: Path) -> list[Path]:
    """Return the run directories that a sweep made in `directory`."""
    return sorted(path.parent for path in (directory / SWEEP).glob(f"*/{MANIFESTS}"))


def keep_unchanged(artifact: Artifact, step: Step) -> None:
    """Take the files of what `artifact` replaced that the change of inputs leaves as they are."""
    former = artifact.replaced
    if former is None or step.kept_as is None:
        return
    changed = differences(former.begun() or {}, artifact.begun() or {})
    places = {file: step.kept_as(file, changed) for file in former.files()}
    kept = {file: place for file, place in places.items() if place is not None}
    try:
        artifact.take(former, kept)
    except WorkspaceError as error:
        say(f"{artifact.name}: not everything is reused: {error}")
    taken = [file for file, place in kept.items() if artifact.has(place)]
    if taken:
        folders = Counter(file.partition("/")[0] if "/" in file else artifact.name for file in taken)
        counts = ", ".join(f"{count} files of {folder}" for folder, count in folders.items())
        say(f"{artifact.name}: reuses files that the change does not affect: {counts}")


def reuse(artifact: Artifact, inputs: Mapping[str, Any], donors: Sequence[Path], force: bool) -> bool:
    """Adopt the artifact from the first of the `donors` that made it from `inputs`; return whether one did.

    Files are hard links where the file system supports them, so they take no more space. Donors with damaged
    files or records are skipped with a message. The donor's line of `timings.jsonl` is copied, with the donor
    as `shared`.
    """
    wanted = json.loads(canonical(inputs))
    for directory in donors:
        other = Run(directory).artifact(artifact.name)
        try:
            begun = other.begun()
            if begun is None or differences(begun, wanted) or not other.done:
                continue
            other.verify_once()
            timing = other.run.timings().get(artifact.name)
        except WorkspaceError as error:
            say(f"{artifact.name}: not reused from {directory}: {error}")
            continue
        artifact.adopt(other, force=force)
        say(f"{artifact.name}: reused from {directory}")
        if timing is not None:
            artifact.run.record_timing(**timing | {"shared": str(directory)})
        return True
    return False
