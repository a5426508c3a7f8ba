"""The results of a sweep as plain values, and the sentences that explain them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capo.scoring.prompt_win_rates import prompt_error
from capo.tuning.choice import PRACTICAL, Choice
from capo.tuning.sweep import Sweep
from capo.tuning.value_trial import Trial, Validated


def sweep_results(sweep: Sweep, trials: Sequence[Trial], choice: Choice) -> dict[str, Any]:
    """Return the content of `results.json`; win-rates are shares, values are sorted."""
    train = sweep.recipe.train
    values = [_value(trial, choice) for trial in sorted(trials, key=lambda trial: trial.beta)]
    results: dict[str, Any] = {
        "recipe": sweep.recipe.name,
        "objective": train.objective,
        "beta": train.beta,
        "steps": sweep.last_step,
        "seed": sweep.recipe.seed,
        "rewards": {reward.name: reward.use for reward in sweep.recipe.rewards},
        "values": values,
        "best": choice.best,
        "chosen": choice.chosen,
        "edge": choice.edge,
        "prompts": choice.prompts,
        "prompts_needed": choice.needed,
    }
    return results | {"conclusion": conclusion(results), "warnings": list(_warnings(results, train.steps))}


def _value(trial: Trial, choice: Choice) -> dict[str, Any]:
    best = trial.best
    return {
        "beta": trial.beta,
        "ending": trial.ending,
        "why": trial.why,
        "hacking": choice.hacking.get(trial.beta),
        "best": None if best is None else _row(best),
        "course": [_row(row) for row in trial.course],
    }


def _row(row: Validated) -> dict[str, Any]:
    return {
        "step": row.step,
        "win_rate": _estimate(row.training),
        "rewards": {name: _estimate(rates) for name, rates in row.rewards.items()},
        "held_out": None if row.held_out is None else _estimate(row.held_out),
        "drift": row.drift,
    }


def _estimate(rates: np.ndarray) -> dict[str, float | None]:
    return {"value": float(np.nanmean(rates)), "error": prompt_error(rates)}


def conclusion(results: Mapping[str, Any]) -> str:
    """Say which value is chosen and why, or what it takes to say so."""
    rates = {value["beta"]: value["best"]["win_rate"] for value in results["values"] if value["best"]}
    best, chosen = results["best"], results["chosen"]
    finished = [value["beta"] for value in results["values"] if value["ending"] == "done"]
    if chosen is None and len(finished) == 1:
        return (
            f"Nothing to compare: only β {best:g} completed its training. To choose a value, name others "
            "with --values"
        )
    if chosen is None:
        kept = results["beta"] if results["beta"] in finished else best
        return (
            f"Too few prompts to say: on {results['prompts']:,} validation prompts, no value differs from "
            f"the best (β {best:g}) by more than chance. To see a difference of {100 * PRACTICAL:g} points, "
            f"set train.validation_prompts.count to about {results['prompts_needed']:,}. Until then, keep "
            f"β {kept:g}"
        )
    rate = f"{100 * rates[best]['value']:.1f}%"
    if chosen == best:
        excluded = any(value["hacking"] for value in results["values"])
        among = " of the values that are not excluded" if excluded else ""
        return (
            f"β {chosen:g} has the highest win-rate{among}, {rate}, and no larger value is within one "
            "standard error"
        )
    return f"β {chosen:g} is the largest value within one standard error of the best, β {best:g} with {rate}"


def _warnings(results: Mapping[str, Any], steps: int) -> Iterator[str]:
    best = next(value for value in results["values"] if value["beta"] == results["best"])["best"]["win_rate"]
    if best["error"] is None or best["value"] - 0.5 <= 2 * best["error"]:
        yield "no value beats the base by more than chance: train longer, or change the learning rate"
    if results["edge"] is not None and results["chosen"] is not None:
        side = "smallest" if results["edge"] == "low" else "largest"
        yield f"the best value is the {side} that was tried: name more with --values"
    if results["steps"] != steps:
        yield (
            f"all values trained for {results['steps']:,} steps, the recipe for {steps:,}: "
            "with fewer steps, smaller values look better than they are"
        )
    if "evaluate" not in results["rewards"].values():
        yield "without a held-out reward, a value that exploits faults of the rewards is not noticed"
