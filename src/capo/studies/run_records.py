"""Measures of runs, read from the run directory or from the record that is kept next to it.

A record suffices for the tables of a study after the run directory has been removed.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.store import WorkspaceError
from capo.studies.record_file import read_record, write_record
from capo.studies.run_measures import RunMeasures, ValidationCurve, Values, measure_run
from capo.studies.study_run import StudyRun


def measures_of(run: StudyRun) -> RunMeasures:
    """Return the measures of a finished run, from its directory (and keep a record), or from its record.

    The cost of earlier rounds is only on record once their directories are removed.
    """
    if run.kept or run.outlives_sources:
        return _read(run.record)
    measures = measure_run(run)
    write_record({"made_from": run.made_from, **_to_record(measures)}, run.record)
    return measures


def records_elsewhere(folder: Path) -> dict[str, Path]:
    """Return the records of removed runs in the studies next to `folder`, by the fingerprint of the run.

    Skips damaged records with a message.
    """
    records: dict[str, Path] = {}
    for path in sorted(folder.parent.glob("*/*/seed-*.json")):
        if path.parents[1] == folder or path.with_suffix("").exists():
            continue
        try:
            records.setdefault(read_record(path)["made_from"], path)
        except WorkspaceError as error:
            say(f"Record not reused: {error}")
    return records


def adopt_record(run: StudyRun, source: Path) -> None:
    """Copy another study's record to `run`, at no cost in seconds."""
    write_record(read_record(source) | {"row": run.row.name, "spent": 0.0}, run.record)


def _read(path: Path) -> RunMeasures:
    record = read_record(path)
    try:
        return _from_record(record)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of a record without a seal
        raise WorkspaceError(f"{path}: damaged ({type(error).__name__}: {error}); remove it") from error


def _to_record(measures: RunMeasures) -> dict[str, Any]:
    """Return JSON values, with the values of every measure in the order of `prompts`."""
    prompts = sorted({p for values in (measures.tuned, measures.null) for by in values.values() for p in by})
    return asdict(measures) | {
        "prompts": prompts,
        "tuned": _columns(measures.tuned, prompts),
        "null": _columns(measures.null, prompts),
        "joint": _columns(measures.joint, prompts),
    }


def _from_record(record: Mapping[str, Any]) -> RunMeasures:
    fields = {name: value for name, value in record.items() if name not in ("made_from", "prompts")}
    curve = record["curve"]
    return replace(
        RunMeasures(**fields),
        tuned=_values(record["tuned"], record["prompts"]),
        null=_values(record["null"], record["prompts"]),
        joint=_values(record.get("joint", {}), record["prompts"]),
        curve=None if curve is None else ValidationCurve(**curve),
    )


def _columns(values: Values, prompts: list[str]) -> dict[str, list[float | None]]:
    return {name: [by.get(prompt) for prompt in prompts] for name, by in values.items()}


def _values(columns: Mapping[str, list[float | None]], prompts: list[str]) -> Values:
    return {
        name: {prompt: v for prompt, v in zip(prompts, column, strict=True) if v is not None}
        for name, column in columns.items()
    }
