"""Checkpoints: everything a resumed run needs to continue bit for bit.

    checkpoints/step-000100/policy.safetensors      the trained weights
    checkpoints/step-000100/optimizer.safetensors   the optimizer's moments
    checkpoints/step-000100/average.safetensors     the moving average of the weights, if it is on
    checkpoints/step-000100/state.json              step, reference, and the digests of these files

They hold no random state: data and noise are functions of the seed and the step.

A thread writes them from a copy in main memory while training continues. If the copy would take more than
half of the free memory, training waits instead.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from capo.diffusion.sharding import whole
from capo.engine.background import Background
from capo.engine.memory import free_main_memory
from capo.engine.progress import say
from capo.engine.ranks import Group
from capo.images.disk_space import format_bytes
from capo.store import Artifact, WorkspaceError
from capo.store.manifest import Description, differences
from capo.store.tensor_file import HashedFile, write_tensors
from capo.training.trainer import Trainer

FOLDER = "checkpoints"

MEMORY_SHARE = 0.5
"""Share of the free main memory that the copy of a checkpoint may take."""


class Checkpoints:
    """The checkpoints of a training run; a context that ends once all are written.

    `reference` identifies the model that the policy is compared with; its `weights` are the policy's
    `reference_digest()`. A run never continues with another reference.
    """

    def __init__(self, artifact: Artifact, trainer: Trainer, reference: dict[str, str]) -> None:
        self._artifact = artifact
        self._trainer = trainer
        self._reference = reference
        self._background = Background("checkpoint-writer")
        self._saved: int | None = None
        """The step that was saved last, and may still be being written."""
        self._waits = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order, once all are written."""
        self._background.wait()
        return self._on_disk()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written; waits for none."""
        self._background.check()

    def save(self, step: int) -> None:
        """Write a checkpoint of the current state, atomically; it may be on disk only later.

        Waits for the checkpoint before it, and raises its error if that could not be written. Raises
        `RuntimeError` if the reference is no longer the one that training began with.
        """
        if (digest := self._trainer.policy.reference_digest()) != self._reference["weights"]:
            raise RuntimeError(
                f"step {step}: the frozen reference has changed ({self._reference['weights']}, now "
                f"{digest}); no checkpoint is written, and the previous one is intact"
            )
        self._background.wait()
        contents = self._contents()
        if not Group().is_main:
            for content in contents.values():
                for tensor in content.values():
                    whole(tensor)  # the main process needs this process's part
        elif self._copy_fits(contents):
            copies = {name: _copied(content) for name, content in contents.items()}
            self._saved = step
            self._background.submit(lambda: self._write(step, copies.items()))
        else:
            spread = self._trainer.policy.spread
            self._write(step, ((n, _copied(c) if spread else c) for n, c in contents.items()))

    def restore(self) -> int:
        """Load the newest intact checkpoint; return its step, or 0 if there is none.

        Reports and removes damaged ones. Raises `WorkspaceError` if it was trained against another reference.
        """
        step = Group().broadcast(self._newest_intact)
        if step:
            self._load(step, _read_state(self._folder(step)))
        return step

    def load(self, step: int) -> None:
        """Load the state of a step; 0 is the base model.

        Raises `WorkspaceError` if the checkpoint is damaged or was trained against another reference.
        """
        self._background.wait()
        if step == 0:
            self._trainer.reset()
            return
        try:
            state = self._intact_state(step)
        except _Damaged as error:
            raise WorkspaceError(f"{error}; put a copy of it back, or train again with --force") from error
        self._load(step, state)

    def prune(self, keep: int, best: Callable[[int], int | None]) -> None:
        """Remove all checkpoints but the `keep` newest, and for each of those the best one up to its step.

        `best` maps a step to the best step up to it.
        """
        if not Group().is_main:
            return
        self._background.check()
        steps = self._on_disk()
        if self._background.busy and self._saved is not None:
            steps = sorted({*steps, self._saved})
        steps = steps[::-1]
        bests = {best(step) for step in steps[:keep]}
        outdated = [step for step in steps[keep:] if step not in bests]
        if self._background.busy:  # only once the new one is on disk
            self._background.submit(lambda: self._remove(outdated))
        else:
            self._remove(outdated)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, the last one first."""
        # The other processes must not even look: a folder may vanish while they list it.
        if Group().is_main:
            self._remove([later for later in reversed(self.steps()) if later > step])

    def _on_disk(self) -> list[int]:
        states = (f for f in self._artifact.files() if f.startswith(f"{FOLDER}/step-"))
        return sorted({int(f.split("/")[1].removeprefix("step-")) for f in states})

    def _remove(self, steps: Iterable[int]) -> None:
        for step in steps:
            self._artifact.remove(_place(step))

    def _copy_fits(self, contents: Mapping[str, Mapping[str, Tensor]]) -> bool:
        size = sum(tensor.nbytes for content in contents.values() for tensor in content.values())
        fits = size <= MEMORY_SHARE * free_main_memory()
        if not fits and not self._waits:
            self._waits = True
            say(
                f"train: a copy of the checkpoint ({format_bytes(size)}) would take over half of the free "
                "main memory; training waits while checkpoints are written"
            )
        return fits

    def _write(self, step: int, contents: Iterable[tuple[str, Mapping[str, Tensor]]]) -> None:
        described: dict[str, Description] = {}
        with self._artifact.write_directory(_place(step), described) as folder:
            for name, content in contents:
                with HashedFile(folder / name) as file:
                    write_tensors(file, content)
                described[name] = file.description
            digests = {name: file["blake2b"] for name, file in described.items()}
            state = {"step": step, "reference": self._reference, "files": digests}
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def _load(self, step: int, state: Mapping[str, Any]) -> None:
        """Load files that were verified."""
        folder = self._folder(step)
        if differences(state["reference"], self._reference):
            raise WorkspaceError(
                f"{folder} was trained against another reference model "
                f"({state['reference']}, now {self._reference}); train again with --force"
            )
        trainer = self._trainer
        trainer.policy.load_state(load_file(folder / "policy.safetensors"))
        trainer.optimizer.load_moments(load_file(folder / "optimizer.safetensors"))
        if trainer.average is not None:
            trainer.average.load_state(load_file(folder / "average.safetensors"), step)

    def _intact_state(self, step: int) -> dict[str, Any]:
        """Return the contents of `state.json`, after comparing the files with their digests."""
        folder = self._folder(step)
        state = _read_state(folder)
        for name, digest in state["files"].items():
            _check(folder / name, digest)
        return state

    def _newest_intact(self) -> int:
        """Return the last step whose files have their recorded digests, or 0; remove damaged later ones."""
        for step in reversed(self.steps()):
            try:
                self._intact_state(step)
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


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in main memory, of whole tensors."""
    return {name: whole(tensor).detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state["step"], state["reference"], state["files"].keys()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _Damaged(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    return state


def _check(path: Path, digest: str) -> None:
    if path.is_file():
        size = len(digest) // 2  # version 0.1 recorded longer ones
        with path.open("rb") as file:
            if hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=size)).hexdigest() == digest:
                return
    raise _Damaged(f"{path} is damaged (its digest is not the recorded one)")
