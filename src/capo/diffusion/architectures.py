"""Configurations of published networks by name, without weights.

They determine what a model costs, so nothing has to be downloaded to know it. The values are those of the
`config.json` files on the Hub, without fields that equal the library's defaults.
`tests/diffusion/test_architectures.py` compares parameter counts with the published ones.
"""

from typing import Any

Config = dict[str, Any]

_CLIP: Config = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_L: Config = {
    **_CLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_CLIP_BIG_G: Config = {
    **_CLIP,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_T5_XXL: Config = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}

_VAE: Config = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
_VAE_16: Config = {
    **_VAE,
    "latent_channels": 16,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_FLUX2_VAE: Config = {
    **_VAE,
    "latent_channels": 32,
    "sample_size": 1024,
    "batch_norm_eps": 1e-4,
    "patch_size": [2, 2],
}
_QWEN_VAE: Config = {"base_dim": 96, "z_dim": 16, "temperal_downsample": [False, True, True]}

_SD15_UNET: Config = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
_SDXL_UNET: Config = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SD3_TRANSFORMER: Config = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_SD35_MEDIUM_TRANSFORMER: Config = {
    **_SD3_TRANSFORMER,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
_SD35_LARGE_TRANSFORMER: Config = {
    **_SD3_TRANSFORMER,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
_FLUX_TRANSFORMER: Config = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
_PIXART_TRANSFORMER: Config = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "attention_head_dim": 72,
    "num_attention_heads": 16,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "use_additional_conditions": False,
}
_FLUX2_KLEIN_4B: Config = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
_FLUX2_KLEIN_9B: Config = {
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}

_QWEN3: Config = {
    "vocab_size": 151936,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_QWEN3_4B: Config = {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
_QWEN3_8B: Config = {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
_QWEN25_VL_7B: Config = {
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}
_MISTRAL_SMALL: Config = {
    "tie_word_embeddings": False,
    "spatial_merge_size": 2,
    "text_config": {
        "model_type": "mistral",
        "vocab_size": 131072,
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 1540,
        "patch_size": 14,
    },
}

_DDPM: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
_FLOW: Config = {"num_train_timesteps": 1000, "shift": 3.0}
_FLUX_FLOW: Config = {
    **_FLOW,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
_FLUX2_FLOW: Config = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True}
_QWEN_FLOW: Config = {
    **_FLUX_FLOW,
    "shift": 1.0,
    "max_shift": 0.9,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}


def _flux2(transformer: Config, encoder: tuple[str, Config]) -> dict[str, tuple[str, Config]]:
    return {
        "transformer": ("Flux2Transformer2DModel", transformer),
        "vae": ("AutoencoderKLFlux2", _FLUX2_VAE),
        "text_encoder": encoder,
        "scheduler": ("FlowMatchEulerDiscreteScheduler", _FLUX2_FLOW),
    }


def _sd3(transformer: Config) -> dict[str, tuple[str, Config]]:
    return {
        "transformer": ("SD3Transformer2DModel", transformer),
        "vae": ("AutoencoderKL", {**_VAE_16, "scaling_factor": 1.5305, "shift_factor": 0.0609}),
        "text_encoder": ("CLIPTextModelWithProjection", _CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", _CLIP_BIG_G),
        "text_encoder_3": ("T5EncoderModel", _T5_XXL),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", _FLOW),
    }


PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35": "StableDiffusion3Pipeline",
    "sd35-large": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
    "flux2": "Flux2Pipeline",
    "flux2-klein-4b": "Flux2KleinPipeline",
    "flux2-klein-9b": "Flux2KleinPipeline",
    "qwen-image": "QwenImagePipeline",
    "z-image": "ZImagePipeline",
    "pixart-sigma": "PixArtSigmaPipeline",
}
"""Architecture → diffusers pipeline; sd35 is SD3.5-medium, flux is FLUX.1-dev, flux2 is FLUX.2-dev."""

PARTS: dict[str, dict[str, tuple[str, Config]]] = {
    "sd15": {
        "unet": ("UNet2DConditionModel", _SD15_UNET),
        "vae": ("AutoencoderKL", {**_VAE, "sample_size": 512, "scaling_factor": 0.18215}),
        "text_encoder": ("CLIPTextModel", _CLIP_L),
        "scheduler": ("DDIMScheduler", _DDPM),
    },
    "sdxl": {
        "unet": ("UNet2DConditionModel", _SDXL_UNET),
        "vae": ("AutoencoderKL", {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
        "text_encoder": ("CLIPTextModel", _CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", _CLIP_BIG_G),
        "scheduler": ("DDIMScheduler", _DDPM),
    },
    "sd3": _sd3(_SD3_TRANSFORMER),
    "sd35": _sd3(_SD35_MEDIUM_TRANSFORMER),
    "sd35-large": _sd3(_SD35_LARGE_TRANSFORMER),
    "flux": {
        "transformer": ("FluxTransformer2DModel", _FLUX_TRANSFORMER),
        "vae": ("AutoencoderKL", {**_VAE_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}),
        "text_encoder": ("CLIPTextModel", _CLIP_L),
        "text_encoder_2": ("T5EncoderModel", _T5_XXL),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", _FLUX_FLOW),
    },
    "flux2": _flux2({"in_channels": 128}, ("Mistral3ForConditionalGeneration", _MISTRAL_SMALL)),
    "flux2-klein-4b": _flux2(_FLUX2_KLEIN_4B, ("Qwen3ForCausalLM", _QWEN3_4B)),
    "flux2-klein-9b": _flux2(_FLUX2_KLEIN_9B, ("Qwen3ForCausalLM", _QWEN3_8B)),
    "qwen-image": {
        "transformer": ("QwenImageTransformer2DModel", {"in_channels": 64}),
        "vae": ("AutoencoderKLQwenImage", _QWEN_VAE),
        "text_encoder": ("Qwen2_5_VLForConditionalGeneration", _QWEN25_VL_7B),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", _QWEN_FLOW),
    },
    "z-image": {
        "transformer": ("ZImageTransformer2DModel", {"in_channels": 16}),
        "vae": ("AutoencoderKL", {**_VAE_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}),
        "text_encoder": ("Qwen3Model", _QWEN3_4B),
        "scheduler": ("FlowMatchEulerDiscreteScheduler", {**_FLOW, "shift": 6.0}),
    },
    "pixart-sigma": {
        "transformer": ("PixArtTransformer2DModel", _PIXART_TRANSFORMER),
        "vae": ("AutoencoderKL", {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
        "text_encoder": ("T5EncoderModel", _T5_XXL),
        "scheduler": ("DDIMScheduler", {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
    },
}
"""Architecture → folder of the checkpoint → class and configuration of its network."""
