"""The optimizer: learning rate, update, and moments."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from capo.diffusion.policy import check_fit
from capo.diffusion.sharding import part_like, whole
from capo.recipe import TrainSection


def learning_rate(step: int, section: TrainSection, halvings: int = 0) -> float:
    """Return the learning rate of a step, counted from 1.

    It rises linearly over the warm-up and then follows `train.schedule` (App. B.1: constant); `linear` and
    `cosine` fall to 0 over the remaining steps. Every roll-back halves it.
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
        """Raise `ImportError` with the command to install bitsandbytes if `adamw-8bit` needs it."""
        self._parameters = dict(parameters)
        self._max_grad_norm = section.max_grad_norm
        self.adamw = build_adamw(self._parameters, section)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def update(self, rate: float, losses: Tensor) -> Tensor:
        """Clip the gradients and take a step; return their norm before clipping.

        If a loss [B] or the gradient is not finite, nothing changes. That is decided on the device, without
        waiting for it.
        """
        norm = whole(nn.utils.clip_grad_norm_(list(self._parameters.values()), self._max_grad_norm))
        finite = norm.isfinite() & losses.isfinite().all()
        for group in self.adamw.param_groups:
            group["lr"] = rate
        if isinstance(self.adamw, torch.optim.AdamW):
            # This is how torch's gradient scaler makes a fused optimizer skip a step.
            self.adamw.grad_scale, self.adamw.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            self.adamw.step()
        elif finite:  # the 8-bit optimizer cannot skip, so this waits for the device
            self.adamw.step()
        return norm

    def moments(self) -> dict[str, Tensor]:
        """Return the moments of all parameters as `parameter/moment`; empty before the first step."""
        return {
            f"{name}/{moment}": torch.as_tensor(value)
            for name, parameter in self._parameters.items()
            for moment, value in self.adamw.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Copy `moments()`; raises `ValueError` naming the first that does not fit."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            name, _, moment = key.rpartition("/")
            by_parameter.setdefault(name, {})[moment] = tensor
        for moment in ("exp_avg", "exp_avg_sq") if isinstance(self.adamw, torch.optim.AdamW) else ():
            present = {name: own[moment] for name, own in by_parameter.items() if moment in own}
            check_fit(present, self._parameters)
        if by_parameter.keys() != self._parameters.keys():
            raise ValueError("moments of another model: their parameters are not the trained ones")
        for name, parameter in self._parameters.items():
            self.adamw.state[parameter] = {m: _placed(t, parameter) for m, t in by_parameter[name].items()}

    def reset(self) -> None:
        """Return to the state before the first step."""
        self.adamw.state.clear()


def build_adamw(parameters: Mapping[str, nn.Parameter], section: TrainSection) -> Any:
    """Return the optimizer that `train.optimizer` names; raises `ImportError` if it is not installed."""
    settings: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": section.adam_betas,
        "eps": section.adam_epsilon,
        "weight_decay": section.weight_decay,
    }
    if section.optimizer == "adamw":
        # Fused: with hundreds of small adapters, looping over them would take most of the time.
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
    """Return a moment on the parameter's device, or the plain step count of the 8-bit optimizer."""
    if moment.ndim == 0:
        return int(moment) if moment.dtype == torch.int64 else moment.to(parameter.device)
    return part_like(moment, parameter) if moment.shape == parameter.shape else moment.to(parameter.device)
