"""Log signal-to-noise ratios and the loss weights on them (Sec. 4.4, App. A.3).

Notation (name here -> paper):
    log_snr             -> lambda_t = log(alpha_t^2 / sigma_t^2)
    bias                -> b
    t                   -> t of a rectified flow: x_t = (1 - t) x + t eps
    alphas_cumprod      -> alpha_t^2 of a DDPM schedule, in diffusers' words

All take tensors of any shape and floating dtype and return the same shape in float32 (float64
inputs stay so).
"""

import torch
from torch import Tensor

from .checks import check_everywhere, full_precision


def sigmoid_weight(log_snr: Tensor, bias: float) -> Tensor:
    """Sec. 4.4: `sigmoid(bias - log_snr)` in [0, 1], the weight on an error of epsilon.

    It falls as inputs get cleaner. Eq. 24 prints the opposite sign, which the text and Fig. 5
    contradict; this is the text's.

    Raises:
        ValueError: for integers.
    """
    return torch.sigmoid(bias - full_precision("log_snr", log_snr))


def flow_sigmoid_weight(log_snr: Tensor, bias: float) -> Tensor:
    """Eq. 26 with bias: `1 / (e^(z/2) + e^(-z/2))`, `z = log_snr - bias`, in [0, 1/2].

    The weight on an error of a flow's velocity, where `sigmoid_weight` is one on an error of
    epsilon: it equals `sigmoid_weight * e^(log_snr/2)` up to the constant e^(bias/2). Highest
    at the bias and symmetric around it.

    Raises:
        ValueError: for integers.
    """
    distance = (full_precision("log_snr", log_snr) - bias).abs()
    # Both sides times e^(-|z|/2), so that no exponential overflows.
    return torch.exp(-distance / 2) / (1 + torch.exp(-distance))


def flow_time(log_snr: Tensor) -> Tensor:
    """App. A.1: the time `t = 1 / (1 + e^(log_snr / 2))` in [0, 1] of a rectified flow.

    Raises:
        ValueError: for integers.
    """
    return torch.sigmoid(-full_precision("log_snr", log_snr) / 2)


def flow_log_snr(t: Tensor) -> Tensor:
    """App. A.1: `2 log((1 - t) / t)`, the inverse of `flow_time`.

    Args:
        t: in [0, 1]; the ends give +infinity (clean) and -infinity (noise).

    Raises:
        ValueError: for a time outside [0, 1] (with its index) or integers.
    """
    time = full_precision("t", t)
    check_everywhere("t", time, (time >= 0) & (time <= 1), "in [0, 1]")
    return 2 * (torch.log1p(-time) - time.log())


def ddpm_log_snr(alphas_cumprod: Tensor) -> Tensor:
    """App. A.1: `log(a / (1 - a))` of the `alphas_cumprod` a DDPM scheduler carries.

    Args:
        alphas_cumprod: in [0, 1]; a schedule that ends in pure noise has 0, thus -infinity.

    Raises:
        ValueError: for a value outside [0, 1] (with its index) or integers.
    """
    values = full_precision("alphas_cumprod", alphas_cumprod)
    check_everywhere("alphas_cumprod", values, (values >= 0) & (values <= 1), "in [0, 1]")
    return values.log() - torch.log1p(-values)
