"""The training loop of widely used preference scripts, as the baseline of the training benchmark.

Every step decodes the two images of a pair from their files, encodes them with the VAE, encodes the
prompts with the text encoders, and reads the loss back to log it. The networks, their precision, the
adapter and the calls of the denoiser are capo's.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import logsigmoid

from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.recipe import TrainSection


@dataclass(frozen=True)
class ImagePair:
    """Encoded image files of one prompt."""

    prompt: str
    chosen: bytes
    rejected: bytes


class Conventional:
    """Diffusion-DPO with LoRA on images (Wallace et al. 2024).

    With `together`, chosen and rejected samples form one batch, as in diffusers' own script. Without it,
    the policy and the reference process them separately: four forward passes per step, as in other trainers.
    """

    def __init__(self, family: Family, section: TrainSection, together: bool) -> None:
        self._family = family
        self._section = section
        self._together = together
        self._policy = Policy(family, section, seed=0)
        self._parameters = list(self._policy.parameters().values())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=section.learning_rate)
        self._generator = torch.Generator()

    def step(self, pairs: Sequence[ImagePair]) -> float:
        """Update the policy on all pairs and return the loss."""
        family, rows = self._family, len(pairs)
        files = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        latents = self.encode_images(files)
        conditioning = family.encode([pair.prompt for pair in pairs])
        noise = torch.randn_like(latents[:rows]).repeat(2, 1, 1, 1)
        times = family.process.draw_times(rows, self._generator, self._section).to(family.device).repeat(2)
        x_t = family.process.noise_to(latents, noise, times)
        target = family.process.target(latents, noise, times)
        policy = self._errors(x_t, times, conditioning, target)
        with self._policy.reference_pass():
            reference = self._errors(x_t, times, conditioning, target)
        chosen, rejected = (policy - reference.detach()).chunk(2)
        loss = -logsigmoid(-self._section.beta * (chosen - rejected)).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._section.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def encode_images(self, files: list[bytes]) -> Tensor:
        """Normalized latents [B, C, H, W] float32."""
        vae = self._family.vae
        images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(pixels.to(self._family.device, vae.dtype)).latent_dist.sample().float()
        return (latents - (vae.config.shift_factor or 0.0)) * float(vae.config.scaling_factor)

    def _errors(self, x_t: Tensor, times: Tensor, conditioning: dict[str, Tensor], target: Tensor) -> Tensor:
        """Mean squared error per row [B]."""
        if self._together:
            both = {name: torch.cat([value, value]) for name, value in conditioning.items()}
            prediction = self._family.predict(x_t, times, both)
        else:
            halves = zip(x_t.chunk(2), times.chunk(2), strict=True)
            prediction = torch.cat([self._family.predict(x, t, conditioning) for x, t in halves])
        return (prediction.float() - target).square().flatten(1).mean(1)
