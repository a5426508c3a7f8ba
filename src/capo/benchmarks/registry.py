"""Benchmarks by name: those of this room, and those that installed packages supply.

A package supplies a `Benchmark` as an entry point of the group `capo.benchmarks`.
"""

from pkgutil import resolve_name

from capo.benchmarks.definition import Benchmark
from capo.recipe.hints import nearest
from capo.recipe.plugins import BENCHMARKS, load_plugin, plugins

SHIPPED: dict[str, str] = {
    "dpg-bench": "capo.benchmarks.dpg_bench:DPG_BENCH",
    "drawbench": "capo.benchmarks.drawbench:DRAWBENCH",
    "genai-bench": "capo.benchmarks.genai_bench:GENAI_BENCH",
    "geneval": "capo.benchmarks.geneval:GENEVAL",
    "geneval2": "capo.benchmarks.geneval2:GENEVAL2",
    "hpdv2": "capo.benchmarks.hpdv2:HPDV2",
    "partiprompts": "capo.benchmarks.parti_prompts:PARTI_PROMPTS",
    "t2i-compbench": "capo.benchmarks.t2i_compbench:T2I_COMPBENCH",
}
"""The object of every shipped benchmark by name, imported when it is used."""


def benchmark_names() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    return sorted({*SHIPPED, *plugins(BENCHMARKS)})


def load_benchmark(name: str, field: str) -> Benchmark:
    """Return the benchmark `name`, which the recipe's `field` asks for.

    Raises `ValueError` for an unknown name, and `PluginError` if a package's cannot be imported.
    """
    benchmark: Benchmark
    if name in SHIPPED:
        benchmark = resolve_name(SHIPPED[name])
    elif name in plugins(BENCHMARKS):
        benchmark = load_plugin(BENCHMARKS, name, field)
    else:
        known = benchmark_names()
        raise ValueError(
            f"{field}: no benchmark {name!r}; choose from {', '.join(known)}{nearest(name, known)}"
        )
    return benchmark
