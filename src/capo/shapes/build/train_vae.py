"""The autoencoder from 32×32 pixels to an 8×8 latent with four channels, in Stable Diffusion's layout."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from capo.engine.seeds import stable_seed
from capo.shapes.build.drawn_data import captions, to_signal
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.scenes import SIZE

SCENES = 100_000
STEPS = 8_000
BATCH = 256


def train_vae(part: BuildPart) -> AutoencoderKL:
    """Train on drawn scenes; the latents' standard deviation determines the `scaling_factor`."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
    ).to(part.device, memory_format=torch.channels_last)
    images = captions(part.scaled(SCENES), 0, part.device).images

    def loss(step: int) -> Tensor:
        generator = torch.Generator(part.device).manual_seed(stable_seed("vae", step))
        index = torch.randint(len(images), (BATCH,), generator=generator, device=part.device)
        pixels = to_signal(images[index])
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=part.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = (decoded - pixels).abs()
        # Edges are few pixels but define the shape, so the square term gives them more weight.
        return error.mean() + 4 * error.square().mean() + 1e-5 * posterior.kl().mean()

    fit(part.name, vae, loss, Schedule(part.scaled(STEPS), 2e-3), part.folder)
    sample = encode_scenes(vae, images[:4096])
    vae.register_to_config(scaling_factor=round(float(1 / sample.std()), 4))
    return vae


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Return the latent means `[n, 4, 8, 8]` of uint8 images, without the scaling factor."""
    return torch.cat([vae.encode(to_signal(part)).latent_dist.mean for part in images.split(1024)])
