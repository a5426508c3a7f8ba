"""The forward process of rectified flows (SD3, FLUX, Sana, Qwen-Image, Z-Image).

Notation (name here -> paper):
    latents, noise  -> x, ε               [B, C, H, W]
    t               -> t in [0, 1]        0 is clean, 1 is noise
    x_t             -> (1 - t) x + t ε
    target          -> ε - x              the velocity dx_t/dt
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers
import torch
from torch import Tensor

from capo.diffusion.process import choose_sampler, sampler_name
from capo.method.weighting import flow_log_snr, flow_sigmoid_weight, flow_time
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, TrainSection

LOG_SNR_RANGE = (-10.0, 10.0)
"""The range of λ in `uniform-logsnr` time sampling (App. A.3)."""

SAMPLERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
"""The schedulers of diffusers that follow a flow without drawing noise."""

BY_SIZE = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
"""Fields of a shift by image size, which a pipeline reads from any scheduler it has."""


class RectifiedFlow:
    """The straight path between an image and noise; the same for all checkpoints.

    Times are float32 in [0, 1]. The checkpoint's own scheduler sets the shift for sampling; training times
    have no shift (Sec. 4.4, App. A.3).
    """

    default_sampler = "DPMSolverMultistepScheduler"

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def draw_times(self, n: int, generator: torch.Generator, section: TrainSection) -> Tensor:
        """Draw λ uniformly from [-10, 10] (the paper), t uniformly, or t logit-normally (SD3's training)."""
        if section.timesteps is not None:
            raise ValueError(
                "train.timesteps: only DDPM schedules have timesteps; the time of this flow model is "
                "continuous; remove this field"
            )
        if section.time_sampling == "uniform":
            return torch.rand(n, generator=generator)
        if section.time_sampling == "logit-normal":
            return torch.randn(n, generator=generator).sigmoid()
        return flow_time(torch.empty(n).uniform_(*LOG_SNR_RANGE, generator=generator))

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W]: `latents` noised to the times `t` [B]."""
        t = t.view(-1, 1, 1, 1)
        return t * noise + (1 - t) * latents

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ε - x."""
        return noise - latents

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """Return w_t [B] for the velocity's error: `sigmoid` (Eq. 26, with `bias`) or `constant`."""
        if weighting == "constant":
            return torch.ones_like(t)
        return flow_sigmoid_weight(flow_log_snr(t), bias)

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """Return the shift under the scheduler's own name; a general solver must also follow a flow."""
        known = signature(_kind(sampler_name(self, settings)).__init__).parameters
        shift = settings.shift or self._config.get("shift") or self._config.get("flow_shift") or 1.0
        if "use_flow_sigmas" in known:
            changes = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        else:
            changes = {"shift": shift}
        by_size = self._config.get("use_dynamic_shifting") and settings.shift is not None
        return changes | ({"use_dynamic_shifting": False} if by_size else {})

    def sampler(self, settings: GenerateSection) -> Any:
        """Return one of `SAMPLERS` with `generate.shift`, by default the checkpoint's own shift.

        The pipeline computes a shift by image size (FLUX.1-dev) itself, unless `generate.shift` is set.
        """
        kind = _kind(sampler_name(self, settings))
        known = signature(kind.__init__).parameters
        own = {**self._config, **self.sampler_changes(settings)}
        with quiet():  # some log which of their defaults they change
            scheduler = kind(**{name: value for name, value in own.items() if name in known})
        scheduler.register_to_config(**{n: v for n, v in self._config.items() if n in BY_SIZE})
        return scheduler


class EulerFlow(RectifiedFlow):
    """A rectified flow whose pipeline chooses the noise levels of the steps itself.

    Of the schedulers that accept them, only Euler's method also accepts a fixed shift.
    """

    default_sampler = "FlowMatchEulerDiscreteScheduler"

    def sampler(self, settings: GenerateSection) -> Any:
        """Return Euler's method with `generate.shift`, by default the checkpoint's own shift."""
        if (name := sampler_name(self, settings)) != self.default_sampler:
            raise ValueError(
                f"generate.scheduler: {name} does not work with this model, whose pipeline chooses the noise "
                f"levels of the steps itself; choose {self.default_sampler}"
            )
        return super().sampler(settings)


def _kind(name: str) -> Any:
    return choose_sampler({kind: getattr(diffusers, kind) for kind in SAMPLERS}, name)
