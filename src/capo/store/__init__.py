"""The run directory: artifacts with manifests, written atomically by one process at a time."""

from capo.store.artifact import Artifact, StaleArtifact
from capo.store.errors import WorkspaceError
from capo.store.manifest import Manifest
from capo.store.run_directory import Run

__all__ = ["Artifact", "Manifest", "Run", "StaleArtifact", "WorkspaceError"]
