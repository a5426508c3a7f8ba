"""The artifacts of a benchmark in a run directory.

benchmarks/NAME/images/MODEL/shard-00000.parquet      as samples are stored, without latents
benchmarks/NAME/judgments/MODEL/judgments.jsonl       one line per image
benchmarks/NAME/official/MODEL/...                    only with `export: official`
benchmarks/NAME/results/...                           results.json, rows.csv, index.html

MODEL is `base` or `tuned`.
"""

from typing import Literal

from capo.recipe import BenchmarkSection

Side = Literal["base", "tuned"]
Part = Literal["images", "judgments", "official", "results"]

BASE: Side = "base"
TUNED: Side = "tuned"

JUDGMENTS = "judgments.jsonl"
RESULTS = "results.json"
ROWS = "rows.csv"
PAGE = "index.html"

PARTS_OF: dict[str, tuple[Part, ...]] = {
    "generate": ("images", "official"),
    "judge": ("judgments",),
    "report": ("results",),
}
"""The parts that every stage of a benchmark makes, by the name of the stage."""


def artifact_name(benchmark: str, part: Part, side: Side | None = None) -> str:
    """Return the name of an artifact; results have no side."""
    return "/".join(("benchmarks", benchmark, part, *(() if side is None else (side,))))


def sides(section: BenchmarkSection) -> tuple[Side, ...]:
    """Return the models that a section measures."""
    return (BASE, TUNED) if section.compare else (TUNED,)
