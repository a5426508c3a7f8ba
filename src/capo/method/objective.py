"""The implicit reward of a diffusion model and the objectives built on it (Sec. 4.2, App. A.2).

Notation (name here -> paper):
    prediction, target      -> eps_theta(x_t; c, t), eps    (v_theta and v for a flow)
    policy_error            -> |eps_theta - eps|^2          mean over the elements of a sample
    reference_error         -> |eps_ref - eps|^2            mean over the elements of a sample
    weight                  -> w_t                          lambda'_t is constant, part of beta
    implicit_reward         -> R_theta(x_t, c, t)
    margin                  -> u = beta (R_theta(x+) - R_theta(x-))
    delta_reward            -> Delta R_ca = R_ca(x+) - R_ca(x-)
    B                       -> pairs in a batch (samples, in `denoising_error`)

All values are computed in float32 (float64 inputs stay float64), because the errors of policy and
reference are orders of magnitude larger than their difference. A loss is one value per pair; the
caller averages the losses and never the values inside them.

To add an objective, write its loss here and list it in `objective_table`.
"""

from pkgutil import resolve_name

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_same_shape, full_precision
from .objective_table import Objective


def denoising_error(
    prediction: Float[Tensor, " B *element"], target: Float[Tensor, " B *element"]
) -> Float[Tensor, " B"]:
    """Compute the squared error inside Eqs. 10 and 14, averaged over the elements of each sample.

    The paper does not say whether to sum or to average. Only a mean fits its values of beta, which are
    in the hundreds: an SDXL latent has 65,536 elements.

    Args:
        prediction: what the denoiser predicted, any floating dtype.
        target: the noise (or velocity) that it should have predicted.

    Returns:
        At least 0, in float32 or float64.

    Raises:
        ValueError: if the shapes differ, have fewer than two dimensions, or the values are integers.
    """
    check_same_shape(prediction=prediction, target=target)
    if prediction.ndim < 2:
        raise ValueError(f"prediction must be [B, ...] with elements, got {list(prediction.shape)}")
    difference = full_precision("prediction", prediction) - full_precision("target", target)
    return difference.square().flatten(start_dim=1).mean(dim=1)


def implicit_reward(
    policy_error: Float[Tensor, " B"], reference_error: Float[Tensor, " B"], weight: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Compute Eq. 23: `-weight * (policy_error - reference_error)`.

    Positive where the policy denoises better than the reference.

    Args:
        policy_error: the policy's `denoising_error`.
        reference_error: that of the frozen reference, on the same noised samples.
        weight: the loss weight at the log-SNR of each noised sample.

    Returns:
        float32 or float64; exactly 0 while policy and reference agree.

    Raises:
        ValueError: if the shapes differ or the values are integers.
    """
    check_same_shape(policy_error=policy_error, reference_error=reference_error, weight=weight)
    difference = full_precision("policy_error", policy_error) - full_precision(
        "reference_error", reference_error
    )
    return -full_precision("weight", weight) * difference


def preference_loss(
    objective: Objective, margin: Float[Tensor, " B"], delta_reward: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Compute the loss of an objective from the table, one value per pair."""
    loss = resolve_name(objective.path)
    return loss(margin, delta_reward) if objective.uses_delta_reward else loss(margin)


def capo_loss(margin: Float[Tensor, " B"], delta_reward: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Compute Eq. 8: `(delta_reward - margin)^2`, one value per pair.

    The gradient with respect to the margin, `-2 (delta_reward - margin)`, vanishes when the margin
    reaches the difference of the calibrated rewards, and reverses beyond it.

    Args:
        margin: beta times the difference of the implicit rewards.
        delta_reward: the difference of the calibrated rewards, in [-1, 1].

    Raises:
        ValueError: if the shapes differ or the values are integers.
    """
    check_same_shape(margin=margin, delta_reward=delta_reward)
    return (full_precision("delta_reward", delta_reward) - full_precision("margin", margin)).square()


def ipo_loss(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Compute Eq. 22: `(1 - margin)^2`, one value per pair; `capo_loss` with every target 1.

    Other trainers implement IPO as `(margin / beta - 1 / (2 beta))^2`, where beta has another meaning.

    Raises:
        ValueError: if the margin is an integer tensor.
    """
    return (1 - full_precision("margin", margin)).square()


def dpo_loss(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Compute Eq. 22: `-log sigmoid(margin)`, one value per pair; log 2 at margin 0.

    Raises:
        ValueError: if the margin is an integer tensor.
    """
    return -torch.nn.functional.logsigmoid(full_precision("margin", margin))


def implicit_accuracy(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return 1 where the implicit rewards order the pair as its labels do, 1/2 at margin 0, else 0.

    Meant for logging: float32 or float64, without a gradient.

    Raises:
        ValueError: if the margin is an integer tensor.
    """
    values = full_precision("margin", margin).detach()
    return (values.sign() + 1) / 2
