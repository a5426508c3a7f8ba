"""The results of an evaluation: win-rates with their intervals, judgments, diversity, and warnings.

Notation: P prompts, K images of each from every model. Scores are float64 [P, K], NaN where one is missing.
Intervals are 95% t intervals over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.engine.seeds import stable_seed
from capo.evaluation.joint import ByModel, joint_results
from capo.prompts import Prompt
from capo.recipe import EvaluateSection, RewardSection
from capo.rewards import RewardError
from capo.scoring.prompt_win_rates import (
    CHANGE,
    RATE,
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

LOWEST_DIVERSITY = 0.9
"""The tuned model's diversity, relative to the base's, below which the results carry a warning."""


@dataclass(frozen=True)
class Diversity:
    """How far apart the images of every prompt are."""

    embedder: str
    """The encoder whose features are compared."""
    distances: ByModel
    """Mean cosine distances [P]."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The measurements of an evaluation on the images of all models."""

    scores: Mapping[str, ByModel]
    """By reward, then by model [P, K]."""
    correct: ByModel | None = None
    """The judge's verdicts [P, K]; None or empty without a judge."""
    diversity: Diversity | None = None
    same_noise: bool = True
    """True if images of base and tuned model with the same number start from the same noise."""
    truncated_prompts: int = 0
    """Prompts that the recipe's model cannot read to their end."""


def evaluation_results(
    section: EvaluateSection,
    rewards: Sequence[RewardSection],
    prompts: Sequence[Prompt],
    measured: Measurements,
    run_seed: int,
) -> dict[str, Any]:
    """The content of `results.json`.

    Raises `RewardError` when a reward has scored both models on none of the prompts.
    """
    seed = stable_seed("sign-flips", run_seed)
    groups = _categories(prompts)
    models = [model for model in next(iter(measured.scores.values())) if model != "base"]
    rates = {
        name: {model: prompt_win_rates(name, by_model[model], by_model["base"]) for model in models}
        for name, by_model in measured.scores.items()
    }
    results: dict[str, Any] = {
        "prompts": len(prompts),
        "samples_per_prompt": section.samples_per_prompt,
        "rewards": [
            {"name": reward.name, "use": reward.use}
            | _reward(measured.scores[reward.name], rates[reward.name], groups, seed, measured.same_noise)
            for reward in rewards
        ],
        "training_win_rate": _training([rates[r.name] for r in rewards if r.use == "train"]),
    }
    if (joint := joint_results(measured.scores, rates)) is not None:
        results["joint"] = joint
    if measured.correct:
        results["judge"] = {"name": section.judge} | _judge(measured.correct, groups)
    if measured.diversity is not None:
        results["diversity"] = _diversity(measured.diversity, seed)
    if measured.truncated_prompts:
        results["truncated_prompts"] = measured.truncated_prompts
    results["warnings"] = result_warnings(results)
    return results


def result_warnings(results: Mapping[str, Any]) -> list[str]:
    """Warnings about the results: reward hacking, low diversity, missing scores, truncated prompts."""
    texts = _reward_hacking(results)
    if text := _low_diversity(results.get("diversity")):
        texts.append(text)
    for reward in results["rewards"]:
        if missing := sum(reward["missing"].values()):
            texts.append(
                f"{missing} images have no score by {reward['name']} and are left out of its numbers."
            )
    if truncated := results.get("truncated_prompts"):
        texts.append(
            f"{truncated} of {results['prompts']} evaluation prompts are longer than the text encoders can "
            "read. The ends of these prompts had no effect on the images."
        )
    return texts


def _reward_hacking(results: Mapping[str, Any]) -> list[str]:
    training = results["training_win_rate"]
    if training["low"] <= 0.5:
        return []
    gain = (
        f"while the training rewards prefer the tuned model ({_percent(training, 'value')}): reward hacking"
    )
    texts = []
    for reward in results["rewards"]:
        if reward["use"] == "evaluate" and reward["high"] < 0.5:
            rate = f"{reward['name']} prefers the base (win-rate {_percent(reward, 'win_rate')})"
            texts.append(f"The held-out reward {rate} {gain}.")
    judge = results.get("judge")
    if judge and judge["high"] < 0:
        loss = f"accepts {-100 * judge['difference']:.1f} percentage points fewer images than of the base"
        texts.append(f"The {judge['name']} judge {loss} {gain}.")
    return texts


def _low_diversity(diversity: Mapping[str, Any] | None) -> str | None:
    if diversity is None or (diversity["difference"]["high"] or 0) >= 0:
        return None
    base, tuned = diversity["base"], diversity["tuned"]
    if tuned > LOWEST_DIVERSITY * base:
        return None
    return (
        "The tuned model's images of a prompt are more alike than the base's: their mean distance by "
        f"{diversity['embedder']} is {tuned:.3g}, compared with {base:.3g} for the base. Part of the gain "
        "may come from less diverse images."
    )


def _reward(
    scores: ByModel, rates: ByModel, groups: Mapping[str, np.ndarray], seed: int, same_noise: bool
) -> dict[str, Any]:
    """One reward's numbers, from its scores [P, K] and win-rates [P]."""
    tuned, base = scores["tuned"], scores["base"]
    numbers: dict[str, Any] = {
        "mean_base": float(np.nanmean(base)),
        "mean_tuned": float(np.nanmean(tuned)),
        "mean_difference": difference(prompt_means(tuned), prompt_means(base), seed),
        **estimate("win_rate", rates["tuned"], RATE),
        "standard_error": prompt_error(rates["tuned"]),
        "sign_test": signs(rates["tuned"]),
        "power": power(rates["tuned"]),
    }
    if same_noise and len(present(same_seed := same_seed_win_rates(tuned, base))):
        numbers["same_seed"] = estimate("win_rate", same_seed, RATE)
    if "null" in rates:
        numbers |= estimate("null_win_rate", rates["null"], RATE, "null_")
    by_category = {name: rates["tuned"][indices] for name, indices in groups.items()}
    numbers["by_category"] = {
        name: estimate("win_rate", values, RATE) | {"prompts": count}
        for name, values in by_category.items()
        if (count := len(present(values)))
    }
    numbers["missing"] = {model: int(np.isnan(values).sum()) for model, values in scores.items()}
    return numbers


def _training(rates: Sequence[ByModel]) -> dict[str, Any]:
    """The mean win-rate over the training rewards, on the prompts where all of them have one."""
    means = {model: np.mean([by_model[model] for by_model in rates], axis=0) for model in rates[0]}
    if np.isnan(means["tuned"]).all():
        raise RewardError("no evaluation prompt has scores by all training rewards")
    numbers: dict[str, Any] = estimate("value", means["tuned"], RATE)
    numbers["standard_error"] = prompt_error(means["tuned"])
    if "null" in means:
        numbers |= estimate("null", means["null"], RATE, "null_")
    return numbers


def _judge(correct: ByModel, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Shares of correct images; the difference is paired by prompt."""
    shares = {model: verdicts.mean(axis=1) for model, verdicts in correct.items()}
    numbers: dict[str, Any] = {model: float(share.mean()) for model, share in shares.items()}
    numbers |= estimate("difference", shares["tuned"] - shares["base"], CHANGE)
    numbers["categories"] = {
        category: {model: float(share[indices].mean()) for model, share in shares.items()}
        | bounds(shares["tuned"][indices] - shares["base"][indices], CHANGE)
        | {"prompts": len(indices)}
        for category, indices in groups.items()
    }
    return numbers


def _diversity(diversity: Diversity, seed: int) -> dict[str, Any]:
    """Mean distances; the difference is paired by prompt."""
    distances = diversity.distances
    means = {model: float(values.mean()) for model, values in distances.items()}
    paired = difference(distances["tuned"], distances["base"], seed)
    return {"embedder": diversity.embedder, **means, "difference": paired}


def _categories(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """The indices of every category's prompts; categories in order of appearance."""
    indices: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if prompt.category is not None:
            indices.setdefault(prompt.category, []).append(index)
    return {category: np.array(members) for category, members in indices.items()}


def _percent(numbers: Mapping[str, Any], key: str) -> str:
    return f"{100 * numbers[key]:.1f}% [{100 * numbers['low']:.1f}, {100 * numbers['high']:.1f}]"
