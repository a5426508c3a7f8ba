"""Code that loads a policy and samples with plain diffusers, for reports and model cards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo.diffusion import is_plugin_checkpoint
from capo.diffusion.lora_source import is_peft, known_file
from capo.recipe import GenerateSection, LoraSection
from capo.recipe.hub_id import split_revision


@dataclass(frozen=True)
class Base:
    """The model a policy was tuned from: the recipe's `checkpoint` and its recorded identity."""

    checkpoint: str
    identity: str
    pipeline: str | None = None
    """The pipeline class of a single file; None for a checkpoint that says so itself."""
    config: str | None = None
    """The recipe's `config`."""
    loras: tuple[LoraSection, ...] = ()
    """The recipe's `loras`."""

    @property
    def on_hub(self) -> bool:
        """True for a Hub id, the only kind that may appear in the front matter; a directory has a digest."""
        return self.identity.startswith(f"{self.checkpoint}@")

    @property
    def name(self) -> str:
        """The Hub id, or the name of a directory without its path."""
        return self.checkpoint if self.on_hub else Path(self.checkpoint).name


@dataclass(frozen=True, kw_only=True)
class PlainPipeline:
    """A policy as plain diffusers loads it."""

    folder: str
    """The policy's folder, seen from the folder in which the code runs."""
    adaptation: str
    dtype: str
    """The precision of sampling. transformers loads text encoders in the precision they are stored in, so
    without it, parts of a pipeline may differ and fail."""
    base: str
    """The base of an adapter: a plugin's name, a Hub id, or a path."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Revision and variant of the base."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for parts that the pipeline does without."""
    pipeline: str | None = None
    """The pipeline class of a base that is a single file."""
    config: str | None = None
    """The configuration of a base that is a single file."""
    loras: Sequence[tuple[LoraSection, str]] = ()
    """The LoRAs that are merged into the base of an adapter, and their locations in the code."""

    @property
    def needs_capo(self) -> bool:
        """True if capo must say where the base is."""
        return self.adaptation == "lora" and is_plugin_checkpoint(self.base)

    def imports(self, *names: str) -> list[str]:
        """Return the imports that the code needs, with further `names` of diffusers."""
        lines = ["import torch", f"from diffusers import {', '.join(sorted({self._kind, *names}))}"]
        if self.needs_capo:
            lines.insert(1, "from capo.diffusion import resolve_checkpoint  # finds the base")
        if self.adaptation == "lora" and any(is_peft(lora) for lora, _ in self.loras):
            lines += ["from peft import PeftModel", "from peft.tuners.lora import LoraLayer"]
        return [*lines, ""]

    def loading(self) -> list[str]:
        """Return the lines that make `pipe`."""
        parts = [f"{name}={value!r}" for name, value in self.parts.items()]
        dtype = f"dtype=torch.{self.dtype}"
        if self.adaptation == "full":
            return [call("pipe = DiffusionPipeline.from_pretrained", [literal(self.folder), dtype, *parts])]
        base = f"resolve_checkpoint({literal(self.base)})" if self.needs_capo else literal(self.base)
        options = [f"{name}={literal(value)}" for name, value in self.options.items()]
        if self.config is not None:
            options.append(f"config={literal(self.config)}")
        method = "from_pretrained" if self.pipeline is None else "from_single_file"
        return [
            call(f"pipe = {self._kind}.{method}", [base, *options, dtype, *parts]),
            *(line for lora, place in self.loras for line in _fusing(lora, place)),
            f"pipe.load_lora_weights({literal(self.folder)})",
        ]

    @property
    def _kind(self) -> str:
        return (self.adaptation == "lora" and self.pipeline) or "DiffusionPipeline"


def _fusing(lora: LoraSection, place: str) -> list[str]:
    revision = split_revision(lora.path)[1] if lora.on_hub else None
    options = {} if revision is None else {"revision": revision}
    if is_peft(lora):
        return _fusing_with_peft(place, options, lora.weight)
    if lora.on_hub and (file := known_file(lora)):
        options = {"weight_name": file, **options}
    arguments = [literal(place), *(f"{name}={literal(value)}" for name, value in options.items())]
    return [
        call("pipe.load_lora_weights", arguments),
        f"pipe.fuse_lora(lora_scale={lora.weight!r})",
        "pipe.unload_lora_weights()",
    ]


def _fusing_with_peft(place: str, options: Mapping[str, str], weight: float) -> list[str]:
    """Merge a folder that peft saved, which diffusers does not read."""
    arguments = ["denoiser", literal(place), *(f"{n}={literal(value)}" for n, value in options.items())]
    return [
        'denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer',
        call("styled = PeftModel.from_pretrained", arguments),
        "for layer in styled.modules():",
        "    if isinstance(layer, LoraLayer):",
        f"        layer.scale_layer({weight!r})",
        "styled.merge_and_unload()  # into the pipeline's own weights",
    ]


def call_values(settings: GenerateSection, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call, apart from the prompt and the noise.

    `record` is the result of `Family.plain_diffusers`.
    """
    guidance = record.get("guidance", "guidance_scale")
    values = {"num_inference_steps": settings.num_inference_steps, guidance: settings.guidance_scale}
    return values | record.get("arguments", {})


def keywords(values: Mapping[str, Any]) -> list[str]:
    """Return values as keyword arguments of Python code."""
    return [f"{name}={value!r}" for name, value in values.items()]


def to_device() -> str:
    """Return the line that moves `pipe` to a GPU if there is one."""
    return 'pipe.to("cuda" if torch.cuda.is_available() else "cpu")'


def portable(location: str) -> str:
    """Return a Hub id without its revision, or the name of a path without its folder."""
    return Path(location).name if Path(location).exists() else split_revision(location)[0]


def call(function: str, arguments: list[str], suffix: str = "") -> str:
    """Return a call on one line, or with one argument per line if that is too long."""
    line = f"{function}({', '.join(arguments)}){suffix}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), f"){suffix}"])


def literal(value: str) -> str:
    """Return a text as a Python literal."""
    return json.dumps(value, ensure_ascii=False)
