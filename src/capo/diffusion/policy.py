"""The trained model and its frozen reference: one network with an adapter (LoRA), or two (full)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from capo.diffusion.adapter import ADAPTER, add_adapter
from capo.diffusion.components import load_part
from capo.diffusion.family import Family
from capo.diffusion.reference import FrozenCopy, digest
from capo.diffusion.saved import LORA, RECORD
from capo.diffusion.sharding import check_shardable, gathered, part_like, shard, together, whole
from capo.engine.device import quiet
from capo.recipe import TrainSection


class Policy:
    """Makes `family.denoiser` trainable, and gives back the reference inside `reference()`.

    While nothing was learned, policy and reference answer with the very same bits; those of a policy
    that goes on from another do so where that one is its reference.
    """

    def __init__(
        self,
        family: Family,
        section: TrainSection,
        seed: int,
        start: Path | None = None,
        reference: Literal["base", "start"] = "base",
    ) -> None:
        """`start` is the folder of a saved policy to go on from; the `reference` is that one, or the base.

        Raises `ValueError` for LoRA targets that the denoiser does not have, and for a policy that does
        not fit.
        """
        self.adaptation = section.adaptation
        self._family = family
        self._folder = start
        denoiser: Any = family.denoiser
        denoiser.requires_grad_(False)
        widen(family, section)
        if section.adaptation == "lora":
            self._layers = add_adapter(denoiser, section, seed)
            if start is not None:
                _take_weights(get_peft_model_state_dict(denoiser), self._saved(start))
        else:
            base = FrozenCopy(denoiser, section) if reference == "base" else None
            if start is not None:
                _take_weights(dict(denoiser.named_parameters()), self._saved(start))
            self._copy = base or FrozenCopy(denoiser, section)
            denoiser.requires_grad_(True)
        if section.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        self._trained = _trainable(denoiser)
        self._start = self._first_state()
        self.spread = section.sharding == "fsdp" and together()
        """Whether each process has only a part of every weight."""
        if self.spread:
            check_shardable(denoiser, section)
            for network in self.networks():
                shard(network)
            self._trained = _trainable(denoiser)
        # An adapter's reference is the base without it, or the same adapter with these weights.
        frozen = section.adaptation == "lora" and reference == "start"
        self._frozen = {n: t.clone() for n, t in self.state().items()} if frozen else {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return dict(self._trained)

    def networks(self) -> list[nn.Module]:
        """The denoiser, and the frozen copy of full fine-tuning."""
        return [self._family.denoiser, *([self._copy.module] if self.adaptation == "full" else [])]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within, the family predicts and samples as the frozen model that the policy is measured against."""
        # Left before any backward pass: recomputed activations must be the policy's.
        if self._frozen:
            own = {name: tensor.clone() for name, tensor in self.state().items()}
            try:
                self._put(self._frozen)
                yield
            finally:
                self._put(own)
        elif self.adaptation == "lora":
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
        return digest(frozen | self._frozen)

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
        """Unlearn everything: the policy is what it was at first."""
        if self.adaptation == "lora":
            self.load_state(self._start)
        elif self._folder is not None:  # from the disk: a narrow copy has not all of its bits
            self.load_state(self._saved(self._folder))
        else:
            self.load_state(dict(self._copy.module.named_parameters()))

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
        (folder / RECORD).write_text(text, encoding="utf-8")

    def _first_state(self) -> dict[str, Tensor]:
        """What an adapter starts from, in main memory; nothing in full training, whose copy has it."""
        return {n: t.cpu().clone() for n, t in self.state().items()} if self.adaptation == "lora" else {}

    def _saved(self, folder: Path) -> dict[str, Tensor]:
        """The trained weights that `save` wrote into `folder`: an adapter's as peft calls them, or all."""
        family = self._family
        if self.adaptation == "lora":
            prefix = f"{family.denoiser_name}."
            return {name.removeprefix(prefix): t for name, t in load_file(folder / LORA).items()}
        saved = load_part(family.denoiser_class, str(folder), family.denoiser_name, dtype=torch.float32)
        return {name: parameter.detach() for name, parameter in saved.named_parameters()}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        # Through `data`: what a pass before has kept for its gradient is there again afterwards.
        for name, parameter in self._trained.items():
            parameter.data.copy_(tensors[name])

    def _enable(self, enabled: bool) -> None:
        for layer in self._layers:
            layer.enable_adapters(enabled)


def _take_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Overwrite tensors of a network with those saved; raises `ValueError` unless they fit."""
    check_fit(saved, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _trainable(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def widen(family: Family, section: TrainSection) -> None:
    """Keep the denoiser's weights in float32 where training does, whatever the model's precision."""
    denoiser: Any = family.denoiser
    computing = family.dtype if section.dtype is None else getattr(torch, section.dtype)
    # Small steps would vanish in half precision, so trained weights are kept in float32; an adapter's
    # base only where training computes in another precision than sampling.
    wide = section.adaptation == "full" or computing != family.dtype
    if wide and denoiser.dtype != torch.float32:
        with quiet():  # diffusers doubts any such change
            denoiser.to(torch.float32)


def load_policy(family: Family, folder: Path) -> dict[str, Any]:
    """Turn `family` into the policy saved in `folder`; returns the record of its `capo.json`."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
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
