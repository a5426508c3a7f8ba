"""A model family: what training and sampling need of a checkpoint, through diffusers' own pipeline.

Shapes: B rows of a batch, C H W a latent, P prompts.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from PIL import Image, ImageOps
from torch import Tensor, nn

from capo.diffusion.arrangement import arrange
from capo.diffusion.assembly import absent_parts, assemble, save_assembled
from capo.diffusion.components import PartLoader, Source
from capo.diffusion.input_checks import check_inputs, check_tokens
from capo.diffusion.lora_loading import add_lora, check_loadable, fuse_loras
from capo.diffusion.process import Process, sampler_name
from capo.diffusion.vae import compression, decode, encode, latent_channels
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection


class Family(ABC):
    """A checkpoint of one pipeline class.

    A subclass declares what is particular to its architecture: the classes of the parts, `_encode`,
    `_predict`, and whatever else differs. Conditioning is a dict of tensors under the pipeline's names,
    with the prompt (or the row) as the first dimension. Conditioning and latents may be on any device.
    """

    pipeline_class: ClassVar[Any]
    denoiser_name: ClassVar[str]
    """The denoiser's name among the pipeline's parts: `unet` or `transformer`."""
    denoiser_class: ClassVar[Any]
    text_encoders: ClassVar[Mapping[str, Any]]
    """Name and class; those that a checkpoint does without are not used."""
    vae_class: ClassVar[Any] = AutoencoderKL
    process_class: ClassVar[type[Process]]
    pixel_multiple: ClassVar[int] = 8
    """Image sizes must be multiples of it for the pipeline to accept them."""
    packed_side: ClassVar[int] = 1
    """Latents per side that the pipeline packs into one token."""
    sequence_length: ClassVar[int | None] = None
    """Tokens per prompt for a text encoder without a length of its own; None without such an encoder."""
    longest_sequence: ClassVar[int | None] = None
    """The most tokens per prompt that the pipeline accepts; None without a limit."""
    sampling: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of every call of the pipeline."""
    guidance_argument: ClassVar[str] = "guidance_scale"
    """The name of `generate.guidance_scale` among the arguments of the pipeline's call."""
    unguided: ClassVar[float] = 1.0
    """Guidance scales up to this one turn guidance off."""
    plain_latents: ClassVar[str] = "noise.to(pipe.device, pipe.dtype)"
    """Code that turns initial noise [1, C, H, W] into what the pipeline `pipe` takes as `latents`."""

    denoiser: nn.Module
    """The network that is trained. `sample` and `predict` use the one set at the time of the call."""
    process: Process

    def __init__(
        self, section: ModelSection, source: Source, device: torch.device, load_part: PartLoader
    ) -> None:
        """Load the denoiser; text encoders and VAE follow when first used."""
        check_tokens(type(self), section.max_sequence_length)
        if section.loras:
            check_loadable(self.pipeline_class, "model.loras")
        self.device = device
        self.dtype: torch.dtype = getattr(torch, section.dtype)
        self._section = section
        self.source = source
        self._load_part = load_part
        # Any scheduler class reads the configuration file of any other.
        self.scheduler_config = self._config(DDPMScheduler, "scheduler")
        self.process = self.process_class(self.scheduler_config)
        self._vae_factor = compression(self._config(self.vae_class, "vae"))
        self._check_denoiser()
        self.denoiser = self._load_denoiser(self.source)

    def latent_shape(self, settings: GenerateSection) -> tuple[int, int, int]:
        """Return C, H, W of a latent at the image size of `settings`.

        Raises `ValueError` for a size that the model cannot make.
        """
        channels, own, patch = self._grid()
        multiple = max(self.pixel_multiple, patch * self._vae_factor)
        sizes = []
        for name, pixels in (("height", settings.height), ("width", settings.width)):
            if pixels is not None and pixels % multiple:
                raise ValueError(f"generate.{name}: {pixels} is not a multiple of {multiple}")
            sizes.append(own if pixels is None else pixels // self._vae_factor)
        return channels, sizes[0], sizes[1]

    def image_size(self, settings: GenerateSection) -> tuple[int, int]:
        """Return the height and width in pixels of images made with `settings`."""
        _, height, width = self.latent_shape(settings)
        return height * self._vae_factor, width * self._vae_factor

    def check_sampler(self, settings: GenerateSection) -> None:
        """Raise `ValueError` for a scheduler, a shift, or a guidance that does not fit the model."""
        self._sampler(settings)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """Return the conditioning of P prompts, on the CPU."""
        with quiet():  # the pipeline would log a line for every prompt that is too long
            # Without weights there are shapes, but no values to copy.
            return {name: t if t.is_meta else t.cpu() for name, t in self._encode(prompts).items()}

    @torch.no_grad()
    def unconditional(self) -> dict[str, Tensor]:
        """Return one row of conditioning for classifier-free guidance; empty for models without it."""
        with quiet():
            return {name: tensor.cpu() for name, tensor in self._unconditional().items()}

    def truncates(self, prompts: list[str]) -> list[bool]:
        """Report which prompts are too long for all text encoders, so that their end has no effect."""
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
        """Return latents [B, C, H, W] in float32 from initial noise [B, C, H, W] of unit variance.

        Raises `ValueError` for a scheduler that does not fit the model or that draws noise of its own.
        """
        height, width = self._pixels(noise)
        generator = torch.Generator().manual_seed(0)
        random_states = generator.get_state(), self._random_state()
        with self.pipeline(settings) as pipeline, self._autocast(self.dtype):
            arguments = {
                **self._prompt_arguments(conditioning, unconditional, len(noise)),
                **self.sampling,
                "latents": self._packed(noise),
                "height": height,
                "width": width,
                "num_inference_steps": settings.num_inference_steps,
                self.guidance_argument: settings.guidance_scale,
                "generator": generator,
            }
            latents = self._run(pipeline, arguments)
        if not all(map(torch.equal, random_states, (generator.get_state(), self._random_state()))):
            raise ValueError(
                f"generate.scheduler: {sampler_name(self.process, settings)} draws noise while it samples, "
                "so the seed of an image would not determine it; choose a deterministic one such as "
                "DDIMScheduler"
            )
        return self._unpacked(latents, noise).float()

    @contextmanager
    def pipeline(self, settings: GenerateSection) -> Iterator[Any]:
        """Yield diffusers' own pipeline with the denoiser as it is now and the sampler of `settings`."""
        pipeline = self._current_pipeline()
        own, pipeline.scheduler = pipeline.scheduler, self._sampler(settings)
        try:
            yield pipeline
        finally:
            pipeline.scheduler = own

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Return the images of latents [B, C, H, W]; raises `ValueError` if the VAE overflows."""
        pixels = decode(self._pipeline.vae, latents.to(self.device), self._vae_factor)
        images: list[Image.Image] = self._pipeline.image_processor.postprocess(pixels, output_type="pil")
        return images

    def encode_images(self, images: list[Image.Image], settings: GenerateSection) -> Tensor:
        """Return latents [B, C, H, W] of RGB images, float32 on the CPU.

        An image of another size than that of `settings` is resized to cover it and cropped at the center.
        """
        height, width = self.image_size(settings)
        processor = self._pipeline.image_processor
        fitted = [ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS) for image in images]
        return encode(self._pipeline.vae, processor.preprocess(fitted, height, width))

    def predict(
        self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor], dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the denoiser's prediction [B, C, H, W] for noised latents at times `t` [B].

        Computes in `dtype`, by default `model.dtype`.
        """
        dtype = dtype or self.dtype
        moved = {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in conditioning.items()
        }
        with self._autocast(dtype):
            return self._predict(x_t.to(self.device, dtype), t.to(self.device), moved)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter weights in the format that the pipeline's `load_lora_weights` reads."""
        name = self.denoiser_name
        adapter = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
        self.pipeline_class.save_lora_weights(folder, **adapter)

    def load_lora(self, path: Path) -> None:
        """Load a LoRA file, or the one in a folder, into the denoiser and the text encoders.

        Raises `ValueError` naming the file unless all of its weights are finite and in use afterwards.
        """
        check_loadable(self.pipeline_class, str(path))
        with quiet():
            add_lora(self._current_pipeline(), self.denoiser_name, path)

    def save_pipeline(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the whole pipeline in the layout that its `from_pretrained` reads.

        All weights are in `dtype`, by default `model.dtype`: parts of different precision fail together.
        """
        with quiet():
            save_assembled(self._current_pipeline(), self.source, folder, dtype or self.dtype)

    def load_denoiser(self, folder: Path) -> None:
        """Replace the denoiser by that of a pipeline directory; the current one is dropped first."""
        if "_pipeline" in vars(self):
            vars(self._pipeline)[self.denoiser_name] = None  # its own setter would forget the part's class
        del self.denoiser
        gc.collect()  # a device may not have room for both
        with quiet():
            self.denoiser = self._load_denoiser(Source(str(folder)))

    @property
    def left_out(self) -> list[str]:
        """The absent parts that plain diffusers must receive as None when it loads the checkpoint."""
        optional = self.pipeline_class._optional_components
        return [name for name in absent_parts(self.pipeline_class, self.source) if name not in optional]

    def sampler_changes(self, settings: GenerateSection) -> dict[str, Any]:
        """Return the settings of `sample`'s scheduler that the class's `from_config` would not set."""
        return self.process.sampler_changes(settings)

    def plain_diffusers(self, settings: GenerateSection) -> dict[str, Any]:
        """Return, as JSON values, what plain diffusers needs to make the images that `sample` makes.

        `left_out` and `parts` are for `from_pretrained`, `sampler` for the scheduler, `arguments` for the
        call, `noise` is the shape of the initial noise, and `latents` the code that passes it on. `pipeline`
        is the class of a single file.
        """
        height, width = self.image_size(settings)
        tokens = {} if self.sequence_length is None else {"max_sequence_length": self._tokens()}
        chosen = {name: value for name, value in self.sampling.items() if value is not None}
        return {
            "left_out": self.left_out,
            "parts": self._fixed_parts(),
            "sampler": self.sampler_changes(settings),
            "arguments": {"height": height, "width": width, **tokens, **chosen},
            "noise": list(self.latent_shape(settings)),
            "latents": self.plain_latents,
            **({} if (kind := self.single_file_pipeline) is None else {"pipeline": kind}),
            **({} if settings.scheduler else {"scheduler": self.process.default_sampler}),
            **({} if self.guidance_argument == "guidance_scale" else {"guidance": self.guidance_argument}),
        }

    @property
    def single_file_pipeline(self) -> str | None:
        """The name of the pipeline class if the checkpoint is a single file, which does not record it."""
        return None if self.source.file is None else str(self.pipeline_class.__name__)

    @property
    def vae(self) -> Any:
        """The autoencoder between images and latents."""
        return self._pipeline.vae

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network of the pipeline, by the name of its part; the denoiser is one of them."""
        parts = {**self._pipeline.components, self.denoiser_name: self.denoiser}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    # Overridden by families that differ.

    @abstractmethod
    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """Return the conditioning of P prompts."""

    @abstractmethod
    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """Run the denoiser once; all arguments are in its precision and on its device."""

    @abstractmethod
    def _reach(self) -> tuple[Any, int]:
        """Return the tokenizer of the text encoder that reads furthest, and how many tokens it reads."""

    def _unconditional(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _run(self, pipeline: Any, arguments: dict[str, Any]) -> Tensor:
        """Return the pipeline's latents."""
        latents: Tensor = pipeline(**arguments, output_type="latent").images
        return latents

    def _tokens(self) -> int:
        """Tokens per prompt for the text encoder without a length of its own."""
        chosen = self._section.max_sequence_length
        return (self.sequence_length or 0) if chosen is None else chosen

    def _grid(self) -> tuple[int, int, int]:
        """Channels of a latent, the model's own side of a latent, and its patch size."""
        config: Any = self.denoiser.config
        return config.in_channels, config.sample_size, config.get("patch_size", 1)

    def _sampler(self, settings: GenerateSection) -> Any:
        return self.process.sampler(settings)

    def _packed(self, noise: Tensor) -> Tensor:
        """Convert initial noise [B, C, H, W] to what the pipeline expects."""
        return noise.to(self.device, self.dtype)

    def _unpacked(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Convert the pipeline's latents to the shape of `noise`."""
        return latents

    def _fixed_parts(self) -> dict[str, Any]:
        """Further arguments of the pipeline's `from_pretrained`."""
        return {}

    # Loading.

    @cached_property
    def _pipeline(self) -> Any:
        with quiet():
            absent = absent_parts(self.pipeline_class, self.source)
            # The pipeline requires absent parts as explicit None.
            parts: dict[str, Any] = dict.fromkeys(absent)
            for name, kind in {**self.text_encoders, "vae": self.vae_class}.items():
                if name not in absent:
                    parts[name] = self._part(kind, name, self.source)
            if parts["vae"].config.get("force_upcast"):  # it overflows in half precision
                parts["vae"].to(torch.float32)
            parts |= {self.denoiser_name: self.denoiser, **self._fixed_parts()}
            return assemble(self.pipeline_class, self.source, parts)

    def _current_pipeline(self) -> Any:
        """The pipeline with the denoiser as it is now."""
        setattr(self._pipeline, self.denoiser_name, self.denoiser)
        return self._pipeline

    def _load_denoiser(self, source: Source) -> nn.Module:
        denoiser: nn.Module = self._part(self.denoiser_class, self.denoiser_name, source)
        arrange(denoiser, self._section)
        return denoiser

    def _part(self, kind: Any, name: str, source: Source) -> Any:
        network = self._load_part(kind, source, name, self.dtype)
        if source is self.source and name in getattr(self.pipeline_class, "_lora_loadable_modules", ()):
            # On the CPU, so that the merged weights do not depend on the device.
            part = (name, network)
            config = FrozenDict(self._config(self.denoiser_class, self.denoiser_name))
            fuse_loras(self.pipeline_class, (self.denoiser_name, config), part, self._section.loras)
        return network.to(self.device)

    def _config(self, part: Any, folder: str) -> dict[str, Any]:
        config: dict[str, Any] = part.load_config(self.source.path, subfolder=folder)
        return config

    def _check_denoiser(self) -> None:
        """Raise `ValueError` for a denoiser that takes more than a noised latent, such as a masked image."""
        channels = latent_channels(self._config(self.vae_class, "vae")) * self.packed_side**2
        check_inputs(self.denoiser_name, self._config(self.denoiser_class, self.denoiser_name), channels)

    # Details of computing.

    def _prompt_arguments(
        self, conditioning: dict[str, Tensor], unconditional: dict[str, Tensor], rows: int
    ) -> dict[str, Tensor]:
        """The pipeline's arguments for encoded prompts, with the guidance row repeated for every row."""
        negative = {
            f"negative_{name}": tensor.expand(rows, *tensor.shape[1:])
            for name, tensor in unconditional.items()
        }
        return {name: tensor.to(self.device) for name, tensor in {**conditioning, **negative}.items()}

    def _autocast(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Compute in `dtype`, even if a denoiser in full training is kept in float32."""
        denoiser: Any = self.denoiser
        return torch.autocast(self.device.type, dtype) if denoiser.dtype != dtype else nullcontext()

    def _random_state(self) -> Tensor:
        """The state of torch's own generator on the device, which some schedulers draw from."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2] * self._vae_factor, latents.shape[-1] * self._vae_factor
