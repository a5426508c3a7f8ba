"""Log signal-to-noise ratios and the loss weights that depend on them (Sec. 4.4, App. A.3).

Notation (name here -> paper):
    log_snr             -> lambda_t = log(alpha_t^2 / sigma_t^2)
    bias                -> b
    t                   -> t of a rectified flow: x_t = (1 - t) x + t eps
    alphas_cumprod      -> alpha_t^2 of a DDPM schedule, as diffusers names it

All functions take tensors of any shape and floating dtype and return the same shape in float32
(float64 inputs stay float64).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_everywhere, full_precision


def sigmoid_weight(log_snr: Float[Tensor, "*shape"], bias: float) -> Float[Tensor, "*shape"]:
    """Compute `sigmoid(bias - log_snr)` in [0, 1], the weight on an error of epsilon (Sec. 4.4).

    The weight falls as inputs get cleaner. Eq. 24 prints the opposite sign, which contradicts the text
    and Fig. 5; this function follows the text.

    Raises:
        ValueError: if `log_snr` is an integer tensor.
    """
    return torch.sigmoid(bias - full_precision("log_snr", log_snr))


def flow_sigmoid_weight(log_snr: Float[Tensor, "*shape"], bias: float) -> Float[Tensor, "*shape"]:
    """Compute `1 / (e^(z/2) + e^(-z/2))` in [0, 1/2] with `z = log_snr - bias` (Eq. 26 with a bias).

    This is the weight on an error of a flow's velocity, while `sigmoid_weight` applies to an error of
    epsilon. It equals `sigmoid_weight * e^(log_snr/2)` up to the constant e^(bias/2). It is highest at
    the bias and symmetric around it.

    Raises:
        ValueError: if `log_snr` is an integer tensor.
    """
    distance = (full_precision("log_snr", log_snr) - bias).abs()
    # Numerator and denominator are multiplied by e^(-|z|/2), so that no exponential overflows.
    return torch.exp(-distance / 2) / (1 + torch.exp(-distance))


def flow_time(log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute the time `t = 1 / (1 + e^(log_snr / 2))` in [0, 1] of a rectified flow (App. A.1).

    Raises:
        ValueError: if `log_snr` is an integer tensor.
    """
    return torch.sigmoid(-full_precision("log_snr", log_snr) / 2)


def flow_log_snr(t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute `2 log((1 - t) / t)`, the inverse of `flow_time` (App. A.1).

    Args:
        t: in [0, 1]; 0 (clean) gives +infinity and 1 (noise) gives -infinity.

    Raises:
        ValueError: if a time is outside [0, 1] (names its index), or for an integer tensor.
    """
    time = full_precision("t", t)
    check_everywhere("t", time, (time >= 0) & (time <= 1), "in [0, 1]")
    return 2 * (torch.log1p(-time) - time.log())


def ddpm_log_snr(alphas_cumprod: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute `log(a / (1 - a))` of a DDPM scheduler's `alphas_cumprod` (App. A.1).

    Args:
        alphas_cumprod: in [0, 1]; a schedule that ends in pure noise contains 0, which gives -infinity.

    Raises:
        ValueError: if a value is outside [0, 1] (names its index), or for an integer tensor.
    """
    values = full_precision("alphas_cumprod", alphas_cumprod)
    check_everywhere("alphas_cumprod", values, (values >= 0) & (values <= 1), "in [0, 1]")
    return values.log() - torch.log1p(-values)
