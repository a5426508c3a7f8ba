"""What the model card of every policy has: the Hub's front matter, and how plain diffusers loads it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from capo.recipe import ModelSection

LOADING = {
    "lora": """\
pipeline = DiffusionPipeline.from_pretrained({base!r}{parts})
pipeline.load_lora_weights("THIS FOLDER")""",
    "full": """\
pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER"{parts})""",
}
KINDS = {"lora": "A LoRA adapter for", "full": "A full fine-tune of"}


def card(title: str, model: ModelSection, adaptation: str, tags: Sequence[str], text: str) -> str:
    """Markdown of a policy tuned from `model`, with the Hub's front matter; `text` follows the title."""
    return f"---\n{plain(_front_matter(model, adaptation, tags))}---\n\n# {title}\n\n{text}"


def loading(model: ModelSection, adaptation: str, left_out: Sequence[str]) -> str:
    """Python that loads the policy; `left_out` are the parts that the pipeline does without."""
    parts = "".join(f", {name}=None" for name in left_out)
    code = LOADING[adaptation].format(base=base_name(model), parts=parts)
    return f"```python\nfrom diffusers import DiffusionPipeline\n\n{code}\n```"


def kind(model: ModelSection, adaptation: str) -> str:
    """`A LoRA adapter for` the base, by name."""
    return f"{KINDS[adaptation]} `{base_name(model)}`"


def base_name(model: ModelSection) -> str:
    """The base by name: where a directory lies says nothing elsewhere."""
    return model.checkpoint if _on_hub(model) else Path(model.checkpoint).name


def plain(values: Mapping[str, Any]) -> str:
    """As YAML, in the order given."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def _front_matter(model: ModelSection, adaptation: str, tags: Sequence[str]) -> dict[str, Any]:
    lora = adaptation == "lora"
    own = ["lora", "template:sd-lora"] if lora else []
    values: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "capo", *own, *tags],
    }
    if _on_hub(model):
        relation = "adapter" if lora else "finetune"
        values |= {"base_model": model.checkpoint, "base_model_relation": relation}
    if lora:
        values["instance_prompt"] = None  # no word brings it out: it works on every prompt
    return values


def _on_hub(model: ModelSection) -> bool:
    """Whether the base is a Hub id: only those may be named in the front matter."""
    return model.checkpoint.count("/") == 1 and not Path(model.checkpoint).exists()
