"""Results by several rewards at once: images that dominate, prompts won or lost by every reward."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capo.scoring.prompt_win_rates import RATE, estimate, joint_domination, present

ByModel = Mapping[str, np.ndarray]
"""An array for every model: base, tuned, and null if the recipe asks for it."""


def joint_results(scores: Mapping[str, ByModel], rates: Mapping[str, ByModel]) -> dict[str, Any] | None:
    """Return the joint domination and collapse rates, and the numbers of prompts won and lost by all rewards.

    `scores` [P, K] and win-rates `rates` [P] are by reward, then by model. An image of the tuned model
    dominates the base's image with the same noise if no reward scores it lower and some reward scores it
    higher; it collapses if the base's image dominates it. None if no prompt has scores by all rewards.
    """
    columns = {model: [by[model] for by in scores.values()] for model in next(iter(scores.values()))}
    better, worse = (columns["tuned"], columns["base"]), (columns["base"], columns["tuned"])
    rates_by_name = {"domination": joint_domination(*better), "collapse": joint_domination(*worse)}
    if not len(present(rates_by_name["domination"])):
        return None
    by_prompt = np.stack([by_model["tuned"] for by_model in rates.values()])
    numbers: dict[str, Any] = {
        "rewards": list(scores),
        **{name: estimate("rate", values, RATE) for name, values in rates_by_name.items()},
        "prompts": int(np.isfinite(by_prompt).all(axis=0).sum()),
        "won_by_all": int((by_prompt > 0.5).all(axis=0).sum()),
        "lost_by_all": int((by_prompt < 0.5).all(axis=0).sum()),
    }
    if "null" in columns:
        null, base = columns["null"], columns["base"]
        for name, values in (("domination", (null, base)), ("collapse", (base, null))):
            if len(present(chance := joint_domination(*values))):
                numbers[name] |= estimate("null", chance, RATE, "null_")
    return numbers
