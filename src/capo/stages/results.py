"""What an evaluation found: win-rates with their intervals, judgements, and warnings.

Notation: P prompts, K images of each from every model. Scores are float64 [P, K], NaN where one
is missing. Intervals are 95% bootstrap intervals over prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from capo.method import bootstrap_interval, standard_error, win_rate
from capo.prompts import Prompt
from capo.recipe import Recipe
from capo.rewards import RewardError
from capo.seeds import stable_seed

Scores = Mapping[str, np.ndarray]
"""By model: base, tuned and maybe null."""


def results(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    scores: Mapping[str, Scores],
    correct: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """The content of `results.json` from each reward's scores and the judge's verdicts [P, K]."""
    seed = stable_seed("bootstrap", recipe.seed)
    groups = _groups(prompts)
    models = ("tuned", "null") if recipe.evaluate.null_row else ("tuned",)
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
            | _reward(scores[section.name], rates[section.name], groups, seed)
            for section in recipe.rewards
        ],
        "training_win_rate": _training([rates[name] for name in training], seed),
    }
    if correct is not None:
        found["judge"] = {"name": recipe.evaluate.judge} | _judge(correct, groups, seed)
    found["warnings"] = warnings(found)
    return found


def prompt_win_rates(name: str, candidate: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Win-rate of each prompt [P], over the images that have a score; NaN where a model has none.

    Raises `RewardError`, naming the reward, when no prompt is left.
    """
    has_candidate, has_base = np.isfinite(candidate), np.isfinite(base)
    whole = has_candidate.all(axis=1) & has_base.all(axis=1)
    partial = has_candidate.any(axis=1) & has_base.any(axis=1) & ~whole
    rates = np.full(len(base), np.nan)
    rates[whole] = win_rate(torch.from_numpy(candidate[whole]), torch.from_numpy(base[whole]))
    for p in np.flatnonzero(partial):
        left, right = candidate[p][has_candidate[p]], base[p][has_base[p]]
        rates[p] = win_rate(torch.from_numpy(left)[None], torch.from_numpy(right)[None]).item()
    if np.isnan(rates).all():
        raise RewardError(f"reward {name!r} gave scores to both models on none of {len(base)} prompts")
    return rates


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
    for reward in found["rewards"]:
        if missing := sum(reward["missing"].values()):
            texts.append(f"{missing} images without a score by {reward['name']} are left out of its numbers.")
    return texts


def _reward(scores: Scores, rates: Scores, groups: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mean_base": float(np.nanmean(scores["base"])),
        "mean_tuned": float(np.nanmean(scores["tuned"])),
        **_estimate("win_rate", rates["tuned"], seed),
        "standard_error": _standard_error(rates["tuned"]),
    }
    if "null" in rates:
        found |= _estimate("null_win_rate", rates["null"], seed, "null_")
    found["by_category"] = {
        category: {"win_rate": float(np.nanmean(of_group)), "prompts": int(np.isfinite(of_group).sum())}
        for category, places in groups.items()
        if np.isfinite(of_group := rates["tuned"][places]).any()
    }
    found["missing"] = {model: int(np.isnan(each).sum()) for model, each in scores.items()}
    return found


def _training(rates: Sequence[Scores], seed: int) -> dict[str, Any]:
    """The mean over the training rewards, prompt by prompt where all of them have a win-rate."""
    means = {model: np.mean([each[model] for each in rates], axis=0) for model in rates[0]}
    if np.isnan(means["tuned"]).all():
        raise RewardError("no evaluation prompt has scores by all training rewards")
    found: dict[str, Any] = _estimate("value", means["tuned"], seed)
    found["standard_error"] = _standard_error(means["tuned"])
    if "null" in means:
        found |= _estimate("null", means["null"], seed, "null_")
    return found


def _judge(correct: Scores, groups: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Shares of correct images; the difference is paired, prompt by prompt."""
    shares = {model: verdicts.mean(axis=1) for model, verdicts in correct.items()}
    found: dict[str, Any] = {model: float(share.mean()) for model, share in shares.items()}
    found |= _estimate("difference", shares["tuned"] - shares["base"], seed)
    found["categories"] = {
        category: {model: float(share[places].mean()) for model, share in shares.items()}
        | {"prompts": len(places)}
        for category, places in groups.items()
    }
    return found


def _estimate(name: str, values: np.ndarray, seed: int, prefix: str = "") -> dict[str, float]:
    """Mean over the prompts that have a value, and its interval."""
    present = torch.from_numpy(values[np.isfinite(values)])
    low, high = bootstrap_interval(present, seed)
    return {name: present.mean().item(), f"{prefix}low": low, f"{prefix}high": high}


def _standard_error(values: np.ndarray) -> float | None:
    """None for a single prompt, which says nothing about others."""
    present = values[np.isfinite(values)]
    return standard_error(torch.from_numpy(present)) if len(present) > 1 else None


def _groups(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """The places of each category's prompts, categories in order of appearance."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        if prompt.category is not None:
            places.setdefault(prompt.category, []).append(place)
    return {category: np.array(each) for category, each in places.items()}


def _percent(found: Mapping[str, Any], key: str) -> str:
    return f"{100 * found[key]:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
