"""The second base model: a small SD3 without T5, a rectified flow in the latents of the first one."""

from functools import partial

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from capo.engine.seeds import stable_seed
from capo.shapes.build.base import CAPTION_DROPOUT, text_config, tokenize
from capo.shapes.build.drawn_data import captions
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.build.tokenizers import clip_tokenizer
from capo.shapes.build.train_vae import encode_scenes
from capo.shapes.grammar import SPLITS
from capo.shapes.scenes import SIZE

SCENES = 300_000
STAGES = (("flow", ("train",), 7_000, 1.5e-3), ("flow-all", tuple(SPLITS), 3_000, 1e-3))
"""Name, splits, steps and highest learning rate of the stages: first one split, then all.

After the first stage alone, the model draws the contents of its split far better than others (the judge
accepts 89% against 57% of single shapes), which is unlike a real base model.
"""
BATCH = 128
WIDTH = 128
ABSENT = 256
"""Default number of zero tokens with which diffusers replaces a missing T5."""


class _Denoiser(nn.Module):
    """The modules trained together: two text encoders and the transformer."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModelWithProjection(text_config(tokenizer))
        self.text_encoder_2 = CLIPTextModelWithProjection(text_config(tokenizer))
        self.transformer = SD3Transformer2DModel(
            sample_size=SIZE // 4,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=5,
            attention_head_dim=32,
            num_attention_heads=WIDTH // 32,
            joint_attention_dim=128,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=128,
            pos_embed_max_size=SIZE // 8,
            qk_norm="rms_norm",
        )

    def forward(self, noisy: Tensor, t: Tensor, tokens: Tensor, absent: int) -> Tensor:
        """Predict the velocity at times `t` [B] in [0, 1], with `absent` zero tokens instead of T5's."""
        encoded = [
            encoder(tokens, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)
        ]
        states = torch.cat([e.hidden_states[-2] for e in encoded], dim=-1)
        states = torch.cat([states, states.new_zeros(len(states), absent, states.shape[-1])], dim=1)
        pooled = torch.cat([e.text_embeds for e in encoded], dim=-1)
        return self.transformer(
            noisy, encoder_hidden_states=states, pooled_projections=pooled, timestep=1000 * t
        ).sample


def train_flow(vae: AutoencoderKL, part: BuildPart) -> StableDiffusion3Pipeline:
    """Train text encoders and transformer, and return a complete pipeline."""
    torch.manual_seed(6)
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 16  # the longest prompt of the grammar
    model = _Denoiser(tokenizer).to(part.device)
    for seed, (name, splits, steps, learning_rate) in enumerate(STAGES, 6):
        data = captions(part.scaled(SCENES), seed, part.device, splits=splits)
        latents = encode_scenes(vae, data.images) * vae.config.scaling_factor
        tokens, nothing = (tokenize(tokenizer, texts, part.device) for texts in (data.texts, [""]))
        del data
        loss = partial(_loss, model, latents, tokens, nothing, name)
        schedule = Schedule(part.scaled(steps), learning_rate, average=0.9995)
        fit(name, model, loss, schedule, part.folder)
    vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        transformer=model.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _loss(
    model: _Denoiser, latents: Tensor, tokens: Tensor, nothing: Tensor, stage: str, step: int
) -> Tensor:
    """The flow-matching loss on the batch of a step."""
    device = latents.device
    generator = torch.Generator(device).manual_seed(stable_seed(stage, step))
    index = torch.randint(len(latents), (BATCH,), generator=generator, device=device)
    noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator, device=device)
    t = torch.randn(BATCH, generator=generator, device=device).sigmoid()  # SD3's logit-normal
    dropped = torch.rand(BATCH, generator=generator, device=device) < CAPTION_DROPOUT
    prompts = torch.where(dropped[:, None], nothing, tokens[index])
    noisy = torch.lerp(latents[index], noise, t[:, None, None, None])
    # Zero tokens are expensive and carry no information; a few batches have them, for robustness.
    predicted = model(noisy, t, prompts, ABSENT if step % 32 == 0 else 0)
    return nn.functional.mse_loss(predicted, noise - latents[index])
