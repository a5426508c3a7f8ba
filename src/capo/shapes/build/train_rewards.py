"""The reward models: trained on simulated people, in the layouts of real reward models.

A share of the images is passed through the autoencoder first, so that the rewards know the artifacts of
the base model's decoder.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from capo.engine.seeds import stable_seed
from capo.shapes.build import drawn_data as data
from capo.shapes.build.base import tokenize
from capo.shapes.build.drawn_data import normalize
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.build.sight import teach
from capo.shapes.build.tokenizers import PROMPT_LENGTH, clip_tokenizer
from capo.shapes.scenes import SIZE

PATCH = 4
BATCH = 128
PAIRED = 100_000
PAIRED_STEPS = 4_000
"""Examples and steps of the contrastive pretraining of the preference models."""


@dataclass(frozen=True)
class Tower:
    """Width and depth of a reward's transformer, and its amount of training."""

    width: int
    layers: int
    examples: int
    steps: int
    seed: int


PREFERENCE = Tower(width=96, layers=4, examples=60_000, steps=3_000, seed=2)
HELDOUT = Tower(width=128, layers=3, examples=60_000, steps=3_000, seed=5)
AESTHETIC = Tower(width=64, layers=3, examples=60_000, steps=5_000, seed=4)


def train_preference(tower: Tower, vae: AutoencoderKL, part: BuildPart) -> CLIPModel:
    """Train as PickScore was: a CLIP on images and captions, then fine-tuned on preferences.

    The fine-tuning loss is Bradley-Terry: the cross-entropy of the softmax over two images; ties are 1/2.
    """
    torch.manual_seed(tower.seed)
    device, tokenizer = part.device, clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": PROMPT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(text_config=CLIPTextConfig(**text), vision_config=_vision(tower), projection_dim=96)
    model = CLIPModel(config).to(device)
    teach(model.vision_model, vae, part, tower.seed)
    _pretrain(model, tokenizer, vae, part, tower.seed)
    examples = data.preferences(part.scaled(tower.examples), tower.seed, device)
    images = data.reconstruct(vae, examples.images.flatten(0, 1), tower.seed).unflatten(0, (-1, 2))
    tokens = tokenize(tokenizer, examples.texts, device)

    def loss(step: int) -> Tensor:
        index = draw_batch(part.name, step, len(images), device)
        scores = preference_scores(model, tokens[index], images[index])
        target = torch.stack([examples.labels[index], 1 - examples.labels[index]], dim=1)
        return nn.functional.cross_entropy(scores, target)

    fit(part.name, model, loss, Schedule(part.scaled(tower.steps), 4e-4), part.folder)
    return model


def _pretrain(
    model: CLIPModel, tokenizer: CLIPTokenizer, vae: AutoencoderKL, part: BuildPart, seed: int
) -> None:
    """Train with CLIP's contrastive loss on scenes and their captions."""
    name, device = f"{part.name}-clip", part.device
    examples = data.captions(part.scaled(PAIRED), 100 + seed, device, noisy=False)
    images = data.reconstruct(vae, examples.images, seed)
    tokens = tokenize(tokenizer, examples.texts, device)

    def loss(step: int) -> Tensor:
        index = draw_batch(name, step, len(images), device)
        output = model(input_ids=tokens[index], pixel_values=normalize(images[index]), return_loss=True)
        return output.loss

    fit(name, model, loss, Schedule(part.scaled(PAIRED_STEPS), 1e-3), part.folder)


def preference_scores(model: CLIPModel, tokens: Tensor, images: Tensor) -> Tensor:
    """Compute PickScore's formula for k images of n prompts, uint8 `[n, k, 3, H, W]`."""
    image_features = _features(model.get_image_features(pixel_values=normalize(images.flatten(0, 1))))
    text_features = _features(model.get_text_features(input_ids=tokens))
    image_features = nn.functional.normalize(image_features, dim=-1).unflatten(0, images.shape[:2])
    text_features = nn.functional.normalize(text_features, dim=-1)
    # The bound that CLIP puts on the scale keeps the softmax from saturating.
    return model.logit_scale.clamp(max=4.6052).exp() * (image_features * text_features[:, None]).sum(dim=-1)


def train_aesthetic(vae: AutoencoderKL, part: BuildPart) -> CLIPForImageClassification:
    """Train a CLIP vision tower with a linear head on ratings of 1 to 10."""
    torch.manual_seed(AESTHETIC.seed)
    device = part.device
    config = CLIPConfig(vision_config=_vision(AESTHETIC), num_labels=1, problem_type="regression")
    model = CLIPForImageClassification(config).to(device)
    teach(model.vision_model, vae, part, AESTHETIC.seed)
    examples = data.ratings(part.scaled(AESTHETIC.examples), AESTHETIC.seed, device)
    images = data.reconstruct(vae, examples.images, AESTHETIC.seed)
    with torch.no_grad():
        model.classifier.bias.copy_(examples.ratings.mean())

    def loss(step: int) -> Tensor:
        index = draw_batch(part.name, step, len(images), device)
        rating = model(pixel_values=normalize(images[index])).logits[:, 0]
        return nn.functional.mse_loss(rating, examples.ratings[index])

    fit(part.name, model, loss, Schedule(part.scaled(AESTHETIC.steps), 1e-3), part.folder)
    return model


def draw_batch(name: str, step: int, count: int, device: str, size: int = BATCH) -> Tensor:
    """Draw the indices of one step's examples."""
    generator = torch.Generator(device).manual_seed(stable_seed(name, step))
    return torch.randint(count, (size,), generator=generator, device=device)


def _vision(tower: Tower) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=4 * tower.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )


def _features(output: Any) -> Tensor:
    # transformers 5 returns a record with the pooled output, transformers 4 the tensor itself.
    features: Tensor = getattr(output, "pooler_output", output)
    return features
