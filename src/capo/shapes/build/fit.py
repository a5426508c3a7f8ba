"""The training loop of all embedded checkpoints: one-cycle AdamW with averaged weights, resumable."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from capo.engine.progress import progress

SAVE_EVERY = 500


@dataclass(frozen=True)
class Schedule:
    """The length and the settings of a training."""

    steps: int
    learning_rate: float
    """The highest of the cycle."""
    average: float = 0.998
    """Decay of the averaged weights."""


def fit(name: str, model: nn.Module, loss: Callable[[int], Tensor], schedule: Schedule, folder: Path) -> None:
    """Minimize `loss(step)` and leave the averaged weights in `model`.

    State is saved under `folder` every `SAVE_EVERY` steps. `loss` must depend on nothing but the step, so
    that a resumed build uses the same batches.
    """
    state = folder / f"{name}.state.safetensors"
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps, highest = schedule.steps, schedule.learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=highest, betas=(0.9, 0.99), weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps, pct_start=0.05)
    averaged = [p.detach().clone() for p in parameters]
    start = _restore(state, parameters, averaged, optimizer, cycle)
    model.train()
    with progress(f"build {name}", total=steps, unit="steps") as bar:
        bar.advance(start, resumed=True)
        for step in range(start, steps):
            value = loss(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
            optimizer.step()
            cycle.step()
            decay = min(schedule.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
            bar.advance(1)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                bar.note(f"loss {value.item():.4f}")
                _save(state, step + 1, parameters, averaged, optimizer)
    with torch.no_grad():
        for parameter, mean in zip(parameters, averaged, strict=True):
            parameter.copy_(mean)
    model.eval()


def _save(
    path: Path,
    step: int,
    parameters: list[nn.Parameter],
    averaged: list[Tensor],
    optimizer: torch.optim.AdamW,
) -> None:
    tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
    for index, (parameter, mean) in enumerate(zip(parameters, averaged, strict=True)):
        tensors[f"{index}.value"] = parameter.detach().contiguous()
        tensors[f"{index}.average"] = mean.contiguous()
        if moments := optimizer.state.get(parameter):  # parameters without a gradient have none
            tensors[f"{index}.first"] = moments["exp_avg"].contiguous()
            tensors[f"{index}.second"] = moments["exp_avg_sq"].contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file(tensors, fresh)
    os.replace(fresh, path)


def _restore(
    path: Path,
    parameters: list[nn.Parameter],
    averaged: list[Tensor],
    optimizer: torch.optim.AdamW,
    cycle: torch.optim.lr_scheduler.OneCycleLR,
) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path, device=str(parameters[0].device))
    step = int(tensors["step"])
    with torch.no_grad():
        for index, (parameter, mean) in enumerate(zip(parameters, averaged, strict=True)):
            parameter.copy_(tensors[f"{index}.value"])
            mean.copy_(tensors[f"{index}.average"])
            if f"{index}.first" in tensors:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": tensors[f"{index}.first"],
                    "exp_avg_sq": tensors[f"{index}.second"],
                }
    cycle.load_state_dict({**cycle.state_dict(), "last_epoch": step - 1, "_step_count": step + 1})
    cycle.step()
    return step
