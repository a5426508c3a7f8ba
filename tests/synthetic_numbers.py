"""Calibration, selection and win-rates for synthetic runs, implemented independently of capo."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.recipe import RewardSection


def pair_row(raw: list[list[float | None]], names: Sequence[str], selection: str) -> dict[str, Any]:
    """Calibrate the samples of one prompt and select the pair sets."""
    kept = [k for k, row in enumerate(raw) if None not in row]
    values = np.array([raw[k] for k in kept], dtype=float)
    ratio = np.array([name == "vqa" for name in names])
    logits = np.where(ratio, np.log(np.where(ratio, values, 1.0)), values)
    wins = 1 / (1 + np.exp(logits[None] - logits[:, None]))
    calibrated = (wins.sum(axis=1) - 0.5) / (len(kept) - 1)
    combined = calibrated.mean(axis=1)
    if selection == "sum":
        chosen, rejected = {int(combined.argmax())}, {int(combined.argmin())}
    else:
        beats = (calibrated[:, None] >= calibrated[None]).all(-1) & (
            calibrated[:, None] > calibrated[None]
        ).any(-1)
        rejected = set(np.flatnonzero(~beats.any(axis=1)).tolist())
        chosen = set(np.flatnonzero(~beats.any(axis=0)).tolist()) - rejected
    place = {k: i for i, k in enumerate(kept)}
    return {
        "chosen": sorted(kept[i] for i in chosen) if chosen else [],
        "rejected": sorted(kept[i] for i in rejected) if chosen else [],
        "calibrated": [calibrated[place[k]].tolist() if k in place else None for k in range(len(raw))],
        "combined": [float(combined[place[k]]) if k in place else None for k in range(len(raw))],
    }


def results(
    prompts: Sequence[Any],
    rewards: Sequence[RewardSection],
    scores: Mapping[tuple[str, str], np.ndarray],
    correct: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Return the content of `results.json` from scores [P, K] by model and reward, and verdicts by model."""
    names = sorted({p.category for p in prompts})
    categories = {c: [i for i, p in enumerate(prompts) if p.category == c] for c in names}
    models = sorted({model for model, _ in scores})
    rates = {
        (model, r.name): _win_rates(scores[model, r.name], scores["base", r.name])
        for model in models
        for r in rewards
    }
    training = [r.name for r in rewards if r.use == "train"]
    record: dict[str, Any] = {
        "models": {"base": "the base model", "tuned": "train/best"},
        "prompts": len(prompts),
        "samples_per_prompt": int(next(iter(scores.values())).shape[1]),
        "rewards": [_reward(r, scores, rates, categories) for r in rewards],
        "training_win_rate": _interval("", "value", np.mean([rates["tuned", n] for n in training], axis=0)),
    }
    if "null" in models:
        chance = np.mean([rates["null", n] for n in training], axis=0)
        record["training_win_rate"] |= _interval("null_", "null", chance)
    record["joint"] = _joint([r.name for r in rewards], scores)
    if correct is not None:
        record["judge"] = _judge(categories, correct)
    record["diversity"] = {
        "embedder": "the image encoder of heldout",
        "base": 0.412,
        "tuned": 0.371,
        "null": 0.415,
        "difference": {"value": -0.041, "low": -0.052, "high": -0.03, "p": 0.0001},
    }
    return record


def _joint(names: Sequence[str], scores: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    wins = np.stack([scores["tuned", name] > scores["base", name] for name in names])
    rates = np.stack([_win_rates(scores["tuned", name], scores["base", name]) for name in names])
    return {
        "rewards": list(names),
        "domination": _interval("", "rate", wins.all(axis=0).mean(axis=1)),
        "collapse": _interval("", "rate", (~wins).all(axis=0).mean(axis=1)),
        "prompts": rates.shape[1],
        "won_by_all": int((rates > 0.5).all(axis=0).sum()),
        "lost_by_all": int((rates < 0.5).all(axis=0).sum()),
    }


def _reward(
    reward: RewardSection,
    scores: Mapping[tuple[str, str], np.ndarray],
    rates: Mapping[tuple[str, str], np.ndarray],
    categories: Mapping[str, list[int]],
) -> dict[str, Any]:
    rate = rates["tuned", reward.name]
    record = {
        "name": reward.name,
        "use": reward.use,
        "mean_base": float(scores["base", reward.name].mean()),
        "mean_tuned": float(scores["tuned", reward.name].mean()),
        "mean_difference": _interval("", "value", _means(scores, reward.name)) | {"p": 0.012},
        **_interval("", "win_rate", rate),
        "sign_test": {
            "won": int((rate > 0.5).sum()),
            "lost": int((rate < 0.5).sum()),
            "tied": int((rate == 0.5).sum()),
            "p": 0.0004,
        },
        "power": {
            "detectable": 2.8 * float(rate.std()) / len(rate) ** 0.5,
            "prompts_needed": [
                {"points": d, "prompts": int((280 * rate.std() / d) ** 2) + 2} for d in (1, 2, 5)
            ],
        },
        "same_seed": _interval(
            "", "win_rate", (scores["tuned", reward.name] > scores["base", reward.name]).mean(axis=1)
        ),
        "by_category": {
            c: _interval("", "win_rate", rate[rows]) | {"prompts": len(rows)}
            for c, rows in categories.items()
        },
    }
    if ("null", reward.name) in rates:
        record |= _interval("null_", "null_win_rate", rates["null", reward.name])
    return record


def _judge(categories: Mapping[str, list[int]], correct: Mapping[str, np.ndarray]) -> dict[str, Any]:
    difference = (correct["tuned"].astype(float) - correct["base"]).mean(axis=1)
    return {
        "name": "shapes",
        **{model: float(images.mean()) for model, images in correct.items()},
        **_interval("", "difference", difference),
        "categories": {
            c: {m: float(images[rows].mean()) for m, images in correct.items()}
            | _interval("", "difference", difference[rows])
            | {"prompts": len(rows)}
            for c, rows in categories.items()
        },
    }


def _means(scores: Mapping[tuple[str, str], np.ndarray], reward: str) -> np.ndarray:
    """Tuned minus base, per prompt."""
    return np.asarray((scores["tuned", reward] - scores["base", reward]).mean(axis=1))


def _win_rates(candidate: np.ndarray, base: np.ndarray) -> np.ndarray:
    return np.asarray((candidate[:, :, None] > base[:, None, :]).mean(axis=(1, 2)))


def _interval(prefix: str, value: str, values: np.ndarray) -> dict[str, float]:
    mean, half = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    if value == "value":
        return {value: mean, "low": mean - half, "high": mean + half}
    least = -1.0 if value == "difference" else 0.0
    return {value: mean, f"{prefix}low": max(least, mean - half), f"{prefix}high": min(1.0, mean + half)}
