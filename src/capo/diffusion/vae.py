"""From latents to pixels, and how many of these a latent stands for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DECODED_PIXELS = 4 * 1024 * 1024
"""Pixels the VAE decodes at once: its memory grows with them far faster than the denoiser's."""


def compression(config: Mapping[str, Any]) -> int:
    """Pixels a side of a latent's element: one halving between any two blocks."""
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
    return 2 ** (len(blocks) - 1)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, factor: int) -> Tensor:
    """Pixels [B, 3, H', W'] in [-1, 1], float32 on the CPU, of latents [B, C, H, W] on the VAE's device.

    `factor` is the VAE's `compression`. Raises `ValueError` for pixels that are not finite.
    """
    rows = max(1, DECODED_PIXELS // (latents.shape[-2] * latents.shape[-1] * factor**2))
    parts = [
        vae.decode(_unscaled(part.to(vae.dtype), vae.config), return_dict=False)[0].float().cpu()
        for part in latents.split(rows)
    ]
    pixels = torch.cat(parts)
    if not pixels.isfinite().all():
        raise ValueError(
            f"the VAE gives pixels that are not finite: {str(vae.dtype).removeprefix('torch.')} is too "
            "narrow for it; set model.dtype to bfloat16 or float32"
        )
    return pixels


def _unscaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Latents as the VAE has them, from the denoiser's normalised ones."""
    scale = float(config["scaling_factor"])
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return latents / scale + (config.get("shift_factor") or 0.0)
    mean, std = (
        torch.tensor(config[name], device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return latents * std / scale + mean
