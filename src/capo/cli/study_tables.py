"""What `capo compare` prints: tables for people, JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.cli.plan_table import hours
from capo.cli.tables import print_json
from capo.studies.commands import run_command
from capo.studies.contrasts import nothing_compared
from capo.studies.running import Outcome
from capo.studies.runs import StudyRun
from capo.studies.study import Study, shipped_studies
from capo.studies.study_cost import StudyCost
from capo.studies.study_table import NULL, brief, settings
from capo.studies.warnings import not_finished


def print_studies(as_json: bool) -> None:
    """The shipped studies, each with the comment that heads it."""
    found = {
        name: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        for name, path in shipped_studies().items()
    }
    if as_json:
        print_json({"studies": [{"name": name, "about": about} for name, about in found.items()]})
        return
    _print(["study", "what it compares"], found.items())


def print_runs(study: Study, runs: Sequence[StudyRun], as_json: bool) -> None:
    """Every row with what sets it apart, and how far the run of each seed is."""
    states = {(run.row.name, run.seed): "kept" if run.kept else run.state for run in runs}
    commands = {
        (run.row.name, run.seed): run_command(
            study.recipe, study.run_settings(run.row, run.seed, run.folder), run.directory
        )
        for run in runs
        if not run.row.soup
    }
    rows: list[dict[str, Any]] = [
        {
            "row": row.name,
            "set": row.own,
            "start": row.start,
            "soup": list(row.soup),
            "weights": list(row.weights),
            "interpolation": row.interpolation if row.soup else None,
            "tune": row.tune,
            "runs": {str(seed): states[row.name, seed] for seed in study.seeds},
            "commands": {str(seed): commands.get((row.name, seed)) for seed in study.seeds},
        }
        for row in study.rows
    ]
    if as_json:
        print_json({"study": study.name, "seeds": list(study.seeds), "rows": rows})
        return
    head = ["row", "sets", *(f"seed {seed}" for seed in study.seeds)]
    _print(head, [(row["row"], settings(row), *row["runs"].values()) for row in rows], study.title)


def print_cost(study: Study, cost: StudyCost, as_json: bool) -> None:
    """GPU hours by kind of artifact, and what the runs would take without what they share."""
    if as_json:
        print_json({"study": study.name, "seeds": list(study.seeds), **asdict(cost)})
        return
    lines = [
        (each.kind, f"{each.different} for {each.runs} runs", hours(each.hours), hours(each.alone))
        for each in cost.kinds
    ]
    together = [sum(each.hours for each in cost.kinds), sum(each.alone for each in cost.kinds)]
    whole = f"{len(study.rows)} rows, {len(study.seeds)} seeds"
    print(f"{study.title}: hours of one {cost.gpu}, if it reaches {cost.utilization:.0%} of its peak")
    head = ["artifact", "how many", "GPU hours", "by themselves"]
    _print(head, [*lines, ("all", whole, *map(hours, together))])
    for note in cost.notes:
        print(note)


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """The table of win-rates, what the comparisons come to, and where the rest is."""
    results = outcome.results
    if as_json:
        print_json({"directory": str(outcome.folder), **results})
        return
    measures = results["measures"]
    lines = [(row["name"], *_cells(row["measures"], measures)) for row in results["rows"]]
    if results["null"]:
        lines.append((NULL, *_cells(results["null"], measures)))
    _print(["row", *(measure["name"] for measure in measures)], lines, results["title"])
    compared = results["comparisons"][measures[0]["name"]]
    print("Win-rates over the base ± standard error over prompts; what the first measure says of the rows:")
    for told in [each["sentence"] for each in compared] or [nothing_compared(results)]:
        print(f"  {told}")
    if results["unfinished"]:
        print(not_finished(results))
    print(f"Everything: {outcome.folder / 'table.md'} and {outcome.folder / 'index.html'}")


def _cells(estimates: Any, measures: Any) -> list[str]:
    return [brief(estimates.get(measure["name"]), measure["kind"]) for measure in measures]


def _print(head: Sequence[str], lines: Any, title: str | None = None) -> None:
    table = Table(title=title and Text(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in head:
        table.add_column(column, overflow="fold", min_width=max(map(len, column.split())))
    for line in lines:
        table.add_row(*(Text(str(each)) for each in line))
    Console().print(table)
