"""The base model: a small SDXL whose text encoders and denoiser are trained on poorly captioned scenes."""

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from capo.engine.seeds import stable_seed
from capo.shapes.build.drawn_data import captions
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.build.tokenizers import PROMPT_LENGTH, clip_tokenizer
from capo.shapes.build.train_vae import encode_scenes
from capo.shapes.scenes import SIZE

SCENES = 300_000
STEPS = 12_000
BATCH = 384
CAPTION_DROPOUT = 0.1


class _Denoiser(nn.Module):
    """The modules trained together: two text encoders and the UNet."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(text_config(tokenizer))
        transformer = _text_transformer(self.text_encoder)
        transformer.encoder.layers[-1].requires_grad_(False)  # SDXL does not use it
        transformer.final_layer_norm.requires_grad_(False)
        self.text_encoder_2 = CLIPTextModelWithProjection(text_config(tokenizer))
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // 4,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(48, 96),
            layers_per_block=1,
            cross_attention_dim=128,
            attention_head_dim=[3, 6],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64 + 6 * 8,
            norm_num_groups=16,
        ).to(memory_format=torch.channels_last)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, dropped: Tensor) -> Tensor:
        """Predict the noise; prompts in `dropped` are replaced by the all-zero prompt of SDXL."""
        kept = (~dropped).to(noisy.dtype)
        first = self.text_encoder(tokens, output_hidden_states=True)
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        conditions = {
            "text_embeds": second.text_embeds * kept[:, None],
            "time_ids": time_ids(len(noisy), noisy.device),
        }
        return self.unet(noisy, timesteps, states * kept[:, None, None], added_cond_kwargs=conditions).sample


def time_ids(count: int, device: torch.device | str) -> Tensor:
    """Return SDXL's size conditioning of an uncropped image: original size, crop, target size."""
    return torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], dtype=torch.float32, device=device).expand(count, 6)


def scheduler() -> DDIMScheduler:
    """Return SDXL's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def train_base(vae: AutoencoderKL, part: BuildPart) -> StableDiffusionXLPipeline:
    """Train text encoders and UNet, and return a complete pipeline."""
    torch.manual_seed(1)
    device, tokenizer = part.device, clip_tokenizer()
    model = _Denoiser(tokenizer).to(device)
    data = captions(part.scaled(SCENES), 1, device)
    latents = encode_scenes(vae, data.images) * vae.config.scaling_factor
    tokens = tokenize(tokenizer, data.texts, device)
    del data
    noising = scheduler()

    def loss(step: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(stable_seed("base", step))
        index = torch.randint(len(latents), (BATCH,), generator=generator, device=device)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator, device=device)
        timesteps = torch.randint(1000, (BATCH,), generator=generator, device=device)
        dropped = torch.rand(BATCH, generator=generator, device=device) < CAPTION_DROPOUT
        noisy = noising.add_noise(latents[index], noise, timesteps)
        predicted = model(
            noisy.contiguous(memory_format=torch.channels_last), timesteps, tokens[index], dropped
        )
        return nn.functional.mse_loss(predicted, noise)

    fit(part.name, model, loss, Schedule(part.scaled(STEPS), 2e-3, average=0.9995), part.folder)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=model.unet,
        scheduler=noising,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], device: str) -> Tensor:
    """Return token ids `[n, tokens]`, padded to the length of the tokenizer."""
    ids = tokenizer(texts, padding="max_length", truncation=True).input_ids
    return torch.tensor(ids, device=device)


def _text_transformer(encoder: Any) -> Any:
    return getattr(encoder, "text_model", encoder)


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Return the configuration of the base models' text encoders."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_LENGTH,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
