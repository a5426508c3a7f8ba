"""Checkpoints: everything a resumed run needs to continue bit for bit.

    checkpoints/step-000100/policy.safetensors      the trained weights
    checkpoints/step-000100/optimizer.safetensors   the optimizer's moments
    checkpoints/step-000100/average.safetensors     the moving average of the weights, if it is on
    checkpoints/step-000100/state.json              step, reference, and the digests of these files

They hold no random state: data and noise are functions of the seed and the step.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from capo.diffusion.sharding import whole
from capo.engine.progress import say
from capo.engine.ranks import Group
from capo.store import Artifact, WorkspaceError
from capo.training.trainer import Trainer

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of a training run.

    `reference` identifies the model that the policy is compared with; its `weights` are the policy's
    `reference_digest()`. A run never continues with another reference.
    """

    def __init__(self, artifact: Artifact, trainer: Trainer, reference: dict[str, str]) -> None:
        self._artifact = artifact
        self._trainer = trainer
        self._reference = reference

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        states = (f for f in self._artifact.files() if f.startswith(f"{FOLDER}/step-"))
        return sorted({int(f.split("/")[1].removeprefix("step-")) for f in states})

    def save(self, step: int) -> None:
        """Write a checkpoint of the current state, atomically.

        Raises `RuntimeError` if the reference is no longer the one that training began with.
        """
        if (digest := self._trainer.policy.reference_digest()) != self._reference["weights"]:
            raise RuntimeError(
                f"step {step}: the frozen reference has changed ({self._reference['weights']}, now "
                f"{digest}); no checkpoint is written, and the previous one is intact"
            )
        if not Group().is_main:
            for content in self._contents().values():
                for tensor in content.values():
                    whole(tensor)  # the main process needs this process's part
            return
        with self._artifact.write_directory(_place(step)) as folder:
            digests = {}
            for name, content in self._contents().items():
                # Copies: a file may not hold one tensor twice, as the state of the 8-bit optimizer does.
                save_file({n: whole(t).cpu().contiguous().clone() for n, t in content.items()}, folder / name)
                digests[name] = _digest(folder / name)
            state = {"step": step, "reference": self._reference, "files": digests}
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def restore(self) -> int:
        """Load the newest intact checkpoint; return its step, or 0 if there is none.

        Reports and removes damaged ones. Raises `WorkspaceError` if it was trained against another reference.
        """
        step = Group().broadcast(self._newest_intact)
        if step:
            self.load(step)
        return step

    def load(self, step: int) -> None:
        """Load the state of a step; 0 is the base model.

        Raises `WorkspaceError` if the checkpoint is damaged or was trained against another reference.
        """
        if step == 0:
            self._trainer.reset()
            return
        folder = self._folder(step)
        try:
            state = _read_state(folder)
            tensors = {name: _read_tensors(folder / name, digest) for name, digest in state["files"].items()}
        except _Damaged as error:
            raise WorkspaceError(f"{error}; put a copy of it back, or train again with --force") from error
        if state["reference"] != self._reference:
            raise WorkspaceError(
                f"{folder} was trained against another reference model "
                f"({state['reference']}, now {self._reference}); train again with --force"
            )
        trainer = self._trainer
        trainer.policy.load_state(tensors["policy.safetensors"])
        trainer.optimizer.load_moments(tensors["optimizer.safetensors"])
        if trainer.average is not None:
            trainer.average.load_state(tensors["average.safetensors"], step)

    def prune(self, keep: int, best: Callable[[int], int | None]) -> None:
        """Remove all checkpoints but the `keep` newest, and for each of those the best one up to its step.

        `best` maps a step to the best step up to it.
        """
        steps = self._removable()
        bests = {best(step) for step in steps[:keep]}
        for step in steps[keep:]:
            if step not in bests:
                self._artifact.remove(_place(step))

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, the last one first."""
        for later in self._removable():
            if later > step:
                self._artifact.remove(_place(later))

    def _removable(self) -> list[int]:
        """The steps, the last one first; none except in the main process, which alone removes any."""
        # The other processes must not even look: a folder may vanish while they list it.
        return self.steps()[::-1] if Group().is_main else []

    def _newest_intact(self) -> int:
        """Return the last step whose files have their recorded digests, or 0; remove damaged later ones."""
        for step in reversed(self.steps()):
            try:
                folder = self._folder(step)
                for name, digest in _read_state(folder)["files"].items():
                    _check(folder / name, digest)
            except _Damaged as error:
                say(f"{error}; resuming from the checkpoint before it")
                self._artifact.remove(_place(step))
            else:
                return step
        return 0

    def _folder(self, step: int) -> Path:
        return self._artifact.folder / _place(step)

    def _contents(self) -> dict[str, dict[str, Tensor]]:
        trainer = self._trainer
        contents = {
            "policy.safetensors": trainer.policy.state(),
            "optimizer.safetensors": trainer.optimizer.moments(),
        }
        if trainer.average is not None:
            contents["average.safetensors"] = trainer.average.state()
        return contents


class _Damaged(WorkspaceError):
    """A checkpoint that is not as it was written."""


def _place(step: int) -> str:
    return f"{FOLDER}/step-{step:06d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state["step"], state["reference"], state["files"].keys()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _Damaged(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    return state


def _check(path: Path, digest: str) -> None:
    if not path.is_file() or _digest(path) != digest:
        raise _Damaged(f"{path} is damaged (its digest is not the recorded one)")


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    _check(path, digest)
    return load_file(path)
