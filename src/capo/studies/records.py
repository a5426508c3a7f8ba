"""What a study keeps of each run beside its directory: enough for the tables when that is removed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.store import WorkspaceError, atomic
from capo.studies.measures import Curve, RunMeasures, Values, measure_run
from capo.studies.runs import StudyRun, read_record


def measures_of(run: StudyRun) -> RunMeasures:
    """What a run that is done says: by its directory, of which a record is kept, or by the record alone."""
    if run.kept:
        return _from_record(read_record(run.record))
    measures = measure_run(run)
    _keep({"made_from": run.made_from, **_to_record(measures)}, run.record)
    return measures


def kept_elsewhere(folder: Path) -> dict[str, Path]:
    """Records in the studies beside `folder` of runs that are gone, by what they were made from.

    One that is damaged is told and passed over.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.parent.glob("*/*/seed-*.json")):
        if path.parents[1] == folder or path.with_suffix("").exists():
            continue
        try:
            found.setdefault(read_record(path)["made_from"], path)
        except WorkspaceError as error:
            say(f"not taken over: {error}")
    return found


def adopt_record(run: StudyRun, kept: Path) -> None:
    """Make another study's record that of `run`, which has spent nothing on it."""
    _keep(read_record(kept) | {"row": run.row.name, "spent": 0.0}, run.record)


def _keep(record: Mapping[str, Any], path: Path) -> None:
    text = json.dumps(record, allow_nan=False)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic.write_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _to_record(measures: RunMeasures) -> dict[str, Any]:
    """As JSON, each measure's values in the order of `prompts`."""
    prompts = sorted({p for values in (measures.tuned, measures.null) for by in values.values() for p in by})
    return asdict(measures) | {
        "prompts": prompts,
        "tuned": _columns(measures.tuned, prompts),
        "null": _columns(measures.null, prompts),
    }


def _from_record(record: Mapping[str, Any]) -> RunMeasures:
    fields = {name: value for name, value in record.items() if name not in ("made_from", "prompts")}
    curve = record["curve"]
    return replace(
        RunMeasures(**fields),
        tuned=_values(record["tuned"], record["prompts"]),
        null=_values(record["null"], record["prompts"]),
        curve=None if curve is None else Curve(**curve),
    )


def _columns(values: Values, prompts: list[str]) -> dict[str, list[float | None]]:
    return {name: [by.get(prompt) for prompt in prompts] for name, by in values.items()}


def _values(columns: Mapping[str, list[float | None]], prompts: list[str]) -> Values:
    return {
        name: {prompt: v for prompt, v in zip(prompts, column, strict=True) if v is not None}
        for name, column in columns.items()
    }
