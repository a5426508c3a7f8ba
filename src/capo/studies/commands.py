"""The commands that make a study, or one of its runs."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo.studies.study import Settings, Study, set_options
from capo.studies.study_file import QUICK_SUFFIX, load_study, shipped_studies


def study_command(results: Mapping[str, Any]) -> str | None:
    """Return the command that makes the study, `capo compare table2`; None unless it is a shipped one."""
    name = results["study"].removesuffix(QUICK_SUFFIX) if results["quick"] else results["study"]
    if name not in shipped_studies():
        return None
    shipped = load_study(name, quick=results["quick"])
    if not _made_by(shipped, results):
        return None
    quick = ["--quick"] if results["quick"] else []
    against = [] if results["against"] == shipped.against else ["--against", results["against"]]
    some = set(results["seeds"]) < set(shipped.seeds)
    seeds = ["--seeds", ",".join(map(str, results["seeds"]))] if some else []
    return shlex.join(["capo", "compare", name, *quick, *seeds, *against])


def run_command(recipe: str, settings: Settings, directory: Path | None = None) -> str:
    """Return the command that makes one run of a study, in `runs/NAME` unless a directory is named."""
    options = [word for option in set_options(settings) for word in ("--set", option)]
    place = [] if directory is None else ["--run", str(directory)]
    return shlex.join(["capo", "run", recipe, *options, *place])


def _made_by(shipped: Study, results: Mapping[str, Any]) -> bool:
    """True if these are results of the shipped study, not of a file with the same name."""
    own = {row.name: row.own for row in shipped.rows}
    return (
        (shipped.recipe, shipped.shared) == (results["recipe"], results["shared"])
        and set(results["seeds"]) <= set(shipped.seeds)
        and all(own.get(row["name"]) == row["set"] for row in results["rows"])
    )
