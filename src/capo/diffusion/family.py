"""A model family: what training and sampling need of a checkpoint, through diffusers' own pipeline.

Shape letters: B rows of a batch, C H W a latent, P prompts.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image, ImageOps
from torch import Tensor, nn

from capo.diffusion.arrangement import arrange
from capo.diffusion.components import load_part
from capo.diffusion.process import Process
from capo.diffusion.vae import compression, decode, encode
from capo.engine.device import quiet
from capo.recipe import GenerateSection, ModelSection


class Family(ABC):
    """A checkpoint of one pipeline class.

    A subclass says what is particular to its architecture: the classes of the parts, `_encode` and
    `_predict`, and what else differs. Conditioning is a dict of tensors whose first dimension is the
    prompt (or the row), in the words of the pipeline; it and latents may come from any device.
    """

    pipeline_class: ClassVar[Any]
    denoiser_name: ClassVar[str]
    """Of the denoiser among the pipeline's parts: `unet` or `transformer`."""
    denoiser_class: ClassVar[Any]
    text_encoders: ClassVar[Mapping[str, Any]]
    """Part and class; those that the checkpoint leaves out are not used."""
    vae_class: ClassVar[Any] = AutoencoderKL
    process_class: ClassVar[type[Process]]
    pixel_multiple: ClassVar[int] = 8
    """Least factor of image sizes that the pipeline accepts."""
    sequence_length: ClassVar[int | None] = None
    """Tokens of a prompt that the pipeline gives to a text encoder of any length; None when it has none."""
    sampling: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of every call of the pipeline."""

    denoiser: nn.Module
    """The network that is trained; what `sample` and `predict` use at the time of the call."""
    process: Process

    def __init__(self, section: ModelSection, path: str, device: torch.device) -> None:
        self.device = device
        self.dtype: torch.dtype = getattr(torch, section.dtype)
        self._section = section
        self._path = path
        if section.max_sequence_length is not None and self.sequence_length is None:
            raise ValueError(
                f"model.max_sequence_length: the text encoders of a {self.pipeline_class.__name__} read a "
                "fixed number of tokens; remove it"
            )
        self._source = {"revision": section.revision, "variant": section.variant}
        # Any class of scheduler reads the file of any other.
        self.process = self.process_class(self._config(DDPMScheduler, "scheduler"))
        self._vae_factor = compression(self._config(self.vae_class, "vae"))
        self.denoiser = self._load_denoiser(path, **self._source)

    def latent_shape(self, settings: GenerateSection) -> tuple[int, int, int]:
        """C, H, W of a latent at the size of `settings`; `ValueError` for a size that does not fit."""
        channels, own, patch = self._grid()
        multiple = max(self.pixel_multiple, patch * self._vae_factor)
        sizes = []
        for name, pixels in (("height", settings.height), ("width", settings.width)):
            if pixels is not None and pixels % multiple:
                raise ValueError(f"generate.{name}: {pixels} is not a multiple of {multiple}")
            sizes.append(own if pixels is None else pixels // self._vae_factor)
        return channels, sizes[0], sizes[1]

    def image_size(self, settings: GenerateSection) -> tuple[int, int]:
        """Height and width of an image at the size of `settings`, in pixels."""
        _, height, width = self.latent_shape(settings)
        return height * self._vae_factor, width * self._vae_factor

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """The conditioning of P prompts, on the CPU."""
        with quiet():  # the pipeline would repeat a line for every prompt that is too long
            return {name: tensor.cpu() for name, tensor in self._encode(prompts).items()}

    @torch.no_grad()
    def unconditional(self) -> dict[str, Tensor]:
        """One row: what classifier-free guidance departs from; empty for models without it."""
        with quiet():
            return {name: tensor.cpu() for name, tensor in self._unconditional().items()}

    def truncates(self, prompts: list[str]) -> list[bool]:
        """Which prompts are too long for every text encoder, so that their end has no effect."""
        tokenizer, limit = self._reach()
        with quiet():
            return [len(ids) > limit for ids in tokenizer(prompts).input_ids]

    def sample(
        self,
        conditioning: dict[str, Tensor],
        unconditional: dict[str, Tensor],
        noise: Tensor,
        settings: GenerateSection,
    ) -> Tensor:
        """Latents [B, C, H, W] float32 from initial noise [B, C, H, W] of unit variance.

        Raises `ValueError` for a scheduler that does not fit, or that draws noise of its own.
        """
        rows, (height, width) = len(noise), self._pixels(noise)
        pipeline = self._pipeline
        setattr(pipeline, self.denoiser_name, self.denoiser)
        negative = {
            f"negative_{name}": tensor.expand(rows, *tensor.shape[1:]).to(self.device)
            for name, tensor in unconditional.items()
        }
        generator = torch.Generator().manual_seed(0)
        random_states = generator.get_state(), self._random_state()
        own, pipeline.scheduler = pipeline.scheduler, self._sampler(settings)
        try:
            with self._autocast(self.dtype):
                latents: Tensor = pipeline(
                    **{name: tensor.to(self.device) for name, tensor in conditioning.items()},
                    **negative,
                    **self.sampling,
                    latents=self._packed(noise),
                    height=height,
                    width=width,
                    num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale,
                    generator=generator,
                    output_type="latent",
                ).images
        finally:
            pipeline.scheduler = own
        if not all(map(torch.equal, random_states, (generator.get_state(), self._random_state()))):
            raise ValueError(
                f"generate.scheduler: {settings.scheduler} draws noise while it samples, so that the "
                "seed of an image would not fix it; choose a deterministic one, as DDIMScheduler"
            )
        return self._unpacked(latents, noise).float()

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of latents [B, C, H, W]; `ValueError` when the VAE overflows."""
        pixels = decode(self._pipeline.vae, latents.to(self.device), self._vae_factor)
        images: list[Image.Image] = self._pipeline.image_processor.postprocess(pixels, output_type="pil")
        return images

    def encode_images(self, images: list[Image.Image], settings: GenerateSection) -> Tensor:
        """Latents [B, C, H, W], float32 on the CPU, of RGB images, as if the model had made them.

        An image of another size than that of `settings` is shrunk or enlarged until it covers it, and
        what stands over is cut off on both sides alike.
        """
        height, width = self.image_size(settings)
        processor = self._pipeline.image_processor
        fitted = [ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS) for image in images]
        return encode(self._pipeline.vae, processor.preprocess(fitted, height, width))

    def predict(
        self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor], dtype: torch.dtype | None = None
    ) -> Tensor:
        """The denoiser's answer [B, C, H, W] to noised latents at times `t` [B].

        It computes in `dtype`, or in `model.dtype` when None.
        """
        dtype = dtype or self.dtype
        given = {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in conditioning.items()
        }
        with self._autocast(dtype):
            return self._predict(x_t.to(self.device, dtype), t.to(self.device), given)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter weights so that the pipeline's `load_lora_weights` reads them."""
        name = self.denoiser_name
        given = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
        self.pipeline_class.save_lora_weights(folder, **given)

    def load_lora(self, folder: Path) -> None:
        """Put the adapter of `save_lora` into the denoiser."""
        pipeline = self._pipeline
        setattr(pipeline, self.denoiser_name, self.denoiser)
        with quiet():
            pipeline.load_lora_weights(folder, use_safetensors=True)

    def save_pipeline(self, folder: Path) -> None:
        """Write the whole pipeline, as its `from_pretrained` reads it."""
        setattr(self._pipeline, self.denoiser_name, self.denoiser)
        with quiet():
            self._pipeline.save_pretrained(folder)

    def load_denoiser(self, folder: Path) -> None:
        """Take the denoiser of a pipeline directory in place of the present one, which is dropped before."""
        if "_pipeline" in vars(self):
            vars(self._pipeline)[self.denoiser_name] = None  # its own setter would forget the part's class
        del self.denoiser
        gc.collect()  # a device may not have room for both
        with quiet():
            self.denoiser = self._load_denoiser(str(folder))

    @property
    def left_out(self) -> list[str]:
        """Parts that the checkpoint does without; plain diffusers wants to be told that they are None."""
        index = self.pipeline_class.load_config(self._path, revision=self._source["revision"])
        optional = self.pipeline_class._optional_components
        return [name for name, kind in index.items() if kind == [None, None] and name not in optional]

    @property
    def vae(self) -> Any:
        """The autoencoder between images and latents."""
        return self._pipeline.vae

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network of the pipeline, by the name of its part; the denoiser is one of them."""
        parts = {**self._pipeline.components, self.denoiser_name: self.denoiser}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    # What differs between families.

    @abstractmethod
    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """The conditioning of P prompts."""

    @abstractmethod
    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """One forward of the denoiser, all in its precision and on its device."""

    @abstractmethod
    def _reach(self) -> tuple[Any, int]:
        """The tokenizer whose text encoder reads furthest, and how many tokens that is."""

    def _unconditional(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _tokens(self) -> int:
        """Tokens of a prompt for the text encoder of any length."""
        own, given = self.sequence_length, self._section.max_sequence_length
        return (own or 0) if given is None else given

    def _grid(self) -> tuple[int, int, int]:
        """Channels of a latent, its own height and width, and the size of the patches taken of it."""
        config: Any = self.denoiser.config
        return config.in_channels, config.sample_size, config.get("patch_size", 1)

    def _sampler(self, settings: GenerateSection) -> Any:
        return self.process.sampler(settings)

    def _packed(self, noise: Tensor) -> Tensor:
        """Initial noise [B, C, H, W] as the pipeline takes it."""
        return noise.to(self.device, self.dtype)

    def _unpacked(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents of the pipeline, in the shape of `noise`."""
        return latents

    @cached_property
    def _pipeline(self) -> Any:
        with quiet():
            index = self.pipeline_class.load_config(self._path, revision=self._source["revision"])
            # Parts that the checkpoint leaves out: the pipeline wants to be told so again.
            parts: dict[str, Any] = {name: None for name, kind in index.items() if kind == [None, None]}
            for name, kind in {**self.text_encoders, "vae": self.vae_class}.items():
                if name not in parts:
                    parts[name] = self._part(kind, name, self._path, **self._source)
            if parts["vae"].config.get("force_upcast"):  # it overflows in half precision
                parts["vae"].to(torch.float32)
            pipeline: Any = self.pipeline_class.from_pretrained(
                self._path,
                revision=self._source["revision"],
                use_safetensors=True,
                **{**parts, self.denoiser_name: self.denoiser, **self._fixed_parts()},
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _fixed_parts(self) -> dict[str, Any]:
        """Further arguments of the pipeline's `from_pretrained`."""
        return {}

    def _load_denoiser(self, path: str, **source: Any) -> nn.Module:
        denoiser: nn.Module = self._part(self.denoiser_class, self.denoiser_name, path, **source)
        arrange(denoiser, self._section)
        return denoiser

    def _part(self, kind: Any, name: str, path: str, **source: Any) -> Any:
        return load_part(kind, path, name, dtype=self.dtype, **source).to(self.device)

    def _config(self, part: Any, folder: str) -> dict[str, Any]:
        config: dict[str, Any] = part.load_config(
            self._path, subfolder=folder, revision=self._source["revision"]
        )
        return config

    def _autocast(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Compute in `dtype` even while a denoiser in full training is kept in float32."""
        denoiser: Any = self.denoiser
        return torch.autocast(self.device.type, dtype) if denoiser.dtype != dtype else nullcontext()

    def _random_state(self) -> Tensor:
        """Of torch's own generator on the device, which some schedulers draw from."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2] * self._vae_factor, latents.shape[-1] * self._vae_factor
