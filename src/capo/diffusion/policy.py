"""The trained model and its frozen reference: one network with an adapter (LoRA), or two (full)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from capo.diffusion.adapter import ADAPTER, add_adapter
from capo.diffusion.components import Source, load_part
from capo.diffusion.family import Family
from capo.diffusion.kohya import KOHYA, write_kohya
from capo.diffusion.lora_file import read_lora
from capo.diffusion.reference import FrozenCopy, bit_sums, digest
from capo.diffusion.saved import RECORD, read_record
from capo.diffusion.sharding import check_shardable, gathered, part_like, shard, together, whole
from capo.pretrained.model_loading import is_finite, quiet
from capo.recipe import TrainSection


class Policy:
    """Makes `family.denoiser` trainable; within `reference()` it is the frozen reference again.

    Before the first step, policy and reference have identical outputs, bit for bit. This also holds for a
    policy that continues another one, if that one is its reference.
    """

    def __init__(
        self,
        family: Family,
        section: TrainSection,
        seed: int,
        start: Path | None = None,
        reference: Literal["base", "start"] = "base",
    ) -> None:
        """Continue the saved policy in the folder `start`; `reference` is that policy or the base.

        Raises `ValueError` for LoRA targets that the denoiser does not have, and for a saved policy that
        does not fit.
        """
        self.adaptation = section.adaptation
        self._save_dtype = None if section.save_dtype is None else getattr(torch, section.save_dtype)
        self._family = family
        self._folder = start
        denoiser: Any = family.denoiser
        denoiser.requires_grad_(False)
        widen(family, section)
        self._compiled = denoiser._compiled_call_impl is not None
        self._neutral: dict[str, Tensor] = {}
        if section.adaptation == "lora":
            self._prepare_adapter(section, seed)
        else:
            self._prepare_full(section, reference)
        if section.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        self._trained = _trainable(denoiser)
        self._start = self._first_state()
        self.spread = section.sharding == "fsdp" and together()
        """True if every process holds only its part of the weights."""
        if self.spread:
            check_shardable(denoiser, section)
            for network in self.networks():
                shard(network)
            self._trained = _trainable(denoiser)
        # An adapter's reference is the base without it, or the same adapter with these weights.
        frozen = section.adaptation == "lora" and reference == "start"
        self._frozen = {n: t.clone() for n, t in self.state().items()} if frozen else {}
        self._swapped = self._frozen or self._neutral
        self._hashed: tuple[list[int], str] = [], ""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return dict(self._trained)

    def networks(self) -> list[nn.Module]:
        """Return the denoiser, and in full fine-tuning its frozen copy."""
        return [self._family.denoiser, *([self._copy.module] if self.adaptation == "full" else [])]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Make the family predict and sample as the frozen model that the policy is compared with.

        Leave it before any backward pass: recomputed activations must be the policy's.
        """
        if self._swapped:
            own = {name: tensor.clone() for name, tensor in self.state().items()}
            try:
                self._put(self._swapped)
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

    @contextmanager
    def reference_pass(self) -> Iterator[None]:
        """Like `reference()`, for a forward pass whose output is compared with the policy's bit for bit.

        Compiled code differs between passes with and without gradients, and so does its rounding. A compiled
        reference therefore records a graph too, which ends with its output: detach it.
        """
        with nullcontext() if self._compiled else torch.no_grad(), self.reference():
            yield

    def reference_digest(self) -> str:
        """Return a hash of the frozen weights, computed again only if a sum over their bits has changed."""
        frozen = self._reference_weights()
        if self.spread:
            return digest(frozen)
        if (sums := bit_sums(frozen)) != self._hashed[0]:
            self._hashed = sums, digest(frozen)
        return self._hashed[1]

    def state(self) -> dict[str, Tensor]:
        """Return the trained weights by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights from `state()`; raises `ValueError` naming the first that does not fit."""
        check_fit(tensors, self.state())
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(part_like(tensors[name], parameter))

    def reset(self) -> None:
        """Return to the weights from before the first step."""
        if self.adaptation == "lora":
            self.load_state(self._start)
        elif self._folder is not None:  # from the disk: a narrow copy has lost some of its bits
            self.load_state(self._saved(self._folder))
        else:
            self.load_state(dict(self._copy.module.named_parameters()))

    def save(self, folder: Path | None, record: Mapping[str, Any]) -> None:
        """Write the policy in the layout of diffusers, and `record` with its adaptation as `capo.json`.

        All processes must call this if the policy is spread; those that write nothing pass no folder.
        """
        if self.adaptation == "lora":
            self._save_adapter(folder)
        else:
            self._save_pipeline(folder)
        if folder is not None:
            text = json.dumps({**record, "adaptation": self.adaptation}, indent=2) + "\n"
            (folder / RECORD).write_text(text, encoding="utf-8")

    def _prepare_adapter(self, section: TrainSection, seed: int) -> None:
        denoiser = self._family.denoiser
        self._layers = add_adapter(denoiser, section, seed)
        if self._compiled:
            # Without the adapter, other code would run; with these weights, the adapter has no effect.
            self._neutral = {name: p.detach().clone() for name, p in _trainable(denoiser).items()}
        if self._folder is not None:
            _overwrite(get_peft_model_state_dict(denoiser), self._saved(self._folder))

    def _prepare_full(self, section: TrainSection, reference: Literal["base", "start"]) -> None:
        denoiser = self._family.denoiser
        base = FrozenCopy(denoiser, section) if reference == "base" else None
        if self._folder is not None:
            _overwrite(dict(denoiser.named_parameters()), self._saved(self._folder))
        self._copy = base or FrozenCopy(denoiser, section)
        denoiser.requires_grad_(True)

    def _save_adapter(self, folder: Path | None) -> None:
        denoiser: Any = self._family.denoiser
        config = denoiser.peft_config[ADAPTER].to_dict()
        scale = config["lora_alpha"] / config["r"]
        # Sorted lists: the order of a set differs from process to process.
        metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        # The scale goes into the weights: many readers ignore the metadata, and assume 1.
        metadata["lora_alpha"] = config["r"]
        layers = {name: whole(tensor) for name, tensor in get_peft_model_state_dict(denoiser).items()}
        layers = {
            name: (tensor * scale if _scaled(name) else tensor).to(self._save_dtype or tensor.dtype)
            for name, tensor in layers.items()
        }
        write_kohya(denoiser, None if folder is None else folder / KOHYA)
        if folder is not None:
            self._family.save_lora(folder, layers, metadata)

    def _save_pipeline(self, folder: Path | None) -> None:
        family, denoiser = self._family, self._family.denoiser
        try:
            if self.spread:
                family.denoiser = gathered(denoiser, family.denoiser_class, folder is not None)
            if folder is not None:
                family.save_pipeline(folder, self._save_dtype)
        finally:
            family.denoiser = denoiser

    def _reference_weights(self) -> dict[str, Tensor]:
        if self.adaptation == "full":
            return dict(self._copy.module.named_parameters())
        frozen: dict[str, Tensor] = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in self._family.denoiser.named_parameters()
            if name not in self._trained
        }
        return frozen | self._frozen

    def _first_state(self) -> dict[str, Tensor]:
        """An adapter's first weights, in main memory; empty in full training, where the copy has them."""
        return {n: t.cpu().clone() for n, t in self.state().items()} if self.adaptation == "lora" else {}

    def _saved(self, folder: Path) -> dict[str, Tensor]:
        """The trained weights that `save` wrote to `folder`, under peft's names or the denoiser's."""
        family = self._family
        if self.adaptation == "lora":
            file, part = read_lora(folder), f"{family.denoiser_name}."
            alpha, rank = (file.config.get(f"{part}{name}", 1) for name in ("lora_alpha", "r"))
            denoiser: Any = family.denoiser
            own = denoiser.peft_config[ADAPTER]
            scale = alpha / rank * own.r / own.lora_alpha
            tensors = {name.removeprefix(part): tensor for name, tensor in file.tensors.items()}
            return {name: t * scale if _scaled(name) else t for name, t in tensors.items()}
        source = Source(str(folder))
        saved = load_part(family.denoiser_class, source, family.denoiser_name, torch.float32)
        return {name: parameter.detach() for name, parameter in saved.named_parameters()}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        # Through `data`: autograd must not notice, since the old values return before any backward pass.
        for name, parameter in self._trained.items():
            parameter.data.copy_(tensors[name])

    def _enable(self, enabled: bool) -> None:
        for layer in self._layers:
            layer.enable_adapters(enabled)


def widen(family: Family, section: TrainSection) -> None:
    """Keep the denoiser's weights in float32 if training needs it, whatever the model's precision.

    Small steps would vanish in half precision, so trained weights are kept in float32; the base of an
    adapter only if training computes in another precision than sampling.
    """
    denoiser: Any = family.denoiser
    computing = family.dtype if section.dtype is None else getattr(torch, section.dtype)
    wide = section.adaptation == "full" or computing != family.dtype
    if wide and denoiser.dtype != torch.float32:
        with quiet():  # diffusers warns about any such change
            denoiser.to(torch.float32)


def load_policy(family: Family, folder: Path) -> dict[str, Any]:
    """Turn `family` into the policy saved in `folder`; returns the record of its `capo.json`."""
    record = read_record(folder)
    if record["adaptation"] == "lora":
        family.load_lora(folder)
    else:
        family.load_denoiser(folder)
    return record


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless `tensors` are finite and have the expected names and shapes."""
    if tensors.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise ValueError(f"weights of another model: missing {missing[:3]}, not expected {extra[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, expected {list(expected[name].shape)}"
            raise ValueError(f"weights of another model: {name} is {shapes}")
        if not is_finite(tensor):
            raise ValueError(f"weights of {name} are not finite")


def _overwrite(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into those of a network; raises `ValueError` unless they fit."""
    check_fit(saved, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _scaled(name: str) -> bool:
    """Report whether a tensor of an adapter, under peft's names, is one that its scale multiplies."""
    return ".lora_B." in name


def _trainable(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
