"""Stable Diffusion XL: what training and sampling need, through diffusers' own pipeline."""

import difflib
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from capo.diffusion.loading import load_part
from capo.diffusion.process import DDPM
from capo.recipe import GenerateSection, ModelSection
from capo.runtime import quiet

DECODED_PIXELS = 4 * 1024 * 1024
"""Pixels the VAE decodes at once: its memory grows with them far faster than the denoiser's."""


class SDXL:
    """A `StableDiffusionXLPipeline` checkpoint; see `capo.diffusion.family.Family`.

    Conditioning is `prompt_embeds` [P, tokens, D] and `pooled_prompt_embeds` [P, E], in diffusers'
    words. The size and crop that SDXL is conditioned on besides are those of the images themselves.
    """

    denoiser: nn.Module

    def __init__(self, section: ModelSection, path: str, device: torch.device) -> None:
        self.device = device
        self._path = path
        self._source = {"revision": section.revision, "variant": section.variant}
        self._dtype: torch.dtype = getattr(torch, section.dtype)
        schedule = self._config(DDPMScheduler, "scheduler")
        self._scheduler: Any = DDPMScheduler.from_config(schedule)
        vae = self._config(AutoencoderKL, "vae")
        self.denoiser = self._part(UNet2DConditionModel, "unet", path, **self._source)
        self.process = DDPM(self._scheduler)
        self._vae_scale_factor = 2 ** (len(vae["block_out_channels"]) - 1)

    def latent_shape(self, settings: GenerateSection) -> tuple[int, int, int]:
        config: Any = self.denoiser.config
        sizes = []
        for name, pixels in (("height", settings.height), ("width", settings.width)):
            factor = max(8, self._vae_scale_factor)  # the pipeline wants 8 at least
            if pixels is not None and pixels % factor:
                raise ValueError(f"generate.{name}: {pixels} is not a multiple of {factor}")
            sizes.append(config.sample_size if pixels is None else pixels // self._vae_scale_factor)
        return config.in_channels, sizes[0], sizes[1]

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        with quiet():  # the pipeline would repeat a line for every prompt that is too long
            embeds, _, pooled, _ = self._pipeline.encode_prompt(
                prompts, device=self.device, do_classifier_free_guidance=False
            )
        return {"prompt_embeds": embeds.cpu(), "pooled_prompt_embeds": pooled.cpu()}

    @torch.no_grad()
    def unconditional(self) -> dict[str, Tensor]:
        _, embeds, _, pooled = self._pipeline.encode_prompt(
            [""], device=self.device, do_classifier_free_guidance=True
        )
        return {"prompt_embeds": embeds.cpu(), "pooled_prompt_embeds": pooled.cpu()}

    def truncates(self, prompts: list[str]) -> list[bool]:
        tokenizer = self._pipeline.tokenizer_2
        with quiet():
            tokens = tokenizer(prompts).input_ids
        return [len(ids) > tokenizer.model_max_length for ids in tokens]

    def sample(
        self,
        conditioning: dict[str, Tensor],
        unconditional: dict[str, Tensor],
        noise: Tensor,
        settings: GenerateSection,
    ) -> Tensor:
        """Raises `ValueError` for a scheduler that does not fit, or that draws noise of its own."""
        rows, (height, width) = len(noise), self._pixels(noise)
        pipeline = self._pipeline
        pipeline.unet = self.denoiser
        own, pipeline.scheduler = pipeline.scheduler, self._sampler(settings.scheduler)
        negative = {
            f"negative_{name}": tensor.expand(rows, *tensor.shape[1:]).to(self.device)
            for name, tensor in unconditional.items()
        }
        generator = torch.Generator().manual_seed(0)
        untouched = generator.get_state()
        with self._autocast():
            latents: Tensor = pipeline(
                **{name: tensor.to(self.device) for name, tensor in conditioning.items()},
                **negative,
                latents=noise.to(self.device, self._dtype),
                height=height,
                width=width,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                generator=generator,
                output_type="latent",
            ).images
        pipeline.scheduler = own
        if not torch.equal(generator.get_state(), untouched):
            raise ValueError(
                f"generate.scheduler: {settings.scheduler} draws noise while it samples, so that the "
                "seed of an image would not fix it; choose a deterministic one, as DDIMScheduler"
            )
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self._pipeline.vae
        height, width = self._pixels(latents)
        images: list[Image.Image] = []
        for rows in torch.split(latents, max(1, DECODED_PIXELS // (height * width))):
            pixels = vae.decode(self._unscaled(rows.to(self.device, vae.dtype)), return_dict=False)[0]
            images += self._pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
        return images

    def predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        height, width = self._pixels(x_t)
        # Original size, crop, target size: what the pipeline gives for images of this size.
        time_ids = torch.tensor([height, width, 0, 0, height, width], device=self.device, dtype=self._dtype)
        with self._autocast():
            prediction: Tensor = self.denoiser(
                x_t.to(self.device, self._dtype),
                t.to(self.device),
                encoder_hidden_states=conditioning["prompt_embeds"].to(self.device),
                added_cond_kwargs={
                    "text_embeds": conditioning["pooled_prompt_embeds"].to(self.device),
                    "time_ids": time_ids.expand(len(x_t), -1),
                },
                return_dict=False,
            )[0]
        return prediction

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        StableDiffusionXLPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata
        )

    def load_lora(self, folder: Path) -> None:
        pipeline = self._pipeline
        pipeline.unet = self.denoiser
        with quiet():
            pipeline.load_lora_weights(folder, use_safetensors=True)

    def save_pipeline(self, folder: Path) -> None:
        self._pipeline.unet = self.denoiser
        with quiet():
            self._pipeline.save_pretrained(folder)

    def load_denoiser(self, folder: Path) -> None:
        with quiet():
            self.denoiser = self._part(UNet2DConditionModel, "unet", str(folder))

    @cached_property
    def _pipeline(self) -> Any:
        with quiet():
            parts = {
                name: self._part(kind, name, self._path, **self._source)
                for name, kind in (
                    ("text_encoder", CLIPTextModel),
                    ("text_encoder_2", CLIPTextModelWithProjection),
                    ("vae", AutoencoderKL),
                )
            }
            if parts["vae"].config.force_upcast:  # SDXL's VAE overflows in half precision
                parts["vae"].to(torch.float32)
            pipeline: Any = StableDiffusionXLPipeline.from_pretrained(
                self._path,
                revision=self._source["revision"],
                unet=self.denoiser,
                add_watermarker=False,
                use_safetensors=True,
                **parts,
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _part(self, kind: Any, name: str, path: str, **source: Any) -> Any:
        return load_part(kind, path, name, dtype=self._dtype, **source).to(self.device)

    def _config(self, part: Any, folder: str) -> dict[str, Any]:
        config: dict[str, Any] = part.load_config(
            self._path, subfolder=folder, revision=self._source["revision"]
        )
        return config

    def _sampler(self, name: str) -> Any:
        """The scheduler class `name`, with the checkpoint's own noise schedule."""
        known = {c.__name__: c for c in self._scheduler.compatibles}
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"generate.scheduler: {name!r} is no scheduler for this model; {hint}")
        return known[name].from_config(self._scheduler.config)

    def _autocast(self) -> AbstractContextManager[None]:
        """Compute in the model's precision even while a denoiser in full training is kept in float32."""
        wider = next(self.denoiser.parameters()).dtype != self._dtype
        return torch.autocast(self.device.type, self._dtype) if wider else nullcontext()

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2] * self._vae_scale_factor, latents.shape[-1] * self._vae_scale_factor

    def _unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the VAE has them, from the denoiser's normalised ones."""
        config = self._pipeline.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return latents / float(config.scaling_factor)
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * std / float(config.scaling_factor) + mean
