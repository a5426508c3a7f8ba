"""The implicit reward of a diffusion model and the objectives on it (Sec. 4.2, App. A.2).

Notation (name here -> paper):
    prediction, target      -> eps_theta(x_t; c, t), eps    (v_theta and v for a flow)
    policy_error            -> |eps_theta - eps|^2          the mean over a sample's elements
    reference_error         -> |eps_ref - eps|^2            likewise
    weight                  -> w_t                          lambda'_t is constant, inside beta
    implicit_reward         -> R_theta(x_t, c, t)
    margin                  -> u = beta (R_theta(x+) - R_theta(x-))
    delta_reward            -> Delta R_ca = R_ca(x+) - R_ca(x-)
    B                       -> pairs (samples, in `denoising_error`) of a batch

Everything is computed in float32 (float64 inputs stay so) because the errors of policy and
reference are orders of magnitude larger than their difference. Losses are one value a pair:
the caller averages them, never the values inside.
"""

import torch
from torch import Tensor

from .checks import check_same_shape, full_precision


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared error inside Eqs. 10 and 14, averaged over the elements of each sample.

    A mean, not a sum: beta in the hundreds fits no other reading (an SDXL latent has 65,536
    elements).

    Args:
        prediction: `[B, ...]`, of the denoiser, any floating dtype.
        target: `[B, ...]`, the noise (or velocity) it should have predicted.

    Returns:
        `[B]`, float32 or float64, at least 0.

    Raises:
        ValueError: for shapes that differ, fewer than two dimensions, or integers.
    """
    check_same_shape(prediction=prediction, target=target)
    if prediction.ndim < 2:
        raise ValueError(f"prediction must be [B, ...] with elements, got {list(prediction.shape)}")
    difference = full_precision("prediction", prediction) - full_precision("target", target)
    return difference.square().flatten(start_dim=1).mean(dim=1)


def implicit_reward(policy_error: Tensor, reference_error: Tensor, weight: Tensor) -> Tensor:
    """Eq. 23: `-weight * (policy_error - reference_error)`, above 0 where the policy is better.

    Args:
        policy_error: `[B]`, the policy's `denoising_error`.
        reference_error: `[B]`, the frozen reference's, on the same noised samples.
        weight: `[B]`, of the log-SNR each sample was noised to.

    Returns:
        `[B]`, float32 or float64; exactly 0 while policy and reference agree.

    Raises:
        ValueError: for shapes that differ or integers.
    """
    check_same_shape(policy_error=policy_error, reference_error=reference_error, weight=weight)
    difference = full_precision("policy_error", policy_error) - full_precision(
        "reference_error", reference_error
    )
    return -full_precision("weight", weight) * difference


def capo_loss(margin: Tensor, delta_reward: Tensor) -> Tensor:
    """Eq. 8: `(delta_reward - margin)^2`, one value a pair.

    Its gradient by the margin, `-2 (delta_reward - margin)`, vanishes where the model's
    margin is the calibrated one and pulls back beyond it.

    Args:
        margin: `[B]`, beta times the difference of implicit rewards.
        delta_reward: `[B]`, the difference of calibrated rewards, in [-1, 1].

    Raises:
        ValueError: for shapes that differ or integers.
    """
    check_same_shape(margin=margin, delta_reward=delta_reward)
    return (full_precision("delta_reward", delta_reward) - full_precision("margin", margin)).square()


def ipo_loss(margin: Tensor) -> Tensor:
    """Eq. 22: `(1 - margin)^2`, one value a pair `[B]`: `capo_loss` with every target 1.

    Not to be confused with the `(margin / beta - 1 / (2 beta))^2` of other trainers, whose
    beta means something else.

    Raises:
        ValueError: for integers.
    """
    return (1 - full_precision("margin", margin)).square()


def dpo_loss(margin: Tensor) -> Tensor:
    """Eq. 22: `-log sigmoid(margin)`, one value a pair `[B]`; log 2 at margin 0.

    Raises:
        ValueError: for integers.
    """
    return -torch.nn.functional.logsigmoid(full_precision("margin", margin))


def implicit_accuracy(margin: Tensor) -> Tensor:
    """1 where the implicit rewards order the pair as its labels do, 1/2 at margin 0, else 0.

    A measure to log, `[B]` in float32 or float64, without a gradient.

    Raises:
        ValueError: for integers.
    """
    values = full_precision("margin", margin).detach()
    return (values.sign() + 1) / 2
