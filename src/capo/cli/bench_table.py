"""Print a benchmark."""

from dataclasses import asdict
from typing import Any

from capo.cli.tables import add_row, percent, show, table
from capo.cost.bench.benchmark import Benchmark
from capo.cost.bench.measure import Row


def benchmark_values(benchmark: Benchmark) -> dict[str, Any]:
    """Return JSON values; `speed` and `memory` of a row are ratios to the conventional row."""
    rows = [{**asdict(row), **benchmark.ratios(row)} for row in benchmark.rows]
    return {**asdict(benchmark), "rows": rows}


def print_benchmark(benchmark: Benchmark) -> None:
    """Print one row per case, without columns that would be empty."""
    cells = [_cells(row, benchmark) for row in benchmark.rows]
    columns = [name for name in cells[0] if any(row[name] for row in cells)]
    title = f"{benchmark.part}: {benchmark.subject} on {benchmark.device}"
    grid = table(columns, title=title, right=columns[1:])
    for row in cells:
        add_row(grid, [row[name] for name in columns])
    show(grid)


def _cells(row: Row, benchmark: Benchmark) -> dict[str, str]:
    ratios = benchmark.ratios(row)
    return {
        benchmark.part: row.name,
        "seconds": "out of memory" if row.seconds is None else _figure(row.seconds),
        "host": _figure(row.host_seconds),
        f"{benchmark.unit}/s": _figure(row.per_second),
        "memory": "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f} MiB",
        "of bf16 peak": percent(row.share_of_peak, 0),
        "speed": "" if ratios["speed"] is None else f"{ratios['speed']:.2f}×",
        "memory ratio": percent(ratios["memory"], 0),
    }


def _figure(value: float | None) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
