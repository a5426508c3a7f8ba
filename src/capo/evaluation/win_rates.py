"""What an evaluation found: win-rates with their intervals, judgements, and warnings.

Notation: P prompts, K images of each from every model. Scores are float64 [P, K], NaN where one
is missing. Intervals are 95% bootstrap intervals over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.engine.seeds import stable_seed
from capo.prompts import Prompt
from capo.recipe import Recipe
from capo.rewards import RewardError
from capo.scoring.prompt_win_rates import (
    bounds,
    difference,
    estimate,
    power,
    present,
    prompt_error,
    prompt_means,
    prompt_win_rates,
    same_seed_win_rates,
    signs,
)

Scores = Mapping[str, np.ndarray]
"""By model: base, tuned and maybe null."""

SAMENESS = 0.9
"""Images this many times as unlike each other as the base's, or less, are worth a warning."""


@dataclass(frozen=True)
class Diversity:
    """How unlike each other the images of each prompt are."""

    embedder: str
    """whose features they are compared by"""
    distances: Scores
    """mean cosine distances [P]"""


def results(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    scores: Mapping[str, Scores],
    correct: Mapping[str, np.ndarray] | None,
    diversity: Diversity | None = None,
    same_noise: bool = True,
) -> dict[str, Any]:
    """The content of `results.json` from each reward's scores and the judge's verdicts [P, K].

    `same_noise` says whether base and tuned images of one number start from the same noise.
    """
    seed = stable_seed("bootstrap", recipe.seed)
    groups = _groups(prompts)
    models = [model for model in next(iter(scores.values())) if model != "base"]
    rates = {
        name: {model: prompt_win_rates(name, by_model[model], by_model["base"]) for model in models}
        for name, by_model in scores.items()
    }
    training = [section.name for section in recipe.training_rewards]
    found: dict[str, Any] = {
        "prompts": len(prompts),
        "samples_per_prompt": recipe.evaluate.samples_per_prompt,
        "rewards": [
            {"name": section.name, "use": section.use}
            | _reward(scores[section.name], rates[section.name], groups, seed, same_noise)
            for section in recipe.rewards
        ],
        "training_win_rate": _training([rates[name] for name in training], seed),
    }
    if correct is not None:
        found["judge"] = {"name": recipe.evaluate.judge} | _judge(correct, groups, seed)
    if diversity is not None:
        found["diversity"] = {"embedder": diversity.embedder} | _diversity(diversity.distances, seed)
    found["warnings"] = warnings(found)
    return found


def warnings(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the results must know before trusting them."""
    texts = []
    training = found["training_win_rate"]
    if training["low"] > 0.5:
        gain = f"while the training rewards prefer it ({_percent(training, 'value')}): reward hacking"
        for reward in found["rewards"]:
            if reward["use"] == "evaluate" and reward["high"] < 0.5:
                rate = f"{reward['name']} prefers the base (win-rate {_percent(reward, 'win_rate')})"
                texts.append(f"The held-out reward {rate} {gain}.")
        judge = found.get("judge")
        if judge and judge["high"] < 0:
            fewer = f"{-100 * judge['difference']:.1f} points fewer images correct"
            texts.append(f"The {judge['name']} judge finds {fewer} than of the base {gain}.")
    if text := _sameness(found.get("diversity")):
        texts.append(text)
    for reward in found["rewards"]:
        if missing := sum(reward["missing"].values()):
            texts.append(f"{missing} images without a score by {reward['name']} are left out of its numbers.")
    return texts


def _sameness(diversity: Mapping[str, Any] | None) -> str | None:
    if diversity is None or diversity["difference"]["high"] >= 0:
        return None
    base, tuned = diversity["base"], diversity["tuned"]
    if tuned > SAMENESS * base:
        return None
    return (
        f"The tuned model's images of a prompt are more alike than the base's: their mean distance by "
        f"{diversity['embedder']} is {tuned:.3g}, and {base:.3g} among the base's. A part of the gain may be "
        "bought with sameness."
    )


def _reward(
    scores: Scores, rates: Scores, groups: Mapping[str, np.ndarray], seed: int, same_noise: bool
) -> dict[str, Any]:
    tuned, base = scores["tuned"], scores["base"]
    found: dict[str, Any] = {
        "mean_base": float(np.nanmean(base)),
        "mean_tuned": float(np.nanmean(tuned)),
        "mean_difference": difference(prompt_means(tuned), prompt_means(base), seed),
        **estimate("win_rate", rates["tuned"], seed),
        "standard_error": prompt_error(rates["tuned"]),
        "sign_test": signs(rates["tuned"]),
        "power": power(rates["tuned"]),
    }
    if same_noise and len(present(same := same_seed_win_rates(tuned, base))):
        found["same_seed"] = estimate("win_rate", same, seed)
    if "null" in rates:
        found |= estimate("null_win_rate", rates["null"], seed, "null_")
    found["by_category"] = {
        category: estimate("win_rate", of_group, seed) | {"prompts": len(present(of_group))}
        for category, places in groups.items()
        if len(present(of_group := rates["tuned"][places]))
    }
    found["missing"] = {model: int(np.isnan(each).sum()) for model, each in scores.items()}
    return found


def _training(rates: Sequence[Scores], seed: int) -> dict[str, Any]:
    """The mean over the training rewards, prompt by prompt where all of them have a win-rate."""
    means = {model: np.mean([each[model] for each in rates], axis=0) for model in rates[0]}
    if np.isnan(means["tuned"]).all():
        raise RewardError("no evaluation prompt has scores by all training rewards")
    found: dict[str, Any] = estimate("value", means["tuned"], seed)
    found["standard_error"] = prompt_error(means["tuned"])
    if "null" in means:
        found |= estimate("null", means["null"], seed, "null_")
    return found


def _judge(correct: Scores, groups: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Shares of correct images; the difference is paired, prompt by prompt."""
    shares = {model: verdicts.mean(axis=1) for model, verdicts in correct.items()}
    found: dict[str, Any] = {model: float(share.mean()) for model, share in shares.items()}
    found |= estimate("difference", shares["tuned"] - shares["base"], seed)
    found["categories"] = {
        category: {model: float(share[places].mean()) for model, share in shares.items()}
        | bounds(shares["tuned"][places] - shares["base"][places], seed)
        | {"prompts": len(places)}
        for category, places in groups.items()
    }
    return found


def _diversity(distances: Scores, seed: int) -> dict[str, Any]:
    """Mean distances; the difference is paired, prompt by prompt."""
    found: dict[str, Any] = {model: float(each.mean()) for model, each in distances.items()}
    return found | {"difference": difference(distances["tuned"], distances["base"], seed)}


def _groups(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """The places of each category's prompts, categories in order of appearance."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        if prompt.category is not None:
            places.setdefault(prompt.category, []).append(place)
    return {category: np.array(each) for category, each in places.items()}


def _percent(found: Mapping[str, Any], key: str) -> str:
    return f"{100 * found[key]:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
