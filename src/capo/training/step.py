"""One optimizer step on a batch of pairs (Sec. 4.2).

Notation (name here -> paper), one value a pair [B] unless said otherwise:
    policy_error, reference_error   -> e_θ, e_ref      [2B], chosen first
    implicit_reward                 -> R_θ             [2B]
    margin                          -> u = β (R_θ(x⁺) - R_θ(x⁻))
    delta_reward                    -> ΔR
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.method.objective import (
    capo_loss,
    denoising_error,
    dpo_loss,
    implicit_accuracy,
    implicit_reward,
    ipo_loss,
)
from capo.recipe import TrainSection
from capo.runtime import memory_bounded_by
from capo.training.batches import Batch
from capo.training.guards import check_gradient, check_losses


class Trainer:
    """The policy, its optimizer, and the step they take together."""

    def __init__(self, family: Family, policy: Policy, section: TrainSection) -> None:
        self.policy = policy
        self._family = family
        self._section = section
        self.optimizer = build_optimizer(policy.parameters().values(), section)

    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """Update the policy from the mean loss of `batch`; returns what there is to log.

        Raises `TrainingDiverged`, before anything is updated, for a loss or gradient that is not
        finite.
        """
        section, pairs = self._section, len(batch.prompt_ids)
        self.optimizer.zero_grad(set_to_none=True)
        parts = []
        for part in batch.split(section.per_device_batch_size or pairs):
            with memory_bounded_by("train.per_device_batch_size"):
                measures = self.measure(part)
                check_losses(measures["loss"], number, part.prompt_ids)
                torch.autograd.backward(measures["loss"].sum() / pairs)
            parts.append({name: values.detach() for name, values in measures.items()})
        parameters = list(self.policy.parameters().values())
        norm = nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
        check_gradient(norm, number, batch.prompt_ids)
        rate = learning_rate(number, section)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = {name: float(torch.cat([p[name] for p in parts]).double().mean()) for name in parts[0]}
        return {**means, "grad_norm": float(norm), "learning_rate": rate}

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """The loss [B] of a batch, with its gradient, and what else there is to log."""
        family, section = self._family, self._section
        batch = batch.to(family.device)
        latents = torch.cat([batch.chosen, batch.rejected])
        noise = torch.cat([batch.noise_chosen, batch.noise_rejected])
        t = torch.cat([batch.t, batch.t])
        conditioning = {name: torch.cat([value, value]) for name, value in batch.conditioning.items()}
        x_t = family.process.noise_to(latents, noise, t)
        target = family.process.target(latents, noise, t)
        # Both see the same rows in one forward each: other shapes could mean other kernels, whose
        # rounding would drown the small difference of the two errors.
        with torch.no_grad(), self.policy.reference():
            reference = family.predict(x_t, t, conditioning)
        prediction = family.predict(x_t, t, conditioning)
        policy_error = denoising_error(prediction, target)
        reference_error = denoising_error(reference, target)
        weight = family.process.loss_weight(t, section.weighting, section.weighting_bias)
        reward = section.beta * implicit_reward(policy_error, reference_error, weight)
        chosen, rejected = reward.chunk(2)
        margin = chosen - rejected
        relative = (policy_error / reference_error - 1).chunk(2)
        return {
            "loss": objective(section, margin, batch.delta_reward),
            "rewards/margins": margin,
            "rewards/accuracies": implicit_accuracy(margin),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "error/chosen": relative[0],
            "error/rejected": relative[1],
            "delta_reward": batch.delta_reward,
            "drift": denoising_error(prediction, reference),
        }


def objective(section: TrainSection, margin: Tensor, delta_reward: Tensor) -> Tensor:
    """The loss [B] that `train.objective` names."""
    if section.objective == "capo":
        return capo_loss(margin, delta_reward)
    return ipo_loss(margin) if section.objective == "ipo" else dpo_loss(margin)


def learning_rate(step: int, section: TrainSection) -> float:
    """Of step 1, 2, ...: linear over the warm-up, constant afterwards (App. B.1)."""
    return section.learning_rate * min(1.0, step / max(1, section.warmup_steps))


def build_optimizer(parameters: Iterable[nn.Parameter], section: TrainSection) -> torch.optim.AdamW:
    """AdamW, in its fused form: with hundreds of small adapters the loop over them would cost most."""
    return torch.optim.AdamW(
        list(parameters),
        lr=section.learning_rate,
        betas=section.adam_betas,
        eps=section.adam_epsilon,
        weight_decay=section.weight_decay,
        fused=True,
    )
