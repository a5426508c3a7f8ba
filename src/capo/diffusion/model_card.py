"""The common parts of all model cards: the Hub's front matter, and code to load the policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from capo.diffusion import is_plugin_checkpoint
from capo.diffusion.lora_source import location
from capo.diffusion.plain_pipeline import Base, PlainPipeline, call, portable, to_device
from capo.recipe import LoraSection

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

KINDS = {"lora": "A LoRA adapter for", "full": "A full fine-tune of"}


def card(title: str, front_matter: str, text: str) -> str:
    """Return the Markdown of a policy's card; `text` follows the title."""
    return f"---\n{front_matter}\n---\n\n# {title}\n\n{text}"


def front_matter(
    base: Base,
    adaptation: str,
    *,
    tags: Sequence[str] = (),
    name: str | None = None,
    datasets: Sequence[str] = (),
    results: "Sequence[EvalResult]" = (),
) -> str:
    """Return the Hub's front matter as YAML, without empty fields.

    `datasets` are Hub ids; `results` become the card's `model-index` of the model `name`.
    """
    from huggingface_hub import ModelCardData

    lora = adaptation == "lora"
    own = ["lora", "template:sd-lora"] if lora else []
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusers", "capo", *own, *tags],
        base_model=base.checkpoint if base.on_hub else None,
        base_model_relation=("adapter" if lora else "finetune") if base.on_hub else None,
        datasets=list(datasets) or None,
        model_name=name if results else None,
        eval_results=list(results) or None,
    )
    return data.to_yaml()


def loading(
    base: Base, adaptation: str, model: Mapping[str, Any], left_out: Sequence[str], arguments: Sequence[str]
) -> str:
    """Return a section with Python code that loads the policy from its own folder.

    `model` is the section of the recipe; `left_out` are the parts that the pipeline does without, and
    `arguments` those of the pipeline's call after the prompt.
    """
    beside = adaptation == "lora" and not base.on_hub and not is_plugin_checkpoint(base.checkpoint)
    plain = PlainPipeline(
        folder=".",
        adaptation=adaptation,
        dtype=model["dtype"],
        base=f"../{base.name}" if beside else base.checkpoint,
        options={name: value for name in ("revision", "variant") if (value := model.get(name))},
        parts=dict.fromkeys(left_out),
        pipeline=base.pipeline,
        config=None if base.config is None else _beside(base.config),
        loras=[(lora, location(lora) if lora.on_hub else f"../{_name(lora)}") for lora in base.loras],
    )
    files = [base.name] if beside else []
    if adaptation == "lora":
        files += [_name(lora) for lora in base.loras if not lora.on_hub]
    where = f", with {', '.join(f'`{file}`' for file in files)} beside it" if files else ""
    code = "\n".join([
        *plain.imports(),
        *plain.loading(),
        to_device(),
        call("image = pipe", ['prompt="a red circle on a green square"', *arguments], ".images[0]"),
    ])  # fmt: skip
    return f"In this folder{where}:\n\n```python\n{code}\n```"


def _name(lora: LoraSection) -> str:
    return Path(location(lora)).name


def _beside(config: str) -> str:
    return f"../{portable(config)}" if Path(config).exists() else portable(config)


def kind(base: Base, adaptation: str) -> str:
    """Return "A LoRA adapter for" or "A full fine-tune of" with the name of the base."""
    return f"{KINDS[adaptation]} `{base.name}`"


def plain(values: Mapping[str, Any]) -> str:
    """Return the values as YAML, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
