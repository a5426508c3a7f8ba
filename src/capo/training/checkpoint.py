"""Checkpoints: all that a resumed run needs to go on bit for bit.

    checkpoints/step-000100/policy.safetensors      the trained weights
    checkpoints/step-000100/optimizer.safetensors   the optimizer's moments of each
    checkpoints/step-000100/state.json              step, reference and the digests of both files

No random state is in them: data and noise are functions of the seed and the step.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from capo.diffusion.policy import Policy, check_fit
from capo.progress import say
from capo.workspace import Artefact, WorkspaceError

FOLDER = "checkpoints"
WEIGHTS = ("policy.safetensors", "optimizer.safetensors")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoints:
    """The checkpoints of a training run, of `policy` and its `optimizer`.

    `reference` says what the policy is compared with; a run never goes on with another one.
    """

    def __init__(
        self, artefact: Artefact, policy: Policy, optimizer: torch.optim.Optimizer, reference: dict[str, str]
    ) -> None:
        self._artefact = artefact
        self._policy = policy
        self._optimizer = optimizer
        self._reference = reference

    def steps(self) -> list[int]:
        """The steps that there is a checkpoint of, in order."""
        states = (f for f in self._artefact.files() if f.startswith(f"{FOLDER}/step-"))
        return sorted({int(f.split("/")[1].removeprefix("step-")) for f in states})

    def save(self, step: int) -> None:
        """Write a checkpoint of the present state, whole or not at all."""
        tensors = (self._policy.state(), self._moments())
        with self._artefact.write_directory(_place(step)) as folder:
            for name, content in zip(WEIGHTS, tensors, strict=True):
                save_file({n: t.cpu().contiguous() for n, t in content.items()}, folder / name)
            digests = {name: _digest(folder / name) for name in WEIGHTS}
            state = {"step": step, "reference": self._reference, "files": digests}
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def restore(self) -> int:
        """Take over the newest checkpoint; its step, or 0 when there is none.

        A damaged one is named, removed, and the one before it taken. Raises `WorkspaceError` when it
        was trained against another reference.
        """
        for step in reversed(self.steps()):
            try:
                self.load(step)
            except _Damaged as error:
                say(f"{error}; going on from the checkpoint before it")
                self._artefact.remove(_place(step))
            else:
                return step
        return 0

    def load(self, step: int) -> None:
        """Take over the weights and moments of a step."""
        folder = self._artefact.folder / _place(step)
        state = _read_state(folder)
        if state["reference"] != self._reference:
            raise WorkspaceError(
                f"{folder} was trained against another reference model "
                f"({state['reference']}, now {self._reference}); train again with --force"
            )
        policy, moments = (_read_tensors(folder / name, state["files"][name]) for name in WEIGHTS)
        self._policy.load_state(policy)
        self._take_moments(moments)

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the `keep` newest and that of step `best`."""
        for step in self.steps()[:-keep]:
            if step != best:
                self._artefact.remove(_place(step))

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}/{moment}": self._optimizer.state[parameter][moment]
            for name, parameter in self._policy.parameters().items()
            for moment in MOMENTS
        }

    def _take_moments(self, moments: dict[str, Tensor]) -> None:
        parameters = self._policy.parameters()
        expected = {
            f"{name}/{moment}": torch.empty(()) if moment == "step" else parameter
            for name, parameter in parameters.items()
            for moment in MOMENTS
        }
        check_fit(moments, expected)
        for name, parameter in parameters.items():
            self._optimizer.state[parameter] = {
                moment: moments[f"{name}/{moment}"].to(parameter.device) for moment in MOMENTS
            }


class _Damaged(WorkspaceError):
    """A checkpoint whose files are not what was written."""


def _place(step: int) -> str:
    return f"{FOLDER}/step-{step:06d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state["step"], state["reference"], state["files"].keys()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _Damaged(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    return state


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file() or _digest(path) != digest:
        raise _Damaged(f"{path} is damaged (its digest is not the recorded one)")
    return load_file(path)
