"""The forward process: how noise is added, what the denoiser predicts, and which samplers fit.

This module holds the protocol and the process of DDPM schedules (SD 1.5, SDXL) with ε or v prediction;
`capo.diffusion.flow` holds the rectified flow.

Notation (name here -> paper):
    alphas_cumprod  -> α_t²            from the checkpoint's own scheduler
    latents, noise  -> x, ε            [B, C, H, W]
    x_t             -> α_t x + σ_t ε   with α² + σ² = 1
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

NOISY = ("Ancestral", "SDE", "LCM", "TCD", "DDPM")
"""Parts of the names of schedulers that draw noise while they sample."""


class Process(Protocol):
    """The forward process of a family, for training and sampling. Shapes are those of `Family`."""

    default_sampler: str
    """The scheduler that a recipe without `generate.scheduler` samples with: the paper's."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take the configuration of the checkpoint's own scheduler."""

    def draw_times(self, n: int, generator: torch.Generator, section: TrainSection) -> Tensor:
        """Draw `n` training times [n] on the CPU, as `section` says.

        Raises `ValueError` for a `train.time_sampling` or `train.timesteps` that does not fit.
        """

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W]: `latents` noised to the times `t` [B]."""

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict [B, C, H, W]."""

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """Return the weight w of the denoising error [B] by `train.weighting` (Sec. 4.4)."""

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """Return the settings of `sampler` that the class's `from_config` would not set."""

    def sampler(self, settings: GenerateSection) -> Any:
        """Return a new scheduler of class `settings.scheduler` with the checkpoint's noise schedule.

        Raises `ValueError` for a class or a `generate.shift` that does not fit.
        """


class DDPM:
    """The process of a DDPM schedule; the arithmetic is that of diffusers' `DDPMScheduler`.

    Times are timesteps, int64 from 0 (nearly clean) to 999 (nearly pure noise, or pure noise if the
    checkpoint's schedule has zero terminal SNR).
    """

    default_sampler = "DDIMScheduler"

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless it predicts ε, or v, which a schedule with zero terminal SNR needs."""
        self._scheduler: Any = DDPMScheduler.from_config(config)
        self._alphas_cumprod: Tensor = self._scheduler.alphas_cumprod.clone()
        self.prediction_type: str = self._scheduler.config.prediction_type
        if self.prediction_type not in PREDICTIONS:
            known = " or ".join(PREDICTIONS)
            raise ValueError(
                f"model.checkpoint: its scheduler predicts {self.prediction_type!r}; supported: {known}"
            )
        if self.prediction_type == "epsilon" and not self._alphas_cumprod[-1]:
            raise ValueError(
                "model.checkpoint: its scheduler has zero terminal SNR (rescale_betas_zero_snr) but predicts "
                "epsilon, from which no image can be recovered where the input is pure noise. One of the two "
                "is wrong: correct scheduler_config.json"
            )

    def draw_times(self, n: int, generator: torch.Generator, section: TrainSection) -> Tensor:
        """Draw timesteps uniformly from the schedule (App. A.3), or from `train.timesteps`."""
        if section.time_sampling not in (None, "uniform"):
            raise ValueError(
                f"train.time_sampling: {section.time_sampling} is for flow models; this model has a DDPM "
                "schedule, whose timesteps are drawn uniformly; remove this field"
            )
        known = len(self._alphas_cumprod)
        if section.timesteps is None:
            return torch.randint(known, (n,), generator=generator)
        if wrong := [t for t in section.timesteps if not 0 <= t < known]:
            raise ValueError(
                f"train.timesteps: {wrong[0]} is outside this model's schedule, 0 to {known - 1}"
            )
        times = torch.tensor(section.timesteps)
        if not self.loss_weight(times, section.weighting, section.weighting_bias).any():
            raise ValueError(
                "train.timesteps: the loss has weight 0 at all of these, so there is no gradient; at pure "
                "noise, a velocity says nothing about the image. Add earlier timesteps"
            )
        return times[torch.randint(len(times), (n,), generator=generator)]

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W]: `latents` noised to the timesteps `t` [B]."""
        noised: Tensor = self._scheduler.add_noise(latents, noise, t)
        return noised

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict: ε, or v = α ε - σ x."""
        if self.prediction_type == "epsilon":
            return noise
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, t)
        return velocity

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """Return w_t [B] for the prediction's error: `sigmoid` (Sec. 4.4, with `bias`) or `constant`.

        The weight applies to the error of ε; the error of v converts to it by e_ε = α² e_v.
        """
        alpha_squared = self._alpha_squared(t)
        if weighting == "constant":
            weight = torch.ones_like(alpha_squared)
        else:
            weight = sigmoid_weight(ddpm_log_snr(alpha_squared), bias)
        return weight if self.prediction_type == "epsilon" else weight * alpha_squared

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """Return nothing: the sampler keeps the checkpoint's settings."""
        return {}

    def sampler(self, settings: GenerateSection) -> Any:
        """Return a scheduler that diffusers lists as compatible with `DDPMScheduler`."""
        if settings.shift is not None:
            raise ValueError("generate.shift: only flow models have a shift; remove this field")
        known = {kind.__name__: kind for kind in self._scheduler.compatibles}
        name = sampler_name(self, settings)
        check_quiet(name, self._scheduler.config)
        return choose_sampler(known, name).from_config(self._scheduler.config)

    def _alpha_squared(self, t: Tensor) -> Tensor:
        return self._alphas_cumprod.to(t.device)[t]


def sampler_name(process: Process, settings: GenerateSection) -> str:
    """Return the class name of the scheduler that samples: the one set, or the default of the process."""
    return settings.scheduler or process.default_sampler


def check_quiet(name: str, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a scheduler that draws noise while it samples, by its class or the settings."""
    stochastic = str(config.get("algorithm_type", "")).startswith("sde") and name.startswith("DPMSolver")
    if stochastic or any(part in name for part in NOISY):
        raise ValueError(
            f"generate.scheduler: {name} draws noise while it samples, so the seed of an image would not "
            "determine it; choose a deterministic scheduler such as DDIMScheduler or EulerDiscreteScheduler"
        )


def choose_sampler(known: Mapping[str, Any], name: str) -> Any:
    """Return the class called `name`; raise `ValueError` with the nearest name, or with all of them."""
    if name in known:
        return known[name]
    hint = nearest(name, known) or f"; supported: {', '.join(sorted(known))}"
    raise ValueError(f"generate.scheduler: {name!r} is not a scheduler for this model{hint}")
