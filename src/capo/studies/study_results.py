"""The content of a study's `results.json`: rows, null row, comparisons, fronts, rows at equal drift."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.engine.seeds import stable_seed
from capo.scoring.prompt_win_rates import CHANGE, RATE
from capo.studies.equal_drift import equal_drift
from capo.studies.estimates import holm, paired, row_estimate, sentence
from capo.studies.gains import mean_gains
from capo.studies.hypervolume import front_results
from capo.studies.measure_names import JUDGED
from capo.studies.run_measures import RunMeasures, Values
from capo.studies.study import Row, Study

MODELS = ("base", "tuned")


def study_results(
    study: Study,
    measured: Sequence[RunMeasures],
    failed: Mapping[str, str],
    unfinished: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Compare the rows of the finished runs, whose measures are `measured`.

    `failed` has the reasons of failed runs; `unfinished` has row, seed and state of the others.
    """
    kinds = {name: kind for run in measured for name, kind in run.kinds.items()}
    by_row = {row.name: [m for m in measured if m.row == row.name] for row in study.rows}
    rows = [_row(row, by_row[row.name]) for row in study.rows if by_row[row.name]]
    return {
        "study": study.name,
        "title": study.title,
        "quick": study.quick,
        "recipe": study.recipe,
        "shared": study.shared,
        "seeds": list(study.seeds),
        "against": study.against,
        "measures": [{"name": name, "kind": kind} for name, kind in kinds.items()],
        "rows": rows,
        "null": _null(measured),
        "comparisons": _comparisons(study.against, by_row, list(kinds)),
        "fronts": _fronts(study, by_row, kinds),
        "equal_drift": equal_drift([run for run in measured if not run.further]),
        "seconds_spent": sum(m.spent for m in measured),
        "failed": dict(failed),
        "unfinished": list(unfinished),
    }


def _row(row: Row, runs: Sequence[RunMeasures]) -> dict[str, Any]:
    curves = _curves(runs)
    return {
        "name": row.name,
        "set": row.own,
        "tune": row.tune,
        "start": row.start,
        "soup": list(row.soup),
        "weights": list(row.weights),
        "interpolation": row.interpolation if row.soup else None,
        "seeds": [{"seed": run.seed, "step": run.step, "seconds": run.seconds} for run in runs],
        "measures": _estimates([run.tuned for run in runs]),
        "joint": _joint(runs),
        "mean_scores": {
            reward: {
                model: _mean(run.mean_scores[reward][i] for run in runs) for i, model in enumerate(MODELS)
            }
            for reward in runs[0].mean_scores
        },
        "judge": _judge(runs),
        "drift": _known([run.drift for run in runs]),
        "error_growth": _known([run.error_growth for run in runs]),
        "seconds": _mean(sum(run.seconds.values()) for run in runs),
        "images": _known([run.images for run in runs]),
        "curves": curves,
        "over_optimization": mean_gains(curves),
    }


def _curves(runs: Sequence[RunMeasures]) -> list[dict[str, Any]]:
    return [
        {
            "seed": run.seed,
            "steps": list(curve.steps),
            "drift": list(curve.drift),
            "measures": {name: list(values) for name, values in curve.measures.items()},
            "gains": curve.gains,
        }
        for run in runs
        if (curve := run.curve) is not None
    ]


def _null(runs: Sequence[RunMeasures]) -> dict[str, Any] | None:
    """The base against itself with other image seeds: for every seed, from the first row that has it.

    None if no run has a null row.
    """
    first: dict[int, Values] = {}
    for run in runs:
        if run.null:
            first.setdefault(run.seed, run.null)
    return _estimates(list(first.values())) if first else None


def _estimates(seeds: Sequence[Values]) -> dict[str, Any]:
    return {
        name: row_estimate([values[name] for values in seeds], CHANGE if name == JUDGED else RATE)
        for name in seeds[0]
        if all(values.get(name) for values in seeds)
    }


def _joint(runs: Sequence[RunMeasures]) -> dict[str, Any]:
    """The rates of images that are better, or worse, by all rewards; empty if a record lacks them."""
    if not all(values for run in runs for values in (run.joint, *run.joint.values())):
        return {}
    return {name: row_estimate([run.joint[name] for run in runs], RATE) for name in runs[0].joint}


def _comparisons(
    against: str, by_row: Mapping[str, Sequence[RunMeasures]], measures: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """By measure, every row minus `against`, with p-values corrected within the measure."""
    values = {row: {run.seed: run.tuned for run in runs} for row, runs in by_row.items()}
    comparisons: dict[str, list[dict[str, Any]]] = {}
    for name in measures:
        of = {row: {s: v[name] for s, v in seeds.items() if name in v} for row, seeds in values.items()}
        others = [row for row in of if row != against]
        pairs = {row: paired(of[row], of[against], stable_seed("study", name, row)) for row in others}
        compared = {row: pair for row, pair in pairs.items() if pair is not None}
        corrected = holm([pair["p"] for pair in compared.values()])
        comparisons[name] = []
        for (row, pair), p in zip(compared.items(), corrected, strict=True):
            difference = {"row": row, **pair, "p_corrected": p}
            text = sentence(row, against, name, difference)
            comparisons[name].append(difference | {"sentence": text})
    return comparisons


def _fronts(
    study: Study, by_row: Mapping[str, Sequence[RunMeasures]], kinds: Mapping[str, str]
) -> list[dict[str, Any]]:
    rewards = [name for name, kind in kinds.items() if kind == "training"]
    values = {row: [run.tuned for run in runs] for row, runs in by_row.items()}
    fronts = [front_results(f, values, rewards, stable_seed("study", f.name)) for f in study.fronts]
    return [front for front in fronts if front is not None]


def _judge(runs: Sequence[RunMeasures]) -> dict[str, dict[str, float]]:
    """By category, the shares of images judged correct, for base and tuned model, averaged over seeds."""
    categories = sorted({category for run in runs for category in run.judged})
    return {
        category: {
            model: _mean(run.judged[category][model] for run in runs if category in run.judged)
            for model in MODELS
        }
        for category in categories
    }


def _known(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return _mean(present) if present else None


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
