"""The commands by which a study, or one of its runs alone, is made."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo.studies.study import QUICK_SUFFIX, Settings, Study, load_study, overrides, shipped_studies


def study_command(results: Mapping[str, Any]) -> str | None:
    """`capo compare table2`; None for a study that is not a shipped one."""
    name = results["study"].removesuffix(QUICK_SUFFIX) if results["quick"] else results["study"]
    if name not in shipped_studies():
        return None
    shipped = load_study(name, quick=results["quick"])
    if not _same(shipped, results):
        return None
    quick = ["--quick"] if results["quick"] else []
    against = [] if results["against"] == shipped.against else ["--against", results["against"]]
    some = set(results["seeds"]) < set(shipped.seeds)
    seeds = ["--seeds", ",".join(map(str, results["seeds"]))] if some else []
    return shlex.join(["capo", "compare", name, *quick, *seeds, *against])


def run_command(recipe: str, settings: Settings, directory: Path | None = None) -> str:
    """One run of a study by itself, in `runs/NAME` unless another directory is named."""
    given = [word for each in overrides(settings) for word in ("--set", each)]
    place = [] if directory is None else ["--run", str(directory)]
    return shlex.join(["capo", "run", recipe, *given, *place])


def _same(shipped: Study, results: Mapping[str, Any]) -> bool:
    """Whether these are results of the shipped study, and not of a file of the same name."""
    own = {row.name: row.own for row in shipped.rows}
    return (
        (shipped.recipe, shipped.shared) == (results["recipe"], results["shared"])
        and set(results["seeds"]) <= set(shipped.seeds)
        and all(own.get(row["name"]) == row["set"] for row in results["rows"])
    )
