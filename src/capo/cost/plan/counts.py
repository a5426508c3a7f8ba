"""Count the cost of one prompt, one image and one pair on the model itself, without its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from capo.cost.plan.weightless import META, weightless
from capo.cost.plan.work_counter import Count, count, count_flops
from capo.diffusion.adapter import add_adapter
from capo.diffusion.family import Family
from capo.diffusion.vae import decoded
from capo.recipe import GenerateSection, ModelSection, Recipe, TrainSection

KEPT = 16
"""Counts that are kept; the recipes of a study differ in few of them."""


@dataclass(frozen=True)
class Sampling:
    """Cost of sampling, in the precision of `model.dtype`."""

    encode: int
    """FLOPs of the text encoders per prompt."""
    step: int
    """FLOPs of the denoiser per image and step; two passes with guidance."""
    steps: int
    """Calls of the denoiser; more than `generate.num_inference_steps` with a second-order sampler."""
    decode: int
    """FLOPs of the VAE per image."""
    decode_dtype: str
    parameters: dict[str, int]
    """Parameters of every network, by pipeline component."""
    weights: dict[str, int]
    """Bytes of every network, by pipeline component."""
    denoiser: str
    """Name of the denoiser among them."""
    conditioning: int
    """Bytes of the conditioning of a prompt."""
    latent: int
    """Bytes of a latent."""
    pixels: int
    activations: int
    """Bytes per image of a batch while sampling."""
    decoding: int
    """Bytes while decoding one image."""

    @property
    def image(self) -> int:
        """FLOPs of the denoiser per image."""
        return self.step * self.steps


@dataclass(frozen=True)
class Training:
    """Cost of a pair in training, chosen and rejected together, in the precision training computes in."""

    reference: Count
    """Forward pass of the reference."""
    policy: Count
    """Forward and backward pass of the policy; `bytes` are the activations kept in between."""
    checkpointed: Count
    """`policy` with gradient checkpointing."""
    trained: int
    """Number of trained parameters."""


def count_sampling(recipe: Recipe) -> Sampling:
    """Count sampling; raises `ValueError` naming the field if the model and the settings do not fit."""
    return _count_sampling(recipe.model, _for_one_image(recipe.generate))


@lru_cache(maxsize=KEPT)
def _count_sampling(model: ModelSection, settings: GenerateSection) -> Sampling:
    with weightless(model) as family, torch.no_grad():
        height, width = family.image_size(settings)
        latent = torch.empty(1, *family.latent_shape(settings), device=META)
        encode, conditioning = _encode(family)
        guided = settings.guidance_scale > family.unguided and bool(family.unconditional())
        rows, vae = 2 if guided else 1, family.vae
        denoising = count(_forward(family, latent, conditioning, rows))
        decoding = count(lambda: decoded(vae, latent))
        return Sampling(
            encode=encode,
            step=denoising.flops,
            steps=_evaluations(family, settings),
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
    """Count training; raises `ValueError` for LoRA targets that the denoiser does not have."""
    # Built in the computing precision: autocast would add copies of the weights.
    model = recipe.model.model_copy(update={"dtype": computing_dtype(recipe)})
    size = GenerateSection(height=recipe.generate.height, width=recipe.generate.width)
    return _count_training(model, size, _adapted(recipe.train))


@lru_cache(maxsize=KEPT)
def _count_training(model: ModelSection, size: GenerateSection, adapted: TrainSection) -> Training:
    with weightless(model) as family:
        denoiser: Any = family.denoiser
        latent = torch.empty(1, *family.latent_shape(size), device=META)
        forward = _forward(family, latent, family.encode([""]), 2)
        with torch.no_grad():
            reference = count(forward)
        denoiser.requires_grad_(adapted.adaptation == "full")
        if adapted.adaptation == "lora":
            add_adapter(denoiser, adapted, seed=0)
        trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        policy = count(lambda: _backward(forward))
        denoiser.enable_gradient_checkpointing()
        checkpointed = count(lambda: _backward(forward))
        return Training(reference, policy, checkpointed, sum(parameter.numel() for parameter in trained))


def computing_dtype(recipe: Recipe) -> str:
    """Dtype of the forward passes in training."""
    return recipe.train.dtype or recipe.model.dtype


def _for_one_image(settings: GenerateSection) -> GenerateSection:
    """Return `settings` with defaults for what does not change the cost of one image."""
    amounts = ("samples_per_prompt", "adaptive", "shard_prompts", "batch_size", "image_format")
    return GenerateSection.model_validate(settings.model_dump(exclude=set(amounts)))


def _adapted(section: TrainSection) -> TrainSection:
    """Return `section` with only what changes the trained parameters."""
    adapter = {name for name in TrainSection.model_fields if name.startswith("lora_")}
    values = section.model_dump(include={"adaptation", *adapter})
    return TrainSection(beta=1.0, **values)


def _encode(family: Family) -> tuple[int, dict[str, Tensor]]:
    """Return the FLOPs to encode a prompt, and its conditioning."""
    encoded: list[dict[str, Tensor]] = []
    flops = count_flops(lambda: encoded.append(family.encode([""])))
    return flops, encoded[0]


def _forward(
    family: Family, latent: Tensor, conditioning: dict[str, Tensor], rows: int
) -> Callable[[], Tensor]:
    x_t, t = latent.expand(rows, -1, -1, -1), torch.empty(rows, device=META)
    expanded = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in conditioning.items()}
    return lambda: family.predict(x_t, t, expanded)


def _backward(forward: Callable[[], Tensor]) -> None:
    torch.autograd.backward(forward().float().square().mean())


def _drop_gradient(parameter: Tensor) -> None:
    """Free the gradient: gradients are counted separately, one per trained parameter."""
    parameter.grad = None


def _evaluations(family: Family, settings: GenerateSection) -> int:
    """The number of times the sampler calls the denoiser per image."""
    sampler = family.process.sampler(settings)
    shift = {"mu": 1.0} if sampler.config.get("use_dynamic_shifting") else {}
    sampler.set_timesteps(settings.num_inference_steps, **shift)
    return len(sampler.timesteps)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _weights(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())
