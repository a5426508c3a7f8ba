"""Conversion between latents and pixels by the VAE.

Autoencoders for videos (Qwen-Image) take images as videos of one frame. That of FLUX.2 normalizes patches of
2 x 2 latents, which are the latents here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PIXELS_AT_ONCE = 4 * 1024 * 1024
"""Pixels per call of the VAE, whose memory grows much faster with them than the denoiser's."""


def compression(config: Mapping[str, Any]) -> int:
    """Return how many pixels one latent element covers per side: blocks halve the size between them."""
    if "temperal_downsample" in config:
        return int(2 ** len(config["temperal_downsample"]))
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
    return int(2 ** (len(blocks) - 1)) * _patch_side(config)


def latent_channels(config: Mapping[str, Any]) -> int:
    """Return the channels of a latent."""
    return int(config.get("z_dim") or config.get("latent_channels", 4)) * _patch_side(config) ** 2


@torch.no_grad()
def decode(vae: Any, latents: Tensor, factor: int) -> Tensor:
    """Return pixels [B, 3, H', W'] in [-1, 1], float32 on the CPU, of latents [B, C, H, W] on its device.

    `factor` is the VAE's `compression`. Raises `ValueError` for pixels that are not finite.
    """
    rows = max(1, PIXELS_AT_ONCE // (latents.shape[-2] * latents.shape[-1] * factor**2))
    pixels = torch.cat([decoded(vae, part).float().cpu() for part in latents.split(rows)])
    if not pixels.isfinite().all():
        raise ValueError(_overflow("pixels", vae.dtype))
    return pixels


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Return the pixels of latents in one call of the VAE, in its precision and on its device."""
    raw = unscaled(latents.to(vae.dtype), vae)
    if _of_videos(vae.config):
        pixels: Tensor = vae.decode(raw[:, :, None], return_dict=False)[0][:, :, 0]
    else:
        pixels = vae.decode(raw, return_dict=False)[0]
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
        part = part.to(vae.device, vae.dtype)
        encoded = vae.encode(part[:, :, None] if _of_videos(vae.config) else part)
        # Deep-compression autoencoders return a latent, others a distribution.
        raw = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
        parts.append(scaled(raw[:, :, 0] if _of_videos(vae.config) else raw, vae).float().cpu())
    latents = torch.cat(parts)
    if not latents.isfinite().all():
        raise ValueError(_overflow("latents", vae.dtype))
    return latents


def _overflow(what: str, dtype: torch.dtype) -> str:
    return (
        f"the VAE computed {what} that are not finite: it overflows in "
        f"{str(dtype).removeprefix('torch.')}; set model.dtype to bfloat16 or float32"
    )


def scaled(latents: Tensor, vae: Any) -> Tensor:
    """Normalize the VAE's latents for the denoiser."""
    config = vae.config
    if _patch_side(config) > 1:
        patches = functional.pixel_unshuffle(latents, _patch_side(config))
        mean, std = _batch_statistics(patches, vae)
        return (patches - mean) / std
    scale = float(config.get("scaling_factor", 1.0))
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return (latents - (config.get("shift_factor") or 0.0)) * scale
    mean, std = _statistics(latents, config)
    return (latents - mean) * scale / std


def unscaled(latents: Tensor, vae: Any) -> Tensor:
    """Convert the denoiser's normalized latents back to the VAE's."""
    config = vae.config
    if _patch_side(config) > 1:
        mean, std = _batch_statistics(latents, vae)
        return functional.pixel_shuffle(latents * std + mean, _patch_side(config))
    scale = float(config.get("scaling_factor", 1.0))
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return latents / scale + (config.get("shift_factor") or 0.0)
    mean, std = _statistics(latents, config)
    return latents * std / scale + mean


def _of_videos(config: Mapping[str, Any]) -> bool:
    return "temperal_downsample" in config  # diffusers' spelling


def _patch_side(config: Mapping[str, Any]) -> int:
    """Side of the patches of latents that the VAE normalizes."""
    return int(config["patch_size"][0]) if "batch_norm_eps" in config else 1


def _batch_statistics(latents: Tensor, vae: Any) -> tuple[Tensor, Tensor]:
    """The same as `_statistics`, of a VAE that has learned them in a batch normalization."""
    mean, variance = vae.bn.running_mean, vae.bn.running_var + vae.config.batch_norm_eps
    mean, std = (value.view(1, -1, 1, 1).to(latents) for value in (mean, variance.sqrt()))
    return mean, std


def _statistics(latents: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation per channel [1, C, 1, 1] that normalization removes."""
    values = (torch.tensor(config[name], device=latents.device) for name in ("latents_mean", "latents_std"))
    mean, std = (value.to(latents.dtype).view(1, -1, 1, 1) for value in values)
    return mean, std
