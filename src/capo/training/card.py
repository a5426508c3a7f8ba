"""The model card of a policy: what the Hub shows of it, and all that made it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from capo.recipe import Recipe
from capo.training.log import Row

LOADING = {
    "lora": """\
pipeline = DiffusionPipeline.from_pretrained({base!r}{parts})
pipeline.load_lora_weights("THIS FOLDER")""",
    "full": """\
pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER"{parts})""",
}


def model_card(
    recipe: Recipe,
    step: int,
    validation: Row | None,
    reference: Mapping[str, str],
    data: Mapping[str, str],
    left_out: Sequence[str] = (),
) -> str:
    """Markdown with the Hub's front matter.

    `validation` is the row of `step`, `reference` what the policy was compared with, `data` the
    digests of the artefacts it was trained on, and `left_out` the parts that the pipeline does without.
    """
    train = recipe.train
    parts = "".join(f", {name}=None" for name in left_out)
    kind = "A LoRA adapter for" if train.adaptation == "lora" else "A full fine-tune of"
    return f"""\
---
{_plain(_front_matter(recipe))}---

# {recipe.name}

{kind} `{_base(recipe)}`, aligned with {_listed([r.name for r in recipe.training_rewards])} by
the `{train.objective}` objective of Calibrated Multi-Preference Optimization. These are the weights
of step {step}.

```python
from diffusers import DiffusionPipeline

{LOADING[train.adaptation].format(base=_base(recipe), parts=parts)}
```

## Validation

{_table(validation) if validation else "None was asked for; these are the last weights."}

## Made from

```yaml
{_plain({"reference": dict(reference), "data": dict(data)})}```

## Recipe

```yaml
{_plain(_results(recipe))}```
"""


def _front_matter(recipe: Recipe) -> dict[str, Any]:
    lora = recipe.train.adaptation == "lora"
    values: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "capo", *(["lora", "template:sd-lora"] if lora else [])],
    }
    if _on_hub(recipe):
        relation = "adapter" if lora else "finetune"
        values |= {"base_model": recipe.model.checkpoint, "base_model_relation": relation}
    if lora:
        values["instance_prompt"] = None  # no word brings it out: it works on every prompt
    return values


def _on_hub(recipe: Recipe) -> bool:
    """Whether the base is a Hub id: only those may be named in the front matter."""
    return recipe.model.checkpoint.count("/") == 1 and not Path(recipe.model.checkpoint).exists()


def _base(recipe: Recipe) -> str:
    """The base by name: where a directory lies says nothing elsewhere."""
    return recipe.model.checkpoint if _on_hub(recipe) else Path(recipe.model.checkpoint).name


def _table(validation: Row) -> str:
    """Win-rates over the base and mean scores, reward by reward."""
    names = [key.partition("/")[2] for key in validation if key.startswith("win_rate/")]
    rows = [
        f"| {name} | {validation[f'win_rate/{name}']:.1%} | {validation[f'mean_reward/{name}']:.4g} |"
        for name in names
    ]
    head = ["| reward | win-rate over the base | mean score |", "|---|---|---|"]
    return "\n".join(["On validation prompts, with equal seeds:", "", *head, *rows])


def _results(recipe: Recipe) -> dict[str, Any]:
    """The fields that decide results, section by section."""
    sections = ("model", "generate", "pairs", "train")
    values: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    values |= {name: getattr(recipe, name).results() for name in sections}
    values["model"]["checkpoint"] = _base(recipe)
    values["prompts"] = recipe.prompts.results() | {"source": Path(recipe.prompts.source).name}
    if recipe.train.validation_prompts is not None:
        source = Path(recipe.train.validation_prompts.source).name
        values["train"]["validation_prompts"]["source"] = source
    return values | {"rewards": [reward.results() for reward in recipe.rewards]}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plain(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
