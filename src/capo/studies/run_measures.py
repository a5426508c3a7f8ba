"""The measures of one finished run, prompt by prompt, so that runs can be compared on equal prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from capo.evaluation.model_images import image_sets, read_judgments
from capo.recipe import Recipe
from capo.reporting.examples import read_shown_prompts
from capo.scoring.prompt_win_rates import joint_domination, prompt_win_rates
from capo.store import Run
from capo.studies.gains import Gains, gains_of
from capo.studies.measure_names import COLLAPSE, DOMINATION, JUDGED, MEAN
from capo.studies.study_run import StudyRun
from capo.training.log import Row, recent_mean

Kind = Literal["mean", "training", "held out", "judge"]

Values = Mapping[str, Mapping[str, float]]
"""By measure and prompt id, without prompts that lack a value."""


@dataclass(frozen=True)
class ValidationCurve:
    """The validations of a run: drift and measures by step.

    A further round includes step 0, its start. A first round starts from the base and leaves step 0 out.
    """

    steps: tuple[int, ...]
    drift: tuple[float, ...]
    """Mean squared difference of the policy's and the reference's predictions on recent pairs."""
    measures: Mapping[str, tuple[float, ...]]
    """Win-rates over the base, and the judge's difference if there is a judge."""
    gains: Gains


@dataclass(frozen=True)
class RunMeasures:
    """Measures of one run: win-rates over the base in [0, 1], the judge's difference in [-1, 1]."""

    row: str
    seed: int
    kinds: Mapping[str, Kind]
    tuned: Values
    null: Values
    mean_scores: Mapping[str, tuple[float, float]]
    """By reward: base, tuned."""
    judged: Mapping[str, Mapping[str, Any]]
    """By category: shares of images judged correct."""
    drift: float | None
    error_growth: float | None
    """Relative growth of the denoising error on chosen samples, at the saved step."""
    step: int | None
    further: bool
    """True for a further round, which does not start from the base."""
    curve: ValidationCurve | None
    seconds: Mapping[str, float]
    """By artifact, as if this run had made all of them."""
    images: int | None
    """Training images made, including earlier rounds; None for a soup and for imported images."""
    spent: float
    """Seconds of the artifacts that this run made itself."""
    joint: Values = field(default_factory=dict)
    """The shares `domination` and `collapse` of every prompt; empty in records of earlier versions."""


def measure_run(run: StudyRun) -> RunMeasures:
    """Read the measures of a finished run."""
    opened, recipe = Run(run.directory), run.trained
    results = opened.artifact("evaluate").read_json("results.json")
    values, null, joint = _against_base(opened, recipe)
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
        joint=joint,
    )


def _seconds_before(run: StudyRun) -> dict[str, float]:
    """Seconds of the earlier rounds, without their evaluation."""
    return {
        f"{directory.parent.name}: {name}": row["seconds"]
        for directory in run.before
        for name, row in Run(directory).timings().items()
        if name not in ("baseline", "evaluate", "report")
    }


def _images(run: StudyRun) -> int | None:
    if run.row.soup or run.trained.images is not None:
        return None
    return sum(Run(path).artifact("samples").summary["samples"] for path in (run.directory, *run.before))


def _against_base(opened: Run, recipe: Recipe) -> tuple[Values, Values, Values]:
    """Values of the tuned model and of the null row, and the joint rates of the tuned model."""
    baseline, evaluate = opened.artifact("baseline"), opened.artifact("evaluate")
    ids, samples = list(read_shown_prompts(baseline)), recipe.evaluate.samples_per_prompt
    scores = {
        model: {reward.name: images.read_scores(reward.name, ids, samples) for reward in recipe.rewards}
        for model, images in image_sets(baseline, evaluate).items()
    }
    correct = {**read_judgments(baseline, samples), **read_judgments(evaluate, samples)}
    tuned, base = (list(scores[model].values()) for model in ("tuned", "base"))
    joint = {DOMINATION: joint_domination(tuned, base), COLLAPSE: joint_domination(base, tuned)}
    columns = (_values("tuned", recipe, scores, correct), _values("null", recipe, scores, correct), joint)
    values, null, rates = ({name: _finite(ids, by) for name, by in each.items()} for each in columns)
    return values, null, rates


def _values(
    model: str,
    recipe: Recipe,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    correct: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The measures of a model by prompt; empty without its images."""
    if model not in scores:
        return {}
    rates = {name: prompt_win_rates(name, own, scores["base"][name]) for name, own in scores[model].items()}
    values = {MEAN: np.mean([rates[r.name] for r in recipe.training_rewards], axis=0)} | rates
    if model in correct:
        values[JUDGED] = correct[model].mean(axis=1) - correct["base"].mean(axis=1)
    return values


def _finite(ids: list[str], values: np.ndarray) -> dict[str, float]:
    return {p: float(v) for p, v in zip(ids, values, strict=True) if np.isfinite(v)}


def _training(opened: Run, recipe: Recipe, step: int | None) -> tuple[float, float, ValidationCurve | None]:
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
        curve = ValidationCurve(
            tuple(row["step"] for row in rows),
            tuple(recent_mean(metrics, "drift", row["step"]) for row in rows),
            {name: tuple(row[key] for row in rows) for name, key in keys.items()},
            gains_of(rows),
        )
    return recent_mean(metrics, "drift", last), recent_mean(metrics, "error/chosen", last), curve
