"""Artifacts that another run has made already, from the very same inputs, are taken over from there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.store.artifact import Artifact
from capo.store.atomic import WorkspaceError
from capo.store.manifest import canonical, differences
from capo.store.run_directory import Run


def take_over(artifact: Artifact, inputs: Mapping[str, Any], donors: Sequence[Path], force: bool) -> bool:
    """Whether one of the run directories `donors` has the artifact; then it is here too, and committed.

    Its files are linked where the file system can, so they take no room twice; one whose files are
    damaged is passed over. Its line of `timings.jsonl` comes along, and says where it is `shared` from.
    """
    wanted = json.loads(canonical(inputs))
    for directory in donors:
        other = Run(directory).artifact(artifact.name)
        begun = other.begun()
        if begun is None or differences(begun, wanted) or not other.done:
            continue
        try:
            other.verify()
        except WorkspaceError as error:
            say(f"{artifact.name}: not taken over from {directory}: {error}")
            continue
        artifact.adopt(other, force=force)
        say(f"{artifact.name}: taken over from {directory}")
        if timing := other.run.timings().get(artifact.name):
            artifact.run.record_timing(**timing | {"shared": str(directory)})
        return True
    return False
