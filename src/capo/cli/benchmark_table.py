"""Print benchmarks and their results."""

from typing import Any

from capo.cli.tables import add_row, print_json, print_text, show, table
from capo.pipeline import RunResult


def print_benchmarks(as_json: bool) -> None:
    """Print all benchmarks: what they need, and who may judge."""
    from capo.benchmarks.registry import benchmark_names, load_benchmark

    found = [load_benchmark(name, "NAME") for name in benchmark_names()]
    if as_json:
        print_json(
            {
                "benchmarks": [
                    {"name": b.name, "title": b.title, "images": b.images, "judges": list(b.judges)}
                    | {
                        "variants": list(b.variants),
                        "own_prompts": ":" in b.prompts,
                        "licenses": dict(b.licenses),
                    }
                    for b in found
                ]
            }
        )
        return
    grid = table(["benchmark", "title", "prompts", "images", "judges"], right=["images"])
    for b in found:
        prompts = "its own" if ":" in b.prompts else "--prompts PATH"
        add_row(grid, [b.name, b.title, prompts, b.images, ", ".join(b.judges)])
    show(grid)


def print_benchmark_run(name: str, result: RunResult, as_json: bool) -> None:
    """Print what `capo benchmark` did: the scores, once they are done."""
    results = result.benchmarks.get(name)
    if as_json:
        stages = [{"name": stage.name, "skipped": stage.skipped} for stage in result.stages]
        print_json({"directory": str(result.directory), "stages": stages, "results": results})
        return
    made = {stage.name for stage in result.stages}
    if all(stage.skipped for stage in result.stages):
        print_text(f"{', '.join(sorted(made))} in {result.directory} up to date; nothing to do.")
    folder = result.directory / "benchmarks" / name
    if f"benchmarks/{name}/results" in made and results is not None:
        print_scores(results)
        print_text(f"Page: {folder / 'results' / 'index.html'}")
    if f"benchmarks/{name}/official" in made:
        print_text(f"Official layout: {folder / 'official'}")


def print_scores(results: dict[str, Any]) -> None:
    """Print the scores of a benchmark."""
    names, unit = results["models"], results["unit"]
    two = "base" in names
    against = f" against {names['base']}" if two else ""
    columns = [
        "score",
        *(["base", "tuned", "change", "95% interval", "p"] if two else ["value", "95% interval"]),
    ]
    grid = table(columns, title=f"{results['title']}: {names['tuned']}{against}", right=columns[1:])
    for row in results["scores"]:
        change, tuned = row["difference"], row["tuned"]
        if two:
            cells = [_level(row["base"], unit), _level(tuned, unit)]
            cells += ["", "", ""] if change is None else _change(change, unit)
        else:
            cells = [_level(tuned, unit), "" if tuned is None else _span(tuned, unit, "")]
        add_row(grid, [row["name"], *cells])
    show(grid)
    print_text(
        f"Judge: {results['judge']['name']}; {results['prompts']:,} prompts, "
        f"images per prompt: {results['images_per_prompt']}"
    )
    if results["published"] and results["not_comparable"]:
        print_text(f"Not comparable with published scores: {'; '.join(results['not_comparable'])}")
    for warning in results["warnings"]:
        print_text(f"Warning: {warning}")


def _change(change: dict[str, Any], unit: float) -> list[str]:
    return [_number(change["value"], unit, "+"), _span(change, unit, "+"), f"{change['p']:.2g}"]


def _level(level: dict[str, Any] | None, unit: float) -> str:
    return "" if level is None else _number(level["value"], unit, "")


def _span(values: dict[str, Any], unit: float, sign: str) -> str:
    if values["low"] is None or values["high"] is None:
        return ""
    return f"{_number(values['low'], unit, sign)} to {_number(values['high'], unit, sign)}"


def _number(value: float, unit: float, sign: str) -> str:
    return f"{value / unit:{sign}.{3 if unit == 1 else 1}f}"
