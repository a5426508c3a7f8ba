"""Tiny checkpoints of the families whose text encoders are language models, and PixArt: as in `tiny`."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tiny import t5_encoder, t5_tokenizer, vae

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{{ message['content'][0]['text'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BY_SIZE = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "shift": 1.0}


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's tokenizer over single characters."""
    characters = [*(chr(c) for c in range(33, 127)), "Ġ", "Ċ"]  # space and new line
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*characters, *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=marks[1:])
    tokenizer.chat_template = CHAT
    return tokenizer


def _language(tokenizer: Qwen2Tokenizer, layers: int, **heads: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **heads,
    }


def qwen_image() -> QwenImagePipeline:
    tokenizer = qwen_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    return QwenImagePipeline(
        tokenizer=tokenizer,
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={**_language(tokenizer, 1), "rope_parameters": rope},
                vision_config={
                    "depth": 1,
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_heads": 2,
                    "out_hidden_size": 16,
                },
            )
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.1, 0.2, 0.0],
            latents_std=[1.5, 2.0, 1.0, 0.5],
        ),
        transformer=_loud(
            QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(2, 2, 4),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE, shift_terminal=0.02),
    )


def z_image() -> ZImagePipeline:
    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        tokenizer=tokenizer,
        text_encoder=Qwen3Model(Qwen3Config(**_language(tokenizer, 2), head_dim=8)),
        vae=vae(scaling_factor=0.36, shift_factor=0.12),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 2, 2],
            axes_lens=[1536, 64, 64],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux2() -> Flux2Pipeline:
    tokenizer = qwen_tokenizer()
    config = Mistral3Config(
        text_config={"model_type": "mistral", **_language(tokenizer, 30, head_dim=8)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    )
    return Flux2Pipeline(
        tokenizer=tokenizer,  # the processor of the published model, which contains it, needs torchvision
        text_encoder=Mistral3ForConditionalGeneration(config),
        vae=_flux2_vae(),
        transformer=_flux2_transformer(guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
    )


def klein(*, distilled: bool) -> Flux2KleinPipeline:
    tokenizer = qwen_tokenizer()
    return Flux2KleinPipeline(
        tokenizer=tokenizer,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**_language(tokenizer, 27), head_dim=8)),
        vae=_flux2_vae(),
        transformer=_flux2_transformer(guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
        is_distilled=distilled,
    )


def pixart() -> PixArtSigmaPipeline:
    tokenizer = t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=vae(),
        transformer=PixArtTransformer2DModel(
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=8,
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def _loud(network: torch.nn.Module) -> torch.nn.Module:
    """Enlarge random weights, so that prompts have a clear effect on images."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter *= 4
    return network


def _flux2_vae() -> AutoencoderKLFlux2:
    network = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=1,
        sample_size=32,
    )
    network.bn.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    network.bn.running_var.copy_(torch.tensor([1.5, 0.5, 2.0, 1.0]))
    return network


def _flux2_transformer(*, guidance_embeds: bool) -> torch.nn.Module:
    return _loud(
        Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=guidance_embeds,
        )
    )


FAMILIES = {
    "qwen-image": qwen_image,
    "z-image": z_image,
    "flux2-dev": flux2,
    "flux2-klein": lambda: klein(distilled=True),
    "flux2-klein-base": lambda: klein(distilled=False),
    "pixart": pixart,
}
