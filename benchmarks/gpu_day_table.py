"""The results of `gpu_day.py` as Markdown, compared with the project's targets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GIB = 2**30
SDXL_SPEED, SDXL_MEMORY = 2.0, 0.6
"""Pairs per second at least, and memory at most, of LoRA over the conventional loop."""
SD3_PEAK = 0.4
"""Share of the bf16 peak that LoRA reaches at least."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A measured case, and the conventional one that it is compared with."""

    name: str
    ours: bool
    row: dict[str, Any]
    base: dict[str, Any] | None

    def ratio(self, field: str) -> float | None:
        """The value of a field over that of the conventional case."""
        if self.base is None or not self.base[field] or self.row[field] is None:
            return None
        ratio: float = self.row[field] / self.base[field]
        return ratio


def table(results: list[Result]) -> str:
    """Return the tables of all parts, and how the parts ended."""
    sections = [_ends(results)]
    for result in results:
        if "tests" in result:
            sections.append(_tests(result["tests"]))
        if "timings" in result:
            stages = [[line["stage"], f"{line['seconds']:.1f}"] for line in result["timings"]]
            sections.append(_grid(["stage of the embedded recipe", "seconds"], stages))
        if lines := _lines(result):
            sections.append(_measured(result, lines))
        failed = [
            found["error"].splitlines()[0] for found in result.get("benchmarks", ()) if "error" in found
        ]
        sections += ["\n".join(f"- failed: {error}" for error in failed)] if failed else []
    goals = [goal for result in results for goal in _goals(result["part"], _lines(result))]
    if goals:
        sections.append(_grid(["target", "measured", "wanted", "reached"], goals))
    return "\n\n".join(sections) + "\n"


def _ends(results: list[Result]) -> str:
    devices = sorted({found["device"] for result in results for found in _benchmarks(result)})
    rows = [[result["part"], result["state"], f"{result['seconds']:.0f}"] for result in results]
    return "\n\n".join([*devices, _grid(["part", "ended", "seconds"], rows)])


def _tests(tests: list[dict[str, str]]) -> str:
    outcomes = [test["outcome"] for test in tests]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes))
    wrong = [test for test in tests if test["outcome"] in ("failed", "error")]
    return "\n".join([f"Tests: {counts}.", *(f"- {test['test']}: {test['why']}" for test in wrong)])


def _benchmarks(result: Result) -> list[dict[str, Any]]:
    return [found for found in result.get("benchmarks", ()) if "rows" in found]


def _lines(result: Result) -> list[Line]:
    """All cases of a part. The case to compare with has the same model and number of pairs or images."""
    keyed = []
    for found in _benchmarks(result):
        training = found["part"] == "train"
        pairs = found["settings"]["train"]["global_batch_size"] if training else None
        more = [change for change in found["changes"] if change.startswith("model.")]
        more += [f"{found['attention']} attention"] if found["attention"] else []
        more += [f"{pairs} pairs"] if training else []
        for row in found["rows"]:
            at_once = row["name"].partition("batches of ")[2]
            name = ", ".join([found["subject"], row["name"], *more])
            keyed.append(((found["subject"], pairs, at_once), name, row))
    bases: dict[Any, dict[str, Any]] = {}
    for key, _, row in keyed:
        if _is_conventional(row):
            bases.setdefault(key, row)
    return [Line(name, not _is_conventional(row), row, bases.get(key)) for key, name, row in keyed]


def _is_conventional(row: dict[str, Any]) -> bool:
    name: str = row["name"]
    return name.startswith("conventional")


def _measured(result: Result, lines: list[Line]) -> str:
    unit = _benchmarks(result)[0]["unit"]
    head = [result["part"], "seconds", f"{unit}/s", "memory", "of bf16 peak", "speed", "memory ratio"]
    return _grid(head, [_cells(line) for line in lines])


def _cells(line: Line) -> list[str]:
    row = line.row
    if row["seconds"] is None:
        return [line.name, "out of memory", *[""] * 5]
    memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / GIB:.1f} GiB"
    share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
    ratios = [line.ratio(field) for field in ("per_second", "peak_bytes")]
    return [
        *(line.name, f"{row['seconds']:.3g}", f"{row['per_second']:.3g}", memory, share),
        *("" if ratio is None else f"{ratio:.2f}×" for ratio in ratios),
    ]


def _goals(part: str, lines: list[Line]) -> Iterator[list[str]]:
    """Compare the cases that the targets speak of with the targets."""
    for line in (each for each in lines if each.ours):
        speed, memory, share = line.ratio("per_second"), line.ratio("peak_bytes"), line.row["share_of_peak"]
        if part == "train-sdxl" and line.row["name"].startswith("LoRA") and speed and memory:
            measured = f"{speed:.2f}× the speed, {memory:.0%} of the memory"
            wanted = f"≥ {SDXL_SPEED:.0f}× and ≤ {SDXL_MEMORY:.0%}"
            yield [line.name, measured, wanted, _yes(speed >= SDXL_SPEED and memory <= SDXL_MEMORY)]
        if part == "train-sd3" and share:
            yield [line.name, f"{share:.0%} of the peak", f"≥ {SD3_PEAK:.0%}", _yes(share >= SD3_PEAK)]
        if part == "generate" and speed:
            yield [line.name, f"{speed:.2f}× the bare pipeline", "≥ 1×", _yes(speed >= 1)]


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def _grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
