"""What a model family has to offer, and its forward process.

Shape letters: B rows of a batch, C H W a latent, P prompts.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from capo.recipe import GenerateSection, ModelSection


class Process(Protocol):
    """The forward process: how noise is added, and what the denoiser is to predict."""

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` training times [n], drawn on the CPU."""

    def noise_to(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`latents` [B, C, H, W] noised to the times `t` [B]."""

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer [B, C, H, W]."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ_t = log(α²/σ²) [B]."""

    def loss_weight(self, t: Tensor, weighting: str, bias: float) -> Tensor:
        """The weight w of the denoising error [B], as `train.weighting` asks (Sec. 4.4)."""


class Family(Protocol):
    """A diffusion model: a thin layer over its diffusers pipeline.

    Conditioning is a dict of tensors whose first dimension is the prompt (or the row); it and
    latents may come from any device.
    """

    denoiser: nn.Module
    """The network that is trained; what `sample` and `predict` use at the time of the call."""
    process: Process
    device: torch.device

    def __init__(self, section: ModelSection, path: str, device: torch.device) -> None: ...

    def latent_shape(self, settings: GenerateSection) -> tuple[int, int, int]:
        """C, H, W of a latent at the size of `settings`."""

    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """The conditioning of P prompts, on the CPU."""

    def unconditional(self) -> dict[str, Tensor]:
        """One row: what classifier-free guidance departs from."""

    def truncates(self, prompts: list[str]) -> list[bool]:
        """Which prompts are too long for the text encoders, so that their end has no effect."""

    def sample(
        self,
        conditioning: dict[str, Tensor],
        unconditional: dict[str, Tensor],
        noise: Tensor,
        settings: GenerateSection,
    ) -> Tensor:
        """Latents [B, C, H, W] float32 from initial noise [B, C, H, W] of unit variance."""

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of latents [B, C, H, W]."""

    def predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """The denoiser's answer [B, C, H, W] to noised latents at times `t` [B]."""

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter weights so that the pipeline's `load_lora_weights` reads them."""

    def load_lora(self, folder: Path) -> None:
        """Put the adapter of `save_lora` into the denoiser."""

    def save_pipeline(self, folder: Path) -> None:
        """Write the whole pipeline, as its `from_pretrained` reads it."""

    def load_denoiser(self, folder: Path) -> None:
        """Take the denoiser of a pipeline directory in place of the present one."""
