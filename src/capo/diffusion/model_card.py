"""The common parts of all model cards: the Hub's front matter, and code to load the policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from capo.recipe.hub_id import split_revision

KINDS = {"lora": "A LoRA adapter for", "full": "A full fine-tune of"}


@dataclass(frozen=True)
class Base:
    """The model a policy was tuned from: the recipe's `checkpoint` and its recorded identity."""

    checkpoint: str
    identity: str
    pipeline: str | None = None
    """The pipeline class of a single file; None for a checkpoint that says so itself."""
    config: str | None = None
    """The recipe's `config`."""
    loras: tuple[Mapping[str, Any], ...] = ()
    """The recipe's `loras`: their `path` and `weight`."""

    @property
    def on_hub(self) -> bool:
        """True for a Hub id, the only kind that may appear in the front matter; a directory has a digest."""
        return self.identity.startswith(f"{self.checkpoint}@")

    @property
    def name(self) -> str:
        """The Hub id, or the name of a directory without its path."""
        return self.checkpoint if self.on_hub else Path(self.checkpoint).name


def card(title: str, base: Base, adaptation: str, tags: Sequence[str], text: str) -> str:
    """Return the Markdown of a policy's card, with the Hub's front matter; `text` follows the title."""
    return f"---\n{plain(_front_matter(base, adaptation, tags))}---\n\n# {title}\n\n{text}"


def loading(base: Base, adaptation: str, left_out: Sequence[str]) -> str:
    """Return Python code that loads the policy; `left_out` are the parts that the pipeline does without."""
    absent = [f"{name}=None" for name in left_out]
    kind, folder = "DiffusionPipeline", '"THIS FOLDER"'
    if adaptation == "full":
        code = [f"pipeline = {base_call(kind, folder, absent)}"]
    else:
        kind = base.pipeline or "DiffusionPipeline"
        config = None if base.config is None else portable(base.config)
        loras = [(Path(lora["path"]).name, lora["weight"]) for lora in base.loras]
        code = [
            f"pipeline = {base_call(kind, repr(base.name), absent, config)}",
            *fusing_lines("pipeline", loras),
            f"pipeline.load_lora_weights({folder})",
        ]
    return "\n".join(["```python", f"from diffusers import {kind}", "", *code, "```"])


def base_call(kind: str, base: str, arguments: Sequence[str], config: str | None = None) -> str:
    """Return the call that builds a pipeline of class `kind`: of a checkpoint, or of a single file.

    `base` and `arguments` are Python expressions. Only a single file has a pipeline class of its own.
    """
    if kind == "DiffusionPipeline":
        return f"{kind}.from_pretrained({', '.join([base, *arguments])})"
    own = [] if config is None else [f"config={config!r}"]
    return f"{kind}.from_single_file({', '.join([base, *own, *arguments])})"


def fusing_lines(pipeline: str, loras: Sequence[tuple[str, float]]) -> list[str]:
    """Return the lines of Python that merge LoRAs, given by path and weight, into the base's `pipeline`."""
    return [
        line
        for path, weight in loras
        for line in (
            f"{pipeline}.load_lora_weights({path!r})",
            f"{pipeline}.fuse_lora(lora_scale={weight!r})",
            f"{pipeline}.unload_lora_weights()",
        )
    ]


def kind(base: Base, adaptation: str) -> str:
    """Return "A LoRA adapter for" or "A full fine-tune of" with the name of the base."""
    return f"{KINDS[adaptation]} `{base.name}`"


def portable(location: str) -> str:
    """A Hub id without its revision, or the name of a directory without its path."""
    return Path(location).name if Path(location).exists() else split_revision(location)[0]


def plain(values: Mapping[str, Any]) -> str:
    """Return the values as YAML, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def _front_matter(base: Base, adaptation: str, tags: Sequence[str]) -> dict[str, Any]:
    lora = adaptation == "lora"
    own = ["lora", "template:sd-lora"] if lora else []
    values: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "capo", *own, *tags],
    }
    if base.on_hub:
        relation = "adapter" if lora else "finetune"
        values |= {"base_model": base.checkpoint, "base_model_relation": relation}
    if lora:
        values["instance_prompt"] = None  # no trigger word: it works on every prompt
    return values
