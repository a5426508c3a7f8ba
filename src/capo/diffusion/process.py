"""The forward process of DDPM schedules (SD 1.5, SDXL), with ε or v prediction.

Notation (name here -> paper):
    alphas_cumprod  -> α_t²            of the checkpoint's own scheduler
    latents, noise  -> x, ε            [B, C, H, W]
    x_t             -> α_t x + σ_t ε   with α² + σ² = 1
    log_snr         -> λ_t = log(α_t²/σ_t²)
"""

from typing import Any

import torch
from torch import Tensor

from capo.method.weighting import ddpm_log_snr, sigmoid_weight

PREDICTIONS = ("epsilon", "v_prediction")


class DDPM:
    """The process of one scheduler configuration; the arithmetic is diffusers' `DDPMScheduler`."""

    def __init__(self, scheduler: Any) -> None:
        """`scheduler` is a `DDPMScheduler`, built from the checkpoint's configuration.

        Raises `ValueError` for a prediction type other than `epsilon` and `v_prediction`."""
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in PREDICTIONS:
            known = " or ".join(PREDICTIONS)
            raise ValueError(
                f"model.checkpoint: its scheduler predicts {self.prediction_type!r}; training knows {known}"
            )
        self._scheduler = scheduler
        self._alphas_cumprod: Tensor = scheduler.alphas_cumprod.clone()

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` timesteps, uniform over the schedule: int64 [n] on the CPU (App. A.3)."""
        return torch.randint(len(self._alphas_cumprod), (n,), generator=generator)

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, H, W] of `latents` at the timesteps `t` [B]."""
        noised: Tensor = self._scheduler.add_noise(latents, noise, t)
        return noised

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer: ε, or v = α ε - σ x."""
        if self.prediction_type == "epsilon":
            return noise
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, t)
        return velocity

    def log_snr(self, t: Tensor) -> Tensor:
        """λ_t [B], float32, on the device of `t`; -infinity where the schedule ends in pure noise."""
        return ddpm_log_snr(self._alpha_squared(t))

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """w_t [B] of the error of the prediction: `sigmoid` (Sec. 4.4, with `bias`) or `constant`.

        The weight belongs on the error of ε; that of v is brought to it by e_ε = α² e_v.
        """
        alpha_squared = self._alpha_squared(t)
        if weighting == "constant":
            weight = torch.ones_like(alpha_squared)
        else:
            weight = sigmoid_weight(ddpm_log_snr(alpha_squared), bias)
        return weight if self.prediction_type == "epsilon" else weight * alpha_squared

    def _alpha_squared(self, t: Tensor) -> Tensor:
        return self._alphas_cumprod.to(t.device)[t]
