"""Plots of validation curves, loss weights and score histograms."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from capo.method.weighting import flow_sigmoid_weight, sigmoid_weight
from capo.pairing.pair_table import PairTable
from capo.reporting.axes import Chart, Key, Scale, scale_over
from capo.reporting.gather import raw_scores
from capo.reporting.plots import SERIES, Plot, calibrated_histogram, raw_histogram
from capo.store import Run
from capo.studies.measure_names import source_title
from capo.studies.study_run import StudyRun

LOG_SNR = np.linspace(-10, 10, 161)
"""The range of the paper's Fig. 5, which also covers a flow's times."""

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""By row, the validations of every seed, as in `results.json`."""


def validation_curves(rows: Curves, measure: str, against: str, x: str) -> list[Plot]:
    """Plot validation win-rates by one measure over `x`, which is `steps` or `drift`.

    Lines are means over seeds, shaded areas their range. Every panel includes the row that others are
    compared with, and one other row per line style. Further rounds are left out over drift, since theirs does
    not start at the base.
    """
    known = {
        row: seeds
        for row, seeds in rows.items()
        if seeds and all(measure in c["measures"] and (x == "steps" or _from_base(c)) for c in seeds)
    }
    others = [row for row in known if row != against]
    first = [against] if against in known else []
    styles = len(SERIES)
    panels = [first + others[i : i + styles] for i in range(0, len(others), styles)] or [first]
    lines = {row: _line(seeds, measure, x) for row, seeds in known.items()}
    if not lines:
        return []
    xs = [value for line in lines.values() for value in line[0]]
    ys = [value for line in lines.values() for value in (*line[2], *line[3])]
    scales = scale_over(xs, include=[0], snug=True, wanted=4), scale_over(ys, include=[0.5], percent=True)
    return [_panel({row: lines[row] for row in panel}, scales, against, measure, x) for panel in panels]


def weightings(runs: Sequence[StudyRun]) -> list[Plot]:
    """Plot the rows' loss weights over log-SNR (Fig. 5); nothing if all rows have the same."""
    used = sorted({_weighting(run) for run in runs if not run.row.soup})
    if len(used) < 2:
        return []
    log_snr = torch.from_numpy(LOG_SNR)
    plots = []
    for title, weight in (
        ("Weight on an error of noise", sigmoid_weight),
        ("Weight on an error of velocity", flow_sigmoid_weight),
    ):
        chart = Chart(scale_over(LOG_SNR, snug=True), scale_over([0.0, 1.0]), "log-SNR λ", "weight")
        keys = []
        for (name, bias), css in zip(used, itertools.cycle(SERIES), strict=False):
            values = np.ones_like(LOG_SNR) if name == "constant" else weight(log_snr, bias).numpy()
            chart.line(LOG_SNR, values, css)
            sigmoid = f"sigmoid, b = {bias:g}".replace("-", "\N{MINUS SIGN}")
            keys.append(Key(name if name == "constant" else sigmoid, css))
        described = f"{title} over log-SNR: {', '.join(key.label for key in keys)}"
        plots.append(Plot(title, chart.svg(described), tuple(keys)))
    return plots


Histogram = tuple[str, Plot, Plot | None]
"""A reward's name, its raw scores, and its calibrated scores if it trains."""


def histograms(run: StudyRun) -> list[Histogram]:
    """Plot every reward's raw scores of the training samples, and calibrated ones if it trains (Fig. 6)."""
    opened = Run(run.directory)
    pairs = PairTable.read(opened.artifact("pairs"))
    columns = {name: pairs.calibrated[:, i] for i, name in enumerate(pairs.rewards)}
    return [
        (
            reward.name,
            raw_histogram(reward.name, raw_scores(opened, reward.name)),
            calibrated_histogram(reward.name, columns[reward.name]) if reward.name in columns else None,
        )
        for reward in run.trained.rewards
    ]


Line = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x, mean, minimum, maximum."""


def _line(seeds: Sequence[Mapping[str, Any]], measure: str, x: str) -> Line:
    """Curve over the validations that all seeds have, from the base (½) or from a further round's start."""
    shortest = min(len(curve["steps"]) for curve in seeds)
    base = _from_base(seeds[0])
    xs = np.array([[0.0] * base + curve[x][:shortest] for curve in seeds])
    ys = np.array([[0.5] * base + curve["measures"][measure][:shortest] for curve in seeds])
    return xs.mean(axis=0), ys.mean(axis=0), ys.min(axis=0), ys.max(axis=0)


def _from_base(curve: Mapping[str, Any]) -> bool:
    """True for a first round; a further round includes its step 0."""
    return 0 not in curve["steps"]


def _panel(
    lines: Mapping[str, Line], scales: tuple[Scale, Scale], against: str, measure: str, x: str
) -> Plot:
    x_label = "step" if x == "steps" else "drift from the base"
    chart = Chart(scales[0], scales[1], x_label, "win-rate over the base")
    chart.horizontal(0.5, "half")
    styles = dict(_styles(list(lines), against))
    for row, css in styles.items():
        at, mean, low, high = lines[row]
        if (high > low).any():
            chart.band(at, low, high, css)
        chart.line(at, mean, css)
        chart.points(at[1:], mean[1:], css)
    ends = "; ".join(f"{row} ends at {100 * lines[row][1][-1]:.1f}%" for row in lines)
    title = f"{source_title(measure)}, over {'steps' if x == 'steps' else 'drift'}"
    keys = tuple(Key(row, css) for row, css in styles.items())
    return Plot(title, chart.svg(f"Validation win-rate by {title}: {ends}"), keys)


def _styles(rows: Sequence[str], against: str) -> Iterable[tuple[str, str]]:
    series = itertools.cycle(SERIES)
    for row in rows:
        yield row, "mean" if row == against else next(series)


def _weighting(run: StudyRun) -> tuple[str, float]:
    section = run.trained.train
    return section.weighting, 0.0 if section.weighting == "constant" else section.weighting_bias
