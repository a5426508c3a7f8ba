"""The origin of a trained policy: its record in `capo.json`, and its model card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.diffusion.model_card import card, front_matter, kind, loading, plain
from capo.diffusion.plain_pipeline import Base, call_values, keywords, portable
from capo.recipe import ModelSection, Recipe
from capo.training.log import Row

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Origin:
    """The origin of a policy: its step, validation, reference, and data."""

    step: int
    validation: Row | None
    """The step's row of `validation.jsonl`; None without validation."""
    reference: Mapping[str, str]
    """The model that the policy was compared with; its `checkpoint` is the identity of the base."""
    data: Mapping[str, str]
    """Digests of the artifacts that the policy was trained on."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """What plain diffusers needs; see `Family.plain_diffusers`."""
    round: int | None = None
    """The round, from 2 on; None in the first."""

    def summary(self) -> dict[str, Any]:
        """Return the fields about the best policy in the summary of `train`."""
        win_rate = None if self.validation is None else self.validation["win_rate"]
        return {"best_step": self.step, "best_win_rate": win_rate, **self._rounds()}

    def record(self, model: ModelSection) -> dict[str, Any]:
        """Return the contents of `capo.json`, except for the adaptation."""
        return {
            "step": self.step,
            "win_rate": None if self.validation is None else self.validation["win_rate"],
            "base": self.reference["checkpoint"],
            "model": model.results(),
            **{name: value for name in ("left_out", "pipeline") if (value := self.plain.get(name))},
            **self._rounds(),
        }

    def _rounds(self) -> dict[str, int]:
        return {} if self.round is None else {"round": self.round}


def policy_card(recipe: Recipe, origin: Origin) -> str:
    """Return the model card of a trained policy: Markdown with the Hub's front matter."""
    model, train = recipe.model, recipe.train
    identity, pipeline = origin.reference["checkpoint"], origin.plain.get("pipeline")
    base = Base(model.checkpoint, identity, pipeline, model.config, model.loras)
    left_out, arguments = origin.plain.get("left_out", []), call_values(recipe.generate, origin.plain)
    text = f"""\
{kind(base, train.adaptation)}, aligned with {_listed([r.name for r in recipe.training_rewards])} by
the `{train.objective}` objective of Calibrated Multi-Preference Optimization. These are the weights
of step {origin.step}.

{loading(base, train.adaptation, model.model_dump(), left_out, keywords(arguments))}

## Validation

{_table(origin.validation) if origin.validation else "There was no validation; these are the last weights."}

## Origin

```yaml
{plain({"reference": dict(origin.reference), "data": dict(origin.data)})}```

## Recipe

```yaml
{plain(_stated(_results(recipe, base)))}```
"""
    results = _eval_results(recipe, origin.validation) if origin.validation else []
    data = front_matter(base, train.adaptation, name=recipe.name, datasets=_datasets(recipe), results=results)
    return card(recipe.name, data, text)


def _datasets(recipe: Recipe) -> list[str]:
    """The data sets on the Hub that prompts and images come from."""
    sources = [recipe.prompts.source, *([recipe.images.source] if recipe.images else [])]
    names = ["/".join(s.removeprefix("hub:").split("/")[:2]) for s in sources if s.startswith("hub:")]
    return list(dict.fromkeys(names))


def _eval_results(recipe: Recipe, validation: Row) -> "list[EvalResult]":
    """The win-rates of validation in the Hub's schema."""
    from huggingface_hub import EvalResult

    assert recipe.train.validation_prompts is not None
    source = recipe.train.validation_prompts.source
    rates = {"mean of the training rewards": validation["win_rate"]}
    rates |= {name: validation[f"win_rate/{name}"] for name in _rewards(validation)}
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=Path(source).name,
            dataset_name="validation prompts",
            metric_type="win_rate",
            metric_name=f"win-rate over the base, {name}",
            metric_value=round(rate, 4),
        )
        for name, rate in rates.items()
    ]


def _rewards(validation: Row) -> list[str]:
    return [key.partition("/")[2] for key in validation if key.startswith("win_rate/")]


def _table(validation: Row) -> str:
    """A table of win-rates over the base and mean scores, one row per reward."""
    rows = [
        f"| {name} | {validation[f'win_rate/{name}']:.1%} | {validation[f'mean_reward/{name}']:.4g} |"
        for name in _rewards(validation)
    ]
    head = ["| reward | win-rate over the base | mean score |", "|---|---|---|"]
    return "\n".join(["On the validation prompts, with equal seeds:", "", *head, *rows])


def _results(recipe: Recipe, base: Base) -> dict[str, Any]:
    """The recipe fields that decide results, by section, without local paths."""
    sections = ("model", "generate", "pairs", "train")
    values: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    values |= {name: getattr(recipe, name).results() for name in sections}
    values["generate"]["scheduler"] = recipe.generate.scheduler
    values["model"]["checkpoint"] = base.name
    if base.config is not None:
        values["model"]["config"] = portable(base.config)
    if base.loras:
        values["model"]["loras"] = [
            lora.results() | ({} if lora.on_hub else {"path": Path(lora.path).name}) for lora in base.loras
        ]
    values["prompts"] = recipe.prompts.results() | {"source": Path(recipe.prompts.source).name}
    if recipe.train.validation_prompts is not None:
        source = Path(recipe.train.validation_prompts.source).name
        values["train"]["validation_prompts"]["source"] = source
    return values | {"rewards": [_portable(reward.results()) for reward in recipe.rewards]}


def _stated(values: Any) -> Any:
    """Return nested values without null and empty ones, which say nothing."""
    if isinstance(values, list):
        return [_stated(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {name: _stated(value) for name, value in values.items() if value not in (None, [], {}, ())}


def _portable(reward: dict[str, Any]) -> dict[str, Any]:
    """The fields of a reward, with local weights by name only: their path means nothing elsewhere."""
    weights = reward["checkpoint"]
    if weights is not None and Path(weights).exists():
        return reward | {"checkpoint": Path(weights).name}
    return reward


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
