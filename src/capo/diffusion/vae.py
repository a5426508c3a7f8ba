"""Conversion between latents and pixels by the VAE."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PIXELS_AT_ONCE = 4 * 1024 * 1024
"""Pixels per call of the VAE, whose memory grows much faster with them than the denoiser's."""


def compression(config: Mapping[str, Any]) -> int:
    """Return how many pixels one latent element covers per side: blocks halve the size between them."""
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
    return 2 ** (len(blocks) - 1)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, factor: int) -> Tensor:
    """Return pixels [B, 3, H', W'] in [-1, 1], float32 on the CPU, of latents [B, C, H, W] on its device.

    `factor` is the VAE's `compression`. Raises `ValueError` for pixels that are not finite.
    """
    rows = max(1, PIXELS_AT_ONCE // (latents.shape[-2] * latents.shape[-1] * factor**2))
    parts = [
        vae.decode(_unscaled(part.to(vae.dtype), vae.config), return_dict=False)[0].float().cpu()
        for part in latents.split(rows)
    ]
    pixels = torch.cat(parts)
    if not pixels.isfinite().all():
        raise ValueError(_overflow("pixels", vae.dtype))
    return pixels


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Return latents [B, C, H, W], float32 on the CPU, of pixels [B, 3, H', W'] in [-1, 1].

    The latent is the mode of the VAE's distribution, so every image has one latent. Raises `ValueError` for
    latents that are not finite.
    """
    rows = max(1, PIXELS_AT_ONCE // (pixels.shape[-2] * pixels.shape[-1]))
    parts = []
    for part in pixels.split(rows):
        encoded = vae.encode(part.to(vae.device, vae.dtype))
        # Deep-compression autoencoders return a latent, others a distribution.
        raw = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
        parts.append(_scaled(raw, vae.config).float().cpu())
    latents = torch.cat(parts)
    if not latents.isfinite().all():
        raise ValueError(_overflow("latents", vae.dtype))
    return latents


def _overflow(what: str, dtype: torch.dtype) -> str:
    return (
        f"the VAE computed {what} that are not finite: it overflows in "
        f"{str(dtype).removeprefix('torch.')}; set model.dtype to bfloat16 or float32"
    )


def _scaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Normalize the VAE's latents for the denoiser."""
    scale = float(config["scaling_factor"])
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return (latents - (config.get("shift_factor") or 0.0)) * scale
    mean, std = _statistics(latents, config)
    return (latents - mean) * scale / std


def _unscaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Convert the denoiser's normalized latents back to the VAE's."""
    scale = float(config["scaling_factor"])
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return latents / scale + (config.get("shift_factor") or 0.0)
    mean, std = _statistics(latents, config)
    return latents * std / scale + mean


def _statistics(latents: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation per channel [1, C, 1, 1] that normalization removes."""
    values = (torch.tensor(config[name], device=latents.device) for name in ("latents_mean", "latents_std"))
    mean, std = (value.to(latents.dtype).view(1, -1, 1, 1) for value in values)
    return mean, std
