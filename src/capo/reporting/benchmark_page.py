"""The page of a benchmark, and its part of a run's report: scores, intervals, and the images behind them.

Filters of the gallery are radio buttons and style rules: the page runs no scripts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from capo.reporting import forest
from capo.reporting.benchmark_schema import BenchmarkResults, Level, PairedScore
from capo.reporting.forest import Forest
from capo.reporting.pictures import Picture
from capo.reporting.templating import environment
from capo.reporting.wording import MINUS, NONE

Kind = Literal["gained", "lost", "right", "wrong", "unknown"]

KINDS: dict[Kind, str] = {
    "lost": "base right, tuned wrong",
    "gained": "base wrong, tuned right",
    "wrong": "both wrong",
    "right": "both right",
    "unknown": "not judged",
}
"""What the gallery can be filtered by, with two models and verdicts."""

SCORE_KINDS: dict[Kind, str] = KINDS | {
    "lost": "tuned scores lower",
    "gained": "tuned scores higher",
    "right": "equal scores",
}
"""The same for judges that give scores."""

SINGLE_KINDS: dict[Kind, str] = {"wrong": "wrong", "right": "right", "unknown": "not judged"}
"""The same for one model."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the original image, with a label, and the outline of a mask if known."""

    left: float
    top: float
    width: float
    height: float
    label: str
    outline: str
    """Points of an SVG polygon; empty without a mask."""


@dataclass(frozen=True)
class Answer:
    """A question about the image, and the judge's answer."""

    question: str
    answer: str
    score: float | None


@dataclass(frozen=True)
class JudgedImage:
    """An image with everything the judge said about it."""

    picture: Picture
    correct: bool | None
    score: float | None
    reason: str
    """Of the verdict, or why there is none."""
    boxes: tuple[Box, ...] = ()
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class GalleryItem:
    """Images of one number for one prompt: base and tuned, or tuned alone."""

    number: int
    """Of the prompt."""
    image: int
    prompt: str
    category: str | None
    kind: Kind
    images: Mapping[str, JudgedImage]
    """By model."""


@dataclass(frozen=True)
class ShownGallery:
    """The images of a page, and how many there are of every kind in all."""

    items: tuple[GalleryItem, ...] = ()
    totals: Mapping[Kind, int] = field(default_factory=dict)
    judged_by_score: bool = False

    def labels(self, results: BenchmarkResults) -> dict[Kind, str]:
        """The filters for the kinds that are shown."""
        names = SINGLE_KINDS if len(results.models) == 1 else SCORE_KINDS if self.judged_by_score else KINDS
        shown = Counter(item.kind for item in self.items)
        return {kind: name for kind, name in names.items() if shown[kind]}


def render_benchmark(results: BenchmarkResults, gallery: ShownGallery, versions: Mapping[str, str]) -> str:
    """Return the page. Equal material gives equal text."""
    return (
        environment()
        .get_template("benchmark.html.j2")
        .render(
            results=results,
            gallery=gallery,
            kinds=gallery.labels(results),
            versions=versions,
            warnings=results.warnings,
            **scores(results),
        )
    )


def scores(results: BenchmarkResults) -> dict[str, Any]:
    """Return the variables of `benchmark_scores.html.j2`."""
    unit = results.unit
    return {
        "forest": _differences(results) if len(results.models) > 1 else _levels(results),
        "value": lambda number, sign=False: _value(number, unit, sign),
        "span": lambda interval: _span(interval, unit),
        "published_names": [
            row.name for row in results.scores if any(row.name in p.scores for p in results.published)
        ],
    }


def _differences(results: BenchmarkResults) -> Forest | None:
    """One row per score with an interval: tuned minus base."""
    entries = [
        (row.name, _kind(row.name, results), _scaled(row.difference, results.unit))
        for row in results.scores
        if row.difference is not None and row.difference.low is not None
    ]
    return forest.compared(entries, 0.0, percent=False) if entries else None


def _levels(results: BenchmarkResults) -> Forest | None:
    """One row per score with an interval: its level."""
    entries = [
        (row.name, _kind(row.name, results), _scaled(row.tuned, results.unit))
        for row in results.scores
        if row.tuned is not None and row.tuned.low is not None
    ]
    return forest.compared(entries, 0.0, percent=False) if entries else None


def _kind(name: str, results: BenchmarkResults) -> str:
    return "mean" if name == results.overall else "training"


def _scaled(interval: Level | PairedScore | None, unit: float) -> tuple[float, float, float]:
    assert interval is not None
    low, high = interval.low, interval.high
    return interval.value / unit, (low or 0.0) / unit, (high or 0.0) / unit


def _value(number: float | None, unit: float, sign: bool) -> str:
    """Format a value in the benchmark's unit: `0.554`, or `55.4` if the unit is a hundredth."""
    if number is None:
        return NONE
    digits = 3 if unit == 1 else 1
    return f"{number / unit:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def _span(interval: Level | PairedScore, unit: float) -> str:
    if interval.low is None or interval.high is None:
        return NONE
    sign = isinstance(interval, PairedScore)
    return f"{_value(interval.low, unit, sign)} to {_value(interval.high, unit, sign)}"


def judged_image(picture: Picture, row: Mapping[str, Any]) -> JudgedImage:
    """Return an image with its judgment; parts that a judge writes in another form are left out."""
    score, correct = row.get("score"), row.get("correct")
    return JudgedImage(
        picture=picture,
        correct=None if correct is None else bool(correct),
        score=float(score) if isinstance(score, int | float) else None,
        reason=str(row.get("failed") or row.get("reason") or ""),
        boxes=tuple(box for entry in _entries(row, "boxes") if (box := _box(entry)) is not None),
        answers=tuple(
            Answer(str(a.get("question", "")), str(a.get("answer", "")), _number(a.get("score")))
            for a in _entries(row, "answers")
        ),
    )


def _entries(row: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    entries = row.get(name)
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def _box(entry: Mapping[str, Any]) -> Box | None:
    corners = entry.get("box")
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    numbers = [_number(corner) for corner in corners]
    if None in numbers:
        return None
    left, top, right, bottom = (float(number or 0.0) for number in numbers)
    points = entry.get("outline")
    outline = " ".join(f"{float(x):g},{float(y):g}" for x, y in points) if isinstance(points, list) else ""
    return Box(left, top, max(right - left, 0), max(bottom - top, 0), str(entry.get("label", "")), outline)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
