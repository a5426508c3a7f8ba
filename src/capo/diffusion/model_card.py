"""The common parts of all model cards: the Hub's front matter, and code to load the policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LOADING = {
    "lora": """\
pipeline = DiffusionPipeline.from_pretrained({base!r}{parts})
pipeline.load_lora_weights("THIS FOLDER")""",
    "full": """\
pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER"{parts})""",
}
KINDS = {"lora": "A LoRA adapter for", "full": "A full fine-tune of"}


@dataclass(frozen=True)
class Base:
    """The model a policy was tuned from: the recipe's `checkpoint` and its recorded identity."""

    checkpoint: str
    identity: str

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
    parts = "".join(f", {name}=None" for name in left_out)
    code = LOADING[adaptation].format(base=base.name, parts=parts)
    return f"```python\nfrom diffusers import DiffusionPipeline\n\n{code}\n```"


def kind(base: Base, adaptation: str) -> str:
    """Return "A LoRA adapter for" or "A full fine-tune of" with the name of the base."""
    return f"{KINDS[adaptation]} `{base.name}`"


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
