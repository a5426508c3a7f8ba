"""From a recipe to a run: the artifacts it needs, their states, and making those that are not done."""

from capo.engine.events import StageResult
from capo.pipeline.preflight import PreflightError, check_run
from capo.pipeline.runner import RunResult, run
from capo.pipeline.states import ArtifactStatus, State, status, verify

__all__ = [
    "ArtifactStatus",
    "PreflightError",
    "RunResult",
    "StageResult",
    "State",
    "check_run",
    "run",
    "status",
    "verify",
]
