"""One optimizer step on a batch of pairs (Sec. 4.2).

Notation (name here -> paper), one value per pair [B] unless noted:
    policy_error, reference_error   -> e_θ, e_ref      [2B], chosen first
    implicit_reward                 -> R_θ             [2B]
    margin                          -> u = β (R_θ(x⁺) - R_θ(x⁻))
    delta_reward                    -> ΔR
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.engine.memory import explain_out_of_memory
from capo.engine.ranks import Group
from capo.method.objective import denoising_error, implicit_accuracy, implicit_reward, preference_loss
from capo.method.objective_table import OBJECTIVES
from capo.recipe import TrainSection
from capo.training.average import Average
from capo.training.batches import Batch
from capo.training.guards import not_finite
from capo.training.log import Row
from capo.training.optimizer import Optimizer, learning_rate


@dataclass(frozen=True)
class StepOutcome:
    """The measures of a step, still on the device until `row()` waits for them."""

    step: int
    prompt_ids: list[str]
    """The prompts of this process's share."""
    measures: dict[str, Tensor]
    """Measures by name, with one value per pair [B] of all processes."""
    grad_norm: Tensor
    """Before clipping."""
    learning_rate: float

    def row(self) -> Row:
        """Return the means over the batch, for the log.

        Raises `TrainingDiverged` if the loss or gradient is not finite; the step then changed nothing.
        """
        names = list(self.measures)
        table = torch.stack([self.measures[name] for name in names]).cpu().double()
        norm = float(self.grad_norm)
        finite = table[names.index("loss")].isfinite().tolist()
        if not all(finite) or not torch.isfinite(self.grad_norm):
            prompts = Group().gather_lists(self.prompt_ids)
            bad = [prompt for prompt, good in zip(prompts, finite, strict=True) if not good]
            raise not_finite("loss" if bad else "gradient", self.step, bad or prompts)
        means = dict(zip(names, table.mean(dim=1).tolist(), strict=True))
        return {"step": self.step, **means, "grad_norm": norm, "learning_rate": self.learning_rate}


class Trainer:
    """The policy with its optimizer and average, and the training step."""

    def __init__(self, family: Family, policy: Policy, section: TrainSection) -> None:
        self.policy = policy
        self.optimizer = Optimizer(policy.parameters(), section)
        self.average = None if section.ema_decay is None else Average(policy, section.ema_decay)
        self.family = family
        self._section = section
        self._group = Group()
        self._dtype: torch.dtype | None = section.dtype and getattr(torch, section.dtype)

    def step(self, number: int, batch: Batch, halvings: int = 0) -> StepOutcome:
        """Update the policy from the mean loss of `batch`, unless loss or gradient are not finite.

        With several processes, `batch` is this process's share. It is computed in micro-batches of
        `train.per_device_batch_size` pairs. `halvings` halves the learning rate that often.
        """
        section, pairs = self._section, len(batch.prompt_ids)
        self.optimizer.zero_grad()
        parts = []
        for part in batch.split(section.per_device_batch_size or pairs):
            with explain_out_of_memory("train.per_device_batch_size"):
                measures = self.measure(part)
                torch.autograd.backward(measures["loss"].sum() / pairs)
            parts.append({name: values.detach() for name, values in measures.items()})
        own = [torch.cat([part[name] for part in parts]) for name in parts[0]]
        whole = dict(zip(parts[0], self._group.gather(torch.stack(own)), strict=True))
        if not self.policy.spread:  # FSDP does so itself
            self._group.average([p.grad for p in self.policy.parameters().values() if p.grad is not None])
        rate = learning_rate(number, section, halvings)
        norm = self.optimizer.update(rate, whole["loss"])
        if self.average is not None:
            self.average.update()
        return StepOutcome(number, batch.prompt_ids, whole, norm.detach(), rate)

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss [B] of a batch, with its gradient, and the other measures [B] to log."""
        family, section = self.family, self._section
        # Computed from times on the CPU: its checks would make a GPU wait.
        weight = family.process.loss_weight(batch.t, section.weighting, section.weighting_bias)
        weight = torch.cat([weight, weight]).to(family.device, non_blocking=True)
        batch = batch.to(family.device)
        latents = torch.cat([batch.chosen, batch.rejected])
        noise = torch.cat([batch.noise_chosen, batch.noise_rejected])
        t = torch.cat([batch.t, batch.t])
        conditioning = {name: torch.cat([value, value]) for name, value in batch.conditioning.items()}
        x_t = family.process.noise_to(latents, noise, t)
        target = family.process.target(latents, noise, t)
        # Both compute the same rows in one forward pass: other shapes could select other kernels, whose
        # rounding would hide the small difference of the two errors.
        with self.policy.reference_pass():
            reference = family.predict(x_t, t, conditioning, self._dtype).detach()
        prediction = family.predict(x_t, t, conditioning, self._dtype)
        policy_error = denoising_error(prediction, target)
        reference_error = denoising_error(reference, target)
        reward = section.beta * implicit_reward(policy_error, reference_error, weight)
        chosen, rejected = reward.chunk(2)
        margin = chosen - rejected
        relative = (policy_error / reference_error - 1).chunk(2)
        return {
            "loss": preference_loss(OBJECTIVES[section.objective], margin, batch.delta_reward),
            "rewards/margins": margin,
            "rewards/accuracies": implicit_accuracy(margin),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "error/chosen": relative[0],
            "error/rejected": relative[1],
            "delta_reward": batch.delta_reward,
            "drift": denoising_error(prediction, reference).view(2, -1).mean(dim=0),
        }

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the policy the weights that are validated and saved: the average, if it is on."""
        if self.average is None:
            yield
        else:
            with self.average.applied():
                yield

    def reset(self) -> None:
        """Return to the state before the first step."""
        self.policy.reset()
        self.optimizer.reset()
        if self.average is not None:
            self.average.reset()
