"""Rows at equal drift: what each has gained by the time it is as far from the base as the others.

A policy that has moved further has won more, and lost more elsewhere; at equal drift the path counts,
not how far a row went along it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.studies.measures import JUDGED, Curve, RunMeasures


def equal_drift(runs: Sequence[RunMeasures]) -> dict[str, Any] | None:
    """`levels` of drift, and by row and measure what validations say there: `value`, `spread` over seeds.

    Where a run has first drifted as far, on straight lines between its validations. Measures that some run
    lacks are left out. None unless two rows have validations.
    """
    curves: dict[str, list[Curve]] = {}
    for run in runs:
        if run.curve is not None and run.curve.steps:
            curves.setdefault(run.row, []).append(run.curve)
    if len(curves) < 2:
        return None
    first, *others = [curve for each in curves.values() for curve in each]
    levels = _levels([first, *others])
    measures = [name for name in first.measures if all(name in curve.measures for curve in others)]
    rows = {
        row: {name: [_summary([_at(c, name, level) for c in each]) for level in levels] for name in measures}
        for row, each in curves.items()
    }
    return {"levels": levels, "measures": measures, "rows": rows}


def _levels(curves: Sequence[Curve]) -> list[float]:
    """From where all have been validated to what all reach; only the latter where one has gone beyond it by
    its first validation, which is then joined to the base by a line.
    """
    validated, reached = max(curve.drift[0] for curve in curves), min(max(curve.drift) for curve in curves)
    return [validated, (validated + reached) / 2, reached] if validated < reached else [reached]


def _at(curve: Curve, measure: str, level: float) -> float:
    drift = np.array([0.0, *curve.drift])
    values = np.array([0.0 if measure == JUDGED else 0.5, *curve.measures[measure]])
    there = max(1, int(np.argmax(drift >= level)))
    return float(np.interp(level, drift[there - 1 : there + 1], values[there - 1 : there + 1]))


def _summary(values: Sequence[float]) -> Mapping[str, float | None]:
    return {
        "value": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
