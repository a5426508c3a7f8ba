"""The optimizer: its learning rate, its update, and the moments it keeps."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from capo.diffusion.policy import check_fit
from capo.diffusion.sharding import part_like, whole
from capo.recipe import TrainSection


def learning_rate(step: int, section: TrainSection, halvings: int = 0) -> float:
    """Of step 1, 2, ...: linear over the warm-up, then as `train.schedule` says (App. B.1: constant).

    `linear` and `cosine` fall to 0 over the steps that remain. Every roll-back halves it.
    """
    rate = section.learning_rate * 0.5**halvings
    if step <= section.warmup_steps:
        return rate * step / section.warmup_steps
    if section.schedule == "constant":
        return rate
    passed = (step - 1 - section.warmup_steps) / (section.steps - section.warmup_steps)
    return rate * ((1 - passed) if section.schedule == "linear" else (1 + math.cos(math.pi * passed)) / 2)


class Optimizer:
    """AdamW on a policy's parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], section: TrainSection) -> None:
        """Raises `ImportError` saying what to install when the 8-bit one is not there."""
        self._parameters = dict(parameters)
        self._max_grad_norm = section.max_grad_norm
        self.adamw = build_adamw(self._parameters, section)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def update(self, rate: float, losses: Tensor) -> Tensor:
        """Clip the gradients and take a step; returns their norm before clipping.

        With a loss [B] or a gradient that is not finite nothing moves. Whether that was so is known
        on the device alone: nobody waits here to find out.
        """
        norm = whole(nn.utils.clip_grad_norm_(list(self._parameters.values()), self._max_grad_norm))
        finite = norm.isfinite() & losses.isfinite().all()
        for group in self.adamw.param_groups:
            group["lr"] = rate
        if isinstance(self.adamw, torch.optim.AdamW):
            # The way in which torch's gradient scaler tells a fused optimizer to leave out a step.
            self.adamw.grad_scale, self.adamw.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            self.adamw.step()
        elif finite:  # the 8-bit one has no such way, so that this waits for the device
            self.adamw.step()
        return norm

    def moments(self) -> dict[str, Tensor]:
        """What it remembers of each parameter, as `parameter/moment`; nothing before the first step."""
        return {
            f"{name}/{moment}": torch.as_tensor(value)
            for name, parameter in self._parameters.items()
            for moment, value in self.adamw.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Take over `moments()`; raises `ValueError` naming the first that do not fit."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            name, _, moment = key.rpartition("/")
            found.setdefault(name, {})[moment] = tensor
        for moment in ("exp_avg", "exp_avg_sq") if isinstance(self.adamw, torch.optim.AdamW) else ():
            given = {name: each[moment] for name, each in found.items() if moment in each}
            check_fit(given, self._parameters)
        if found.keys() != self._parameters.keys():
            raise ValueError("moments of another model: their parameters are not those trained here")
        for name, parameter in self._parameters.items():
            self.adamw.state[parameter] = {m: _placed(t, parameter) for m, t in found[name].items()}

    def reset(self) -> None:
        """Forget everything."""
        self.adamw.state.clear()


def build_adamw(parameters: Mapping[str, nn.Parameter], section: TrainSection) -> Any:
    settings: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": section.adam_betas,
        "eps": section.adam_epsilon,
        "weight_decay": section.weight_decay,
    }
    if section.optimizer == "adamw":
        # Fused: with hundreds of small adapters the loop over them would cost most.
        return torch.optim.AdamW(parameters.values(), **settings, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ImportError(
            "train.optimizer: bitsandbytes is not installed; pip install 'capo-diffusion[8bit]', or set it "
            "to adamw"
        ) from error
    return AdamW8bit(list(parameters.values()), **settings)


def _placed(moment: Tensor, parameter: nn.Parameter) -> Tensor | int:
    """On the parameter's device; the 8-bit optimizer counts its steps in a plain number."""
    if moment.ndim == 0:
        return int(moment) if moment.dtype == torch.int64 else moment.to(parameter.device)
    return part_like(moment, parameter) if moment.shape == parameter.shape else moment.to(parameter.device)
