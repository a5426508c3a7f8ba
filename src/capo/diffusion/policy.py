"""The trained model and its frozen reference: one network with an adapter (LoRA), or two (full)."""

import copy
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from capo.diffusion.family import Family
from capo.recipe import TrainSection
from capo.seeds import stable_seed


class Policy:
    """Makes `family.denoiser` trainable, and gives back the reference inside `reference()`.

    While nothing was learned, policy and reference answer with the very same bits.
    """

    def __init__(self, family: Family, section: TrainSection, seed: int) -> None:
        """Raises `ValueError` for LoRA targets that the denoiser does not have."""
        self.adaptation = section.adaptation
        self._family = family
        denoiser = family.denoiser
        denoiser.requires_grad_(False)
        if section.adaptation == "lora":
            self._reference = denoiser
            _add_lora(denoiser, section, seed)
            self._tuners = [m for m in denoiser.modules() if isinstance(m, BaseTunerLayer)]
        else:
            # Small steps would vanish in half precision, so the trained weights are kept in float32;
            # the reference alike, or the two would not compute with the same numerics.
            if denoiser.dtype != torch.float32:
                denoiser.to(torch.float32)
            self._reference = copy.deepcopy(denoiser)
            denoiser.requires_grad_(True)
        self._trained = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return dict(self._trained)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within, the family predicts and samples as the frozen base model."""
        denoiser = self._family.denoiser
        try:
            if self.adaptation == "lora":
                self._enable(False)
            else:
                self._family.denoiser = self._reference
            yield
        finally:
            # Before any backward pass: recomputed activations must be the policy's.
            self._family.denoiser = denoiser
            if self.adaptation == "lora":
                self._enable(True)

    def reference_digest(self) -> str:
        """A hash of the frozen weights."""
        digest = hashlib.blake2b(digest_size=16)
        for name, parameter in self._reference.named_parameters():
            if self.adaptation == "full" or name not in self._trained:
                name = name.replace(".base_layer.", ".")
                digest.update(f"{name}\0{parameter.dtype}\0{tuple(parameter.shape)}\0".encode())
                digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def state(self) -> dict[str, Tensor]:
        """The trained weights, by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights from `state()`; raises `ValueError` naming the first that do not fit."""
        check_fit(tensors, self.state())
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[name])

    def save(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Write the policy as diffusers reads it, and `record` with its adaptation as `capo.json`."""
        if self.adaptation == "lora":
            denoiser: Any = self._family.denoiser
            config = denoiser.peft_config["default"].to_dict()
            # As sorted lists: the order of a set differs from process to process.
            metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
            self._family.save_lora(folder, get_peft_model_state_dict(denoiser), metadata)
        else:
            self._family.save_pipeline(folder)
        text = json.dumps({**record, "adaptation": self.adaptation}, indent=2) + "\n"
        (folder / "capo.json").write_text(text, encoding="utf-8")

    def _enable(self, enabled: bool) -> None:
        for tuner in self._tuners:
            tuner.enable_adapters(enabled)


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


def _add_lora(denoiser: Any, section: TrainSection, seed: int) -> None:
    _check_targets(denoiser, section.lora_targets)
    denoiser.add_adapter(
        LoraConfig(
            r=section.lora_rank,
            lora_alpha=section.lora_alpha or section.lora_rank,
            target_modules=list(section.lora_targets),
        )
    )
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            # peft's own initialisation, but a function of the seed and the name alone.
            generator = torch.Generator().manual_seed(stable_seed("lora", seed, name))
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator)
            parameter.data.copy_(start)


def _check_targets(denoiser: nn.Module, targets: tuple[str, ...]) -> None:
    """A check that peft leaves out: it passes over a name without a match as long as another one has some."""
    names = [name for name, module in denoiser.named_modules() if not list(module.children())]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            suffixes = {name.rpartition(".")[2] for name in names}
            near = difflib.get_close_matches(target, suffixes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"train.lora_targets: {target!r} matches no module of the denoiser{hint}")
