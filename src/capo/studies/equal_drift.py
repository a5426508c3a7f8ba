"""Compare rows at equal drift from the base.

A policy that has moved further from the base has gained more by some measures and lost more by others. At
equal drift, the direction counts and not the distance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.studies.measure_names import JUDGED
from capo.studies.run_measures import RunMeasures, ValidationCurve


def equal_drift(runs: Sequence[RunMeasures]) -> dict[str, Any] | None:
    """Return `levels` of drift, and by row and measure `value` and `spread` over seeds at every level.

    A value is read where the run first reaches the drift, interpolated linearly between validations. Only
    measures that all runs have are included. None unless at least two rows have validations.
    """
    curves: dict[str, list[ValidationCurve]] = {}
    for run in runs:
        if run.curve is not None and run.curve.steps:
            curves.setdefault(run.row, []).append(run.curve)
    if len(curves) < 2:
        return None
    first, *others = [curve for of_row in curves.values() for curve in of_row]
    levels = _levels([first, *others])
    measures = [name for name in first.measures if all(name in curve.measures for curve in others)]
    rows = {
        row: {name: [_summary([_at(c, name, level) for c in seeds]) for level in levels] for name in measures}
        for row, seeds in curves.items()
    }
    return {"levels": levels, "measures": measures, "rows": rows}


def _levels(curves: Sequence[ValidationCurve]) -> list[float]:
    """Three levels, from the smallest drift by which all runs were validated to the largest that all reach.

    Only the latter if a run exceeds it at its first validation already; that run is then interpolated from
    the base.
    """
    validated, reached = max(curve.drift[0] for curve in curves), min(max(curve.drift) for curve in curves)
    return [validated, (validated + reached) / 2, reached] if validated < reached else [reached]


def _at(curve: ValidationCurve, measure: str, level: float) -> float:
    drift = np.array([0.0, *curve.drift])
    values = np.array([0.0 if measure == JUDGED else 0.5, *curve.measures[measure]])
    right = max(1, int(np.argmax(drift >= level)))
    return float(np.interp(level, drift[right - 1 : right + 1], values[right - 1 : right + 1]))


def _summary(values: Sequence[float]) -> Mapping[str, float | None]:
    return {
        "value": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
