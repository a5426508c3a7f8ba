"""The trained model and its frozen reference: one network with an adapter (LoRA), or two (full)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from capo.diffusion.adapter import ADAPTER, add_adapter
from capo.diffusion.family import Family
from capo.diffusion.reference import FrozenCopy, digest
from capo.diffusion.sharding import check_shardable, gathered, part_like, shard, together, whole
from capo.recipe import TrainSection
from capo.runtime import quiet


class Policy:
    """Makes `family.denoiser` trainable, and gives back the reference inside `reference()`.

    While nothing was learned, policy and reference answer with the very same bits.
    """

    def __init__(self, family: Family, section: TrainSection, seed: int) -> None:
        """Raises `ValueError` for LoRA targets that the denoiser does not have."""
        self.adaptation = section.adaptation
        self._family = family
        denoiser: Any = family.denoiser
        denoiser.requires_grad_(False)
        computing = family.dtype if section.dtype is None else getattr(torch, section.dtype)
        # Small steps would vanish in half precision, so trained weights are kept in float32; an adapter's
        # base only where training computes in another precision than sampling.
        wide = section.adaptation == "full" or computing != family.dtype
        if wide and denoiser.dtype != torch.float32:
            with quiet():  # diffusers doubts any such change
                denoiser.to(torch.float32)
        if section.adaptation == "lora":
            self._layers = add_adapter(denoiser, section, seed)
        else:
            self._copy = FrozenCopy(denoiser, section)
            denoiser.requires_grad_(True)
        if section.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        self._trained = _trainable(denoiser)
        self._start = self._first_state()
        self.spread = section.sharding == "fsdp" and together()
        """Whether each process has only a part of every weight."""
        self.referring = False
        """Whether `reference()` is in force."""
        if self.spread:
            check_shardable(denoiser, section)
            for network in self.networks():
                shard(network)
            self._trained = _trainable(denoiser)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return dict(self._trained)

    def networks(self) -> list[nn.Module]:
        """The denoiser, and the frozen copy of full fine-tuning."""
        return [self._family.denoiser, *([self._copy.module] if self.adaptation == "full" else [])]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within, the family predicts and samples as the frozen base model."""
        self.referring = True
        try:
            with self._as_reference():
                yield
        finally:
            self.referring = False

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        # Left before any backward pass: recomputed activations must be the policy's.
        if self.adaptation == "lora":
            try:
                self._enable(False)
                yield
            finally:
                self._enable(True)
        else:
            denoiser = self._family.denoiser
            try:
                with self._copy.ready() as self._family.denoiser:
                    yield
            finally:
                self._family.denoiser = denoiser

    def reference_digest(self) -> str:
        """A hash of the frozen weights."""
        if self.adaptation == "full":
            return digest(dict(self._copy.module.named_parameters()))
        frozen = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in self._family.denoiser.named_parameters()
            if name not in self._trained
        }
        return digest(frozen)

    def state(self) -> dict[str, Tensor]:
        """The trained weights, by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights from `state()`; raises `ValueError` naming the first that do not fit."""
        check_fit(tensors, self.state())
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(part_like(tensors[name], parameter))

    def reset(self) -> None:
        """Unlearn everything: the policy is the reference again."""
        self.load_state(self._start or dict(self._copy.module.named_parameters()))

    def save(self, folder: Path | None, record: Mapping[str, Any]) -> None:
        """Write the policy as diffusers reads it, and `record` with its adaptation as `capo.json`.

        All processes call this when it is spread, those that write nothing without a folder.
        """
        denoiser: Any = self._family.denoiser
        if self.adaptation == "lora":
            config = denoiser.peft_config[ADAPTER].to_dict()
            # As sorted lists: the order of a set differs from process to process.
            metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
            layers = {name: whole(tensor) for name, tensor in get_peft_model_state_dict(denoiser).items()}
            if folder is not None:
                self._family.save_lora(folder, layers, metadata)
        else:
            kind = self._family.denoiser_class
            self._family.denoiser = gathered(denoiser, kind, folder is not None) if self.spread else denoiser
            if folder is not None:
                self._family.save_pipeline(folder)
            self._family.denoiser = denoiser
        if folder is None:
            return
        text = json.dumps({**record, "adaptation": self.adaptation}, indent=2) + "\n"
        (folder / "capo.json").write_text(text, encoding="utf-8")

    def _first_state(self) -> dict[str, Tensor]:
        """What an adapter starts from, in main memory; nothing in full training, whose copy has it."""
        return {n: t.cpu().clone() for n, t in self.state().items()} if self.adaptation == "lora" else {}

    def _enable(self, enabled: bool) -> None:
        for layer in self._layers:
            layer.enable_adapters(enabled)


def _trainable(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def load_policy(family: Family, folder: Path) -> dict[str, Any]:
    """Turn `family` into the policy saved in `folder`; returns the record of its `capo.json`."""
    record: dict[str, Any] = json.loads((folder / "capo.json").read_text(encoding="utf-8"))
    if record["adaptation"] == "lora":
        family.load_lora(folder)
    else:
        family.load_denoiser(folder)
    return record


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless `tensors` are finite and have the names and shapes expected."""
    if tensors.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise ValueError(f"weights of another model: missing {missing[:3]}, not expected {extra[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, expected {list(expected[name].shape)}"
            raise ValueError(f"weights of another model: {name} is {shapes}")
        if not tensor.isfinite().all():
            raise ValueError(f"weights of {name} are not finite")
