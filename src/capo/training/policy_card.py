"""The model card of a trained policy: what the Hub shows of it, and all that made it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.diffusion.model_card import Base, card, kind, loading, plain
from capo.recipe import Recipe
from capo.training.log import Row


def model_card(
    recipe: Recipe,
    step: int,
    validation: Row | None,
    reference: Mapping[str, str],
    data: Mapping[str, str],
    left_out: Sequence[str] = (),
) -> str:
    """Markdown with the Hub's front matter.

    `validation` is the row of `step`, `reference` what the policy was compared with, its `checkpoint` the
    identity of the base, `data` the digests of the artifacts it was trained on, and `left_out` the parts
    that the pipeline does without.
    """
    base, train = Base(recipe.model.checkpoint, reference["checkpoint"]), recipe.train
    text = f"""\
{kind(base, train.adaptation)}, aligned with {_listed([r.name for r in recipe.training_rewards])} by
the `{train.objective}` objective of Calibrated Multi-Preference Optimization. These are the weights
of step {step}.

{loading(base, train.adaptation, left_out)}

## Validation

{_table(validation) if validation else "None was asked for; these are the last weights."}

## Made from

```yaml
{plain({"reference": dict(reference), "data": dict(data)})}```

## Recipe

```yaml
{plain(_results(recipe, base))}```
"""
    return card(recipe.name, base, train.adaptation, [], text)


def _table(validation: Row) -> str:
    """Win-rates over the base and mean scores, reward by reward."""
    names = [key.partition("/")[2] for key in validation if key.startswith("win_rate/")]
    rows = [
        f"| {name} | {validation[f'win_rate/{name}']:.1%} | {validation[f'mean_reward/{name}']:.4g} |"
        for name in names
    ]
    head = ["| reward | win-rate over the base | mean score |", "|---|---|---|"]
    return "\n".join(["On validation prompts, with equal seeds:", "", *head, *rows])


def _results(recipe: Recipe, base: Base) -> dict[str, Any]:
    """The fields that decide results, section by section."""
    sections = ("model", "generate", "pairs", "train")
    values: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    values |= {name: getattr(recipe, name).results() for name in sections}
    values["model"]["checkpoint"] = base.name
    values["prompts"] = recipe.prompts.results() | {"source": Path(recipe.prompts.source).name}
    if recipe.train.validation_prompts is not None:
        source = Path(recipe.train.validation_prompts.source).name
        values["train"]["validation_prompts"]["source"] = source
    return values | {"rewards": [_portable(reward.results()) for reward in recipe.rewards]}


def _portable(reward: dict[str, Any]) -> dict[str, Any]:
    """With weights that are a file or a folder by name: where they lie says nothing elsewhere."""
    weights = reward["checkpoint"]
    if weights is not None and Path(weights).exists():
        return reward | {"checkpoint": Path(weights).name}
    return reward


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
