"""Tiny checkpoints with random weights: every part real, 32-pixel images, 8 x 8 latents of 4 channels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = "a an the of and to left right above below two three red green blue circle square triangle cat dog"
CONTEXT = 16
"""Tokens per prompt that CLIP reads."""


def save(build: Callable[[], Any], folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Build a pipeline from `seed` and save it into `folder`, in the layout of the Hub."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = build()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.to(dtype)
    pipeline.save_pretrained(folder)
    return folder


def sdxl(
    folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, width_2: int = 16, **scheduler: object
) -> Path:
    """Save a tiny SDXL pipeline into `folder`; `scheduler` overrides fields of its scheduler.

    `width_2` is the width of the second text encoder. In a single file, diffusers takes encoders of equal
    width for the same.
    """

    def build() -> StableDiffusionXLPipeline:
        tokenizer = clip_tokenizer()
        return StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=CLIPTextModel(text_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, width_2)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=_unet(
                cross_attention_dim=16 + width_2,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=6 * 4 + 16,
            ),
            scheduler=DDPMScheduler(**{**_SCHEDULER, **scheduler}),
            add_watermarker=False,
        )

    return save(build, folder, seed=seed, dtype=dtype)


def sd(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(**_SCHEDULER, prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd3(*, t5: bool = True, **transformer: object) -> StableDiffusion3Pipeline:
    tokenizer = clip_tokenizer()
    tokenizer_3 = t5_tokenizer() if t5 else None
    return StableDiffusion3Pipeline(
        vae=vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        text_encoder_3=t5_encoder(tokenizer_3) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            **{"num_layers": 2, **transformer},
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def sd35() -> StableDiffusion3Pipeline:
    """As SD3.5-medium: normalized queries and keys, and a second attention in the first layers."""
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(*, dev: bool) -> FluxPipeline:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return FluxPipeline(
        vae=vae(scaling_factor=0.36, shift_factor=0.12),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=t5_encoder(tokenizer_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=dev,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0, **dynamic} if dev else {"shift": 1.0})),
    )


def sana() -> SanaPipeline:
    tokenizer = gemma_tokenizer()
    blocks = {
        "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8, 8),
        "layers_per_block": (1, 1, 1),
        "qkv_multiscales": ((), (), (5,)),
    }
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                initializer_range=0.5,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            scaling_factor=0.41,
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()},
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd15": sd,
    "sd21": lambda: sd("v_prediction"),
    "sd3": sd3,
    "sd3-without-t5": lambda: sd3(t5=False),
    "sd35": sd35,
    "flux-dev": lambda: flux(dev=True),
    "flux-schnell": lambda: flux(dev=False),
    "sana": sana,
}
"""The pipelines that `save` makes, except SDXL."""


_SCHEDULER: dict[str, object] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single characters, with a few merges that make common words short."""
    characters = [chr(c) for c in range(33, 127)]
    tokens = [*characters, *(c + "</w>" for c in characters)]
    merges = []
    for word in WORDS.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
            if merge not in merges:
                merges.append(merge)
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def text_config(tokenizer: CLIPTokenizer, width: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer over common words and single characters."""
    words = [(f"▁{word}", -3.0) for word in WORDS.split()]
    characters = [("▁", -6.0), *((chr(c), -8.0) for c in range(33, 127))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    return T5Tokenizer(vocab=[*special, *words, *characters], extra_ids=0)


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer over single characters."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    characters = ["▁", "\n", *(chr(c) for c in range(33, 127))]
    tokenizer = GemmaTokenizer(vocab={token: i for i, token in enumerate([*special, *characters])}, merges=[])
    start = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[start])
    return tokenizer


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def vae(**fields: float) -> AutoencoderKL:
    blocks = 3
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        **fields,
    )


def _unet(**fields: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 2),
        transformer_layers_per_block=(1, 1),
        norm_num_groups=4,
        use_linear_projection=True,
        **fields,
    )
