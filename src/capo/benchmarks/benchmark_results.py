"""The results of a benchmark: the table of scores, all rows as CSV, official results files, and the page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from capo.benchmarks.artifacts import BASE, PAGE, RESULTS, ROWS, TUNED, Side, artifact_name, sides
from capo.benchmarks.definition import FAILED, Row
from capo.benchmarks.judgments import judged_rows
from capo.benchmarks.results_gallery import gallery_items
from capo.benchmarks.score_statistics import level, paired
from capo.benchmarks.setup import Setup, set_up
from capo.benchmarks.summary import Summary
from capo.engine.seeds import stable_seed
from capo.prompts import Prompt
from capo.recipe import BenchmarkSection
from capo.reporting.benchmark_page import render_benchmark
from capo.reporting.benchmark_schema import (
    BenchmarkResults,
    Flips,
    JudgeName,
    Missing,
    PublishedRow,
    ScoreRow,
)
from capo.reporting.csv_cells import inert_cell
from capo.store.manifest import versions
from capo.store.step import Job

REASONS = 5
"""Different reasons for missing judgments that the results list."""


def make_results(section: BenchmarkSection, job: Job) -> None:
    """Write and commit `results.json`, `rows.csv`, official results files, and `index.html`."""
    setup, artifact = set_up(section), job.artifact
    prompts = setup.load_prompts(job.recipe.seed)
    rows = {side: judged_rows(job.run, section, side) for side in sides(section)}
    made = {side: job.run.artifact(artifact_name(section.name, "images", side)).summary for side in rows}
    results = benchmark_results(setup, prompts, rows, made, job.recipe.seed)
    artifact.write_json(RESULTS, results.model_dump(mode="json"))
    artifact.write_bytes(ROWS, rows_csv(rows).encode())
    for side, of_model in rows.items():
        for path, text in setup.benchmark.layout.results(prompts, of_model).items():
            artifact.write_bytes(f"official/{side}/{path}", text.encode())
    items = gallery_items(job.run, section, prompts, rows, job.recipe.generate.shard_prompts)
    artifact.write_bytes(PAGE, render_benchmark(results, items, versions()).encode())
    artifact.commit(_summary(results))


def benchmark_results(
    setup: Setup,
    prompts: Sequence[Prompt],
    rows: Mapping[Side, Sequence[Row]],
    made: Mapping[Side, Mapping[str, Any]],
    run_seed: int,
) -> BenchmarkResults:
    """Return the results; `made` has the summary of the images of every model."""
    benchmark, judge = setup.benchmark, setup.judge
    judged = {side: [row for row in of_model if FAILED not in row] for side, of_model in rows.items()}
    summaries = {side: benchmark.summarize(of_model, setup.variant) for side, of_model in judged.items()}
    missing = _missing(rows)
    limits = _not_comparable(setup, prompts, missing)
    return BenchmarkResults(
        benchmark=benchmark.name,
        title=benchmark.title,
        variant=setup.variant,
        judge=JudgeName(name=judge.name, official=judge.official, fingerprint=judge.fingerprint),
        models={side: str(summary["model"]) for side, summary in made.items()},
        prompts=len(prompts),
        prompts_source=setup.prompts.source,
        images_per_prompt=setup.images,
        complete=setup.is_complete(),
        same_noise=len(made) == 2 and all(summary["sampled"] for summary in made.values()),
        unit=benchmark.unit,
        overall=summaries[TUNED].overall,
        scores=_scores(setup, summaries, run_seed),
        missing=missing,
        flips=flips(judged),
        details={side: dict(summary.details) for side, summary in summaries.items() if summary.details},
        published=tuple(
            PublishedRow(model=p.model, scores=dict(p.scores), source=p.source) for p in benchmark.published
        ),
        licenses=dict(benchmark.licenses),
        not_comparable=limits,
        warnings=_warnings(missing, len(prompts) * setup.images),
    )


def flips(rows: Mapping[Side, Sequence[Row]]) -> Flips | None:
    """Count the images of both models by their verdicts; None without verdicts on both."""
    verdicts = [
        {(row["prompt"], row["image"]): bool(row["correct"]) for row in of_model if "correct" in row}
        for of_model in (rows.get(BASE, ()), rows.get(TUNED, ()))
    ]
    both = verdicts[0].keys() & verdicts[1].keys()
    if not both:
        return None
    pairs = [(verdicts[0][key], verdicts[1][key]) for key in both]
    return Flips(
        gained=pairs.count((False, True)),
        lost=pairs.count((True, False)),
        both_right=pairs.count((True, True)),
        both_wrong=pairs.count((False, False)),
    )


def rows_csv(rows: Mapping[Side, Sequence[Row]]) -> str:
    """Return all rows as CSV with the column `model`; lists and objects are JSON."""
    columns = dict.fromkeys(name for of_model in rows.values() for row in of_model for name in row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", *columns])
    for side, of_model in rows.items():
        for row in of_model:
            writer.writerow([side, *(_cell(row.get(name)) for name in columns)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else inert_cell(value)
    )


def _scores(setup: Setup, summaries: Mapping[Side, Summary], run_seed: int) -> tuple[ScoreRow, ...]:
    """A row for every score that a model has, in the benchmark's order."""
    benchmark = setup.benchmark
    by_name = {side: {score.name: score for score in s.scores} for side, s in summaries.items()}
    names = dict.fromkeys(name for side in (TUNED, BASE) for name in by_name.get(side, {}))
    rows = []
    for name in names:
        base, tuned = (by_name.get(side, {}).get(name) for side in (BASE, TUNED))
        seed = stable_seed("benchmark-flips", run_seed, benchmark.name, name)
        rows.append(
            ScoreRow(
                name=name,
                base=None if base is None else level(base, benchmark.bounds),
                tuned=None if tuned is None else level(tuned, benchmark.bounds),
                difference=None
                if base is None or tuned is None
                else paired(tuned, base, benchmark.point, seed),
            )
        )
    return tuple(rows)


def _missing(rows: Mapping[Side, Sequence[Row]]) -> Missing:
    gaps = {side: [row for row in of_model if FAILED in row] for side, of_model in rows.items()}
    reasons = dict.fromkeys(str(row[FAILED]) for of_model in gaps.values() for row in of_model)
    return Missing(
        base=len(gaps.get(BASE, ())), tuned=len(gaps.get(TUNED, ())), reasons=tuple(reasons)[:REASONS]
    )


def _not_comparable(setup: Setup, prompts: Sequence[Prompt], missing: Missing) -> tuple[str, ...]:
    """Why the numbers must not be compared with published ones."""
    benchmark, reasons = setup.benchmark, []
    if setup.section.count is not None:
        reasons.append(f"only {len(prompts):,} prompts were used")
    if setup.images != benchmark.images:
        reasons.append(f"{setup.images} images per prompt instead of {benchmark.images}")
    if not setup.judge.official:
        reasons.append(f"{setup.judge.name} is not the official judge")
    if setup.variant != benchmark.variants[0]:
        reasons.append(f"the variant {setup.variant} is not the official one")
    if missing.base or missing.tuned:
        reasons.append("some images have no judgment")
    return tuple(reasons)


def _warnings(missing: Missing, images: int) -> tuple[str, ...]:
    return tuple(
        f"{count:,} of {images:,} images of the {side} model have no judgment and are left out: "
        f"{'; '.join(missing.reasons)}"
        for side, count in (("base", missing.base), ("tuned", missing.tuned))
        if count
    )


def _summary(results: BenchmarkResults) -> dict[str, Any]:
    headline = results.headline
    return {
        "prompts": results.prompts,
        "overall": {
            side: row.value
            for side, row in (("base", headline and headline.base), ("tuned", headline and headline.tuned))
            if row
        },
        "missing": results.missing.base + results.missing.tuned,
    }
