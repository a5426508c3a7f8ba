"""Print studies, their runs, cost and results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capo.cli.tables import add_row, gpu_hours, percent, print_json, print_text, show, table
from capo.studies.contrasts import nothing_compared
from capo.studies.measure_names import measure_title
from capo.studies.run_study import StudyOutcome
from capo.studies.study import Study
from capo.studies.study_cost import StudyCost
from capo.studies.study_warnings import unfinished_runs
from capo.studies.table_cells import NULL_ROW, brief_estimate, row_settings


def print_studies(studies: Mapping[str, Path], as_json: bool) -> None:
    """Print every study with the comment at its top."""
    about = {
        name: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        for name, path in studies.items()
    }
    if as_json:
        print_json({"studies": [{"name": name, "about": text} for name, text in about.items()]})
        return
    _print(["study", "question"], about.items())
    print_text("\nRun one with `capo compare NAME`; add --quick to check that it runs, --plan for its cost.")


def print_runs(study: Study, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print every row with its settings and the state of the run of every seed."""
    if as_json:
        print_json({"study": study.name, "seeds": list(study.seeds), "rows": rows})
        return
    head = ["row", "settings", *(f"seed {seed}" for seed in study.seeds)]
    _print(head, [(row["row"], row_settings(row), *row["runs"].values()) for row in rows], study.title)


def print_cost(study: Study, cost: StudyCost, as_json: bool) -> None:
    """Print GPU hours by kind of artifact, with and without sharing between runs."""
    if as_json:
        print_json({"study": study.name, "seeds": list(study.seeds), **asdict(cost)})
        return
    lines = [
        (kind.kind, f"{kind.different} for {kind.uses}", gpu_hours(kind.hours), gpu_hours(kind.alone))
        for kind in cost.kinds
    ]
    size = f"{len(study.rows)} rows, {len(study.seeds)} seeds"
    lines.append(("total", size, gpu_hours(cost.hours), gpu_hours(cost.alone)))
    print_text(f"{study.title}: on one {cost.gpu}, assuming {percent(cost.utilization, 0)} of its peak speed")
    _print(["artifact", "number", "GPU hours", "without sharing"], lines)
    for note in cost.notes:
        print_text(f"Note: {note}")


def print_outcome(outcome: StudyOutcome, as_json: bool) -> None:
    """Print the win-rates, the comparisons by the first measure, and the paths of the full results."""
    results = outcome.results
    if as_json:
        print_json({"directory": str(outcome.folder), **results})
        return
    measures = results["measures"]
    lines = [(row["name"], *_estimates(row["measures"], measures)) for row in results["rows"]]
    if results["null"]:
        lines.append((NULL_ROW, *_estimates(results["null"], measures)))
    _print(["row", *map(measure_title, measures)], lines, results["title"])
    print_text("Win-rates over the base ± standard error over prompts.\n")
    print_text(f"Comparisons by {measures[0]['name'].lower()}:")
    comparisons = results["comparisons"][measures[0]["name"]]
    for sentence in [comparison["sentence"] for comparison in comparisons] or [nothing_compared(results)]:
        print_text(f"  {sentence}")
    if results["unfinished"]:
        print_text(unfinished_runs(results))
    print_text(f"\nAll results: {outcome.folder / 'index.html'} and {outcome.folder / 'table.md'}")


def _estimates(estimates: Mapping[str, Any], measures: Sequence[Mapping[str, str]]) -> list[str]:
    return [brief_estimate(estimates.get(measure["name"]), measure["kind"]) for measure in measures]


def _print(head: Sequence[str], lines: Iterable[Iterable[object]], title: str | None = None) -> None:
    grid = table(head, title=title)
    for line in lines:
        add_row(grid, line)
    show(grid)
