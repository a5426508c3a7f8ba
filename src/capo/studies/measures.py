"""What one finished run says, prompt by prompt, so that runs can be compared on the same prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from capo.evaluation.model_images import image_sets, read_judgments
from capo.recipe import Recipe
from capo.reporting.examples import read_prompts
from capo.reporting.forest import MEAN
from capo.scoring.prompt_win_rates import prompt_win_rates
from capo.store import Run
from capo.studies.overoptimization import Gains, gains
from capo.studies.runs import StudyRun
from capo.training.log import Row

JUDGED = "Images found right, less the base's"

DRIFT_ROWS = 20
"""Logged steps that a drift is averaged over: one step's is noisy."""

Kind = Literal["mean", "training", "held out", "judge"]

Values = Mapping[str, Mapping[str, float]]
"""By measure and prompt id; prompts without a value are left out."""


@dataclass(frozen=True)
class Curve:
    """A row's validations: at each step, the drift and what each measure says.

    A further round has its step 0, what it starts from; of a first round that is the base, and left out.
    """

    steps: tuple[int, ...]
    drift: tuple[float, ...]
    """mean squared difference of policy's and reference's predictions on the pairs, lately"""
    measures: Mapping[str, tuple[float, ...]]
    """win-rates over the base, and the judge's difference if it was asked"""
    gains: Gains


@dataclass(frozen=True)
class RunMeasures:
    """One run: win-rates over the base in [0, 1] and the judge's difference in [-1, 1]."""

    row: str
    seed: int
    kinds: Mapping[str, Kind]
    tuned: Values
    null: Values
    mean_scores: Mapping[str, tuple[float, float]]
    """by reward, of the base and of the tuned model"""
    judged: Mapping[str, Mapping[str, Any]]
    """by category, shares of images found right"""
    drift: float | None
    error_growth: float | None
    """of the denoising error on chosen samples over the reference's, at the step that was kept"""
    step: int | None
    further: bool
    """whether it is a further round, which does not begin at the base"""
    curve: Curve | None
    seconds: Mapping[str, float]
    """by artifact, as if this run had made all of them"""
    images: int | None
    """made to train on, those of earlier rounds included; None for a soup and for images from elsewhere"""
    spent: float
    """seconds of what it made itself"""


def measure_run(run: StudyRun) -> RunMeasures:
    """Read a finished run."""
    opened, recipe = Run(run.directory), run.trained
    results = opened.artifact("evaluate").read_json("results.json")
    values, null = _values(opened, recipe)
    kinds: dict[str, Kind] = {MEAN: "mean"}
    kinds |= {r.name: "training" if r.use == "train" else "held out" for r in recipe.rewards}
    if JUDGED in values:
        kinds[JUDGED] = "judge"
    timings = {name: row for name, row in opened.timings().items() if name != "report"}
    step = results.get("policy", {}).get("step")
    drift, growth, curve = (None, None, None) if run.row.soup else _training(opened, recipe, step)
    return RunMeasures(
        row=run.row.name,
        seed=run.seed,
        kinds=kinds,
        tuned=values,
        null=null,
        mean_scores={r["name"]: (r["mean_base"], r["mean_tuned"]) for r in results["rewards"]},
        judged=results.get("judge", {}).get("categories", {}),
        drift=drift,
        error_growth=growth,
        step=step,
        further=recipe.start is not None,
        curve=curve,
        seconds={name: row["seconds"] for name, row in timings.items()} | _seconds_before(run),
        images=_images(run),
        spent=sum(row["seconds"] for row in timings.values() if "shared" not in row),
    )


def _seconds_before(run: StudyRun) -> dict[str, float]:
    """What the rounds took that `run` goes on from, their evaluation left out."""
    return {
        f"{directory.parent.name}: {name}": row["seconds"]
        for directory in run.before
        for name, row in Run(directory).timings().items()
        if name not in ("baseline", "evaluate", "report")
    }


def _images(run: StudyRun) -> int | None:
    if run.row.soup or run.trained.images is not None:
        return None
    return sum(Run(each).artifact("samples").summary["samples"] for each in (run.directory, *run.before))


def _values(opened: Run, recipe: Recipe) -> tuple[Values, Values]:
    """Of the tuned model and of the null row, each against the base."""
    baseline, evaluate = opened.artifact("baseline"), opened.artifact("evaluate")
    ids, samples = list(read_prompts(baseline)), recipe.evaluate.samples_per_prompt
    sets = image_sets(baseline, evaluate)
    found = []
    for model in ("tuned", "null"):
        values: dict[str, np.ndarray] = {}
        if model in sets:
            for reward in recipe.rewards:
                scores = [sets[m].read_scores(reward.name, ids, samples) for m in (model, "base")]
                values[reward.name] = prompt_win_rates(reward.name, *scores)
            values = {MEAN: np.mean([values[r.name] for r in recipe.training_rewards], axis=0)} | values
            right = {**read_judgments(baseline, samples), **read_judgments(evaluate, samples)}
            if model in right:
                values[JUDGED] = right[model].mean(axis=1) - right["base"].mean(axis=1)
        found.append({name: _present(ids, each) for name, each in values.items()})
    return found[0], found[1]


def _present(ids: list[str], values: np.ndarray) -> dict[str, float]:
    return {p: float(v) for p, v in zip(ids, values, strict=True) if np.isfinite(v)}


def _training(opened: Run, recipe: Recipe, step: int | None) -> tuple[float, float, Curve | None]:
    train = opened.artifact("train")
    metrics: list[Row] = train.read_json_lines("metrics.jsonl")
    last = step if step is not None else metrics[-1]["step"]
    curve = None
    if train.has("validation.jsonl"):
        rows: list[Row] = train.read_json_lines("validation.jsonl")
        if recipe.start is None:
            rows = [row for row in rows if row["step"] > 0]
        keys = {MEAN: "win_rate"} | {r.name: f"win_rate/{r.name}" for r in recipe.rewards}
        if all("judge_difference" in row for row in rows):
            keys[JUDGED] = "judge_difference"
        curve = Curve(
            tuple(row["step"] for row in rows),
            tuple(_lately(metrics, "drift", row["step"]) for row in rows),
            {name: tuple(row[key] for row in rows) for name, key in keys.items()},
            gains(rows),
        )
    return _lately(metrics, "drift", last), _lately(metrics, "error/chosen", last), curve


def _lately(metrics: list[Row], name: str, step: int) -> float:
    """The mean over the last logged steps up to `step`."""
    values = [row[name] for row in metrics if row["step"] <= step][-DRIFT_ROWS:]
    return float(np.mean(values)) if values else 0.0
