"""What one prompt, one image and one pair cost: counted on the model itself, without its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from capo.cost.plan.weightless import META, Count, count, weightless
from capo.diffusion.adapter import add_adapter
from capo.diffusion.family import Family
from capo.recipe import Recipe


@dataclass(frozen=True)
class Sampling:
    """What a recipe's sampling takes, in the precision of `model.dtype`."""

    encode: int
    """FLOPs of the text encoders, for a prompt."""
    step: int
    """FLOPs of the denoiser for an image and a step, both passes where there is guidance."""
    steps: int
    """More than `generate.num_inference_steps` with a sampler of second order."""
    decode: int
    """FLOPs of the VAE, for an image."""
    decode_dtype: str
    parameters: dict[str, int]
    """Of every network, by its part of the pipeline."""
    weights: dict[str, int]
    """Bytes of every network."""
    denoiser: str
    """Which of them the denoiser is."""
    conditioning: int
    """Bytes for a prompt."""
    latent: int
    """Bytes of a latent."""
    pixels: int
    activations: int
    """Bytes that sampling takes for each image of a batch."""
    decoding: int
    """Bytes that decoding an image takes."""

    @property
    def image(self) -> int:
        """FLOPs of the denoiser for an image."""
        return self.step * self.steps


@dataclass(frozen=True)
class Training:
    """What a pair takes in training, chosen and rejected together, in the precision it computes in."""

    reference: Count
    """The forward pass of the reference."""
    policy: Count
    """The forward and backward pass of the policy; its bytes are the activations kept in between."""
    checkpointed: Count
    """The same with gradient checkpointing."""
    trained: int
    """Parameters."""


def count_sampling(recipe: Recipe) -> Sampling:
    """Raises `ValueError` for a model or settings that do not fit, naming the field."""
    settings = recipe.generate
    with weightless(recipe.model) as family, torch.no_grad():
        height, width = family.image_size(settings)
        latent = torch.empty(1, *family.latent_shape(settings), device=META)
        conditioning = family.encode([""])
        guided = settings.guidance_scale > 1 and bool(family.unconditional())
        rows, vae = 2 if guided else 1, family.vae
        denoising = count(_forward(family, latent, conditioning, rows))
        decoding = count(lambda: vae.decode(latent.to(vae.dtype)))
        return Sampling(
            encode=count(lambda: family.encode([""])).flops,
            step=denoising.flops,
            steps=_evaluations(family, recipe),
            decode=decoding.flops,
            decode_dtype=str(vae.dtype).removeprefix("torch."),
            parameters={name: _parameters(network) for name, network in family.networks.items()},
            weights={name: _weights(network) for name, network in family.networks.items()},
            denoiser=family.denoiser_name,
            conditioning=sum(tensor.nbytes for tensor in conditioning.values()),
            latent=prod(latent.shape) * family.dtype.itemsize,
            pixels=height * width,
            activations=denoising.bytes,
            decoding=decoding.bytes,
        )


def count_training(recipe: Recipe) -> Training:
    """Raises `ValueError` for LoRA targets that the denoiser does not have."""
    section = recipe.train
    # Its own precision throughout: what autocast would add are copies of the weights.
    model = recipe.model.model_copy(update={"dtype": computing_dtype(recipe)})
    with weightless(model) as family:
        denoiser: Any = family.denoiser
        latent = torch.empty(1, *family.latent_shape(recipe.generate), device=META)
        forward = _forward(family, latent, family.encode([""]), 2)
        with torch.no_grad():
            reference = count(forward)
        denoiser.requires_grad_(section.adaptation == "full")
        if section.adaptation == "lora":
            add_adapter(denoiser, section, recipe.seed)
        trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        policy = count(lambda: _backward(forward))
        denoiser.enable_gradient_checkpointing()
        checkpointed = count(lambda: _backward(forward))
        return Training(reference, policy, checkpointed, sum(parameter.numel() for parameter in trained))


def computing_dtype(recipe: Recipe) -> str:
    """The precision of the forward passes in training."""
    return recipe.train.dtype or recipe.model.dtype


def _forward(
    family: Family, latent: Tensor, conditioning: dict[str, Tensor], rows: int
) -> Callable[[], Tensor]:
    x_t, t = latent.expand(rows, -1, -1, -1), torch.empty(rows, device=META)
    given = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in conditioning.items()}
    return lambda: family.predict(x_t, t, given)


def _backward(forward: Callable[[], Tensor]) -> None:
    torch.autograd.backward(forward().float().square().mean())


def _drop_gradient(parameter: Tensor) -> None:
    """Gradients are counted by themselves: there is one a trained parameter."""
    parameter.grad = None


def _evaluations(family: Family, recipe: Recipe) -> int:
    """How often the sampler asks the denoiser for an image."""
    sampler = family.process.sampler(recipe.generate)
    shift = {"mu": 1.0} if sampler.config.get("use_dynamic_shifting") else {}
    sampler.set_timesteps(recipe.generate.num_inference_steps, **shift)
    return len(sampler.timesteps)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _weights(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())
