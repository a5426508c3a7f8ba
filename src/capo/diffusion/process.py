"""The forward process: how noise is added, what the denoiser is to predict, and in which samplers.

This module has what all processes offer and the one of DDPM schedules (SD 1.5, SDXL), with ε or v
prediction; `capo.diffusion.flow` has the rectified flow.

Notation (name here -> paper):
    alphas_cumprod  -> α_t²            of the checkpoint's own scheduler
    latents, noise  -> x, ε            [B, C, H, W]
    x_t             -> α_t x + σ_t ε   with α² + σ² = 1
    log_snr         -> λ_t = log(α_t²/σ_t²)
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from capo.method.weighting import ddpm_log_snr, sigmoid_weight
from capo.recipe import GenerateSection, TrainSection
from capo.recipe.hints import nearest

PREDICTIONS = ("epsilon", "v_prediction")


class Process(Protocol):
    """What training and sampling need of a forward process. Shape letters as in `Family`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is that of the checkpoint's own scheduler."""

    def draw_times(self, n: int, generator: torch.Generator, section: TrainSection) -> Tensor:
        """`n` training times [n] on the CPU, drawn as `section` says.

        Raises `ValueError` for a `train.time_sampling` or `train.timesteps` that does not fit.
        """

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`latents` [B, C, H, W] noised to the times `t` [B]."""

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer [B, C, H, W]."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ_t = log(α²/σ²) [B]."""

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """The weight w of the denoising error [B], as `train.weighting` asks (Sec. 4.4)."""

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """What `sampler` has that the class's `from_config` of the checkpoint's own would not."""

    def sampler(self, settings: GenerateSection) -> Any:
        """A new scheduler of the class `settings.scheduler` on the checkpoint's noise schedule.

        Raises `ValueError` for a class or a `generate.shift` that does not fit.
        """


class DDPM:
    """The process of one scheduler configuration; the arithmetic is diffusers' `DDPMScheduler`.

    Times are timesteps, int64 from 0 (nearly clean) to 999 (nearly pure noise).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a prediction type other than `epsilon` and `v_prediction`."""
        self._scheduler: Any = DDPMScheduler.from_config(config)
        self._alphas_cumprod: Tensor = self._scheduler.alphas_cumprod.clone()
        self.prediction_type: str = self._scheduler.config.prediction_type
        if self.prediction_type not in PREDICTIONS:
            known = " or ".join(PREDICTIONS)
            raise ValueError(
                f"model.checkpoint: its scheduler predicts {self.prediction_type!r}; training knows {known}"
            )

    def draw_times(self, n: int, generator: torch.Generator, section: TrainSection) -> Tensor:
        """Uniform over the schedule (App. A.3), or over `train.timesteps`."""
        if section.time_sampling not in (None, "uniform"):
            raise ValueError(
                f"train.time_sampling: {section.time_sampling} is for flow models; this one has a DDPM "
                "schedule, whose timesteps are drawn uniformly"
            )
        known = len(self._alphas_cumprod)
        if section.timesteps is None:
            return torch.randint(known, (n,), generator=generator)
        if wrong := [t for t in section.timesteps if not 0 <= t < known]:
            raise ValueError(f"train.timesteps: {wrong[0]} is not in this schedule's 0 to {known - 1}")
        return torch.tensor(section.timesteps)[
            torch.randint(len(section.timesteps), (n,), generator=generator)
        ]

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

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sampler(self, settings: GenerateSection) -> Any:
        """Any scheduler that diffusers calls compatible with `DDPMScheduler`."""
        if settings.shift is not None:
            raise ValueError("generate.shift: only flow models have one; this one has a DDPM schedule")
        known = {kind.__name__: kind for kind in self._scheduler.compatibles}
        return choose_sampler(known, settings.scheduler).from_config(self._scheduler.config)

    def _alpha_squared(self, t: Tensor) -> Tensor:
        return self._alphas_cumprod.to(t.device)[t]


def choose_sampler(known: Mapping[str, Any], name: str) -> Any:
    """The class called `name`; raises `ValueError` with the nearest name, or all of them."""
    if name in known:
        return known[name]
    hint = nearest(name, known) or f"; there are {', '.join(sorted(known))}"
    raise ValueError(f"generate.scheduler: {name!r} is no scheduler for this model{hint}")
