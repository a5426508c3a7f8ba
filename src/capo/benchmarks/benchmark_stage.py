"""Stage `benchmark`: images of a benchmark's prompts, judgments on them, and scores with their intervals.

Base and tuned model share prompts and noise, so they are compared prompt by prompt. Images do not depend on
the judge, nor judgments on the variant, so changing one keeps what comes before it.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from capo.benchmarks.artifacts import TUNED, Side, artifact_name, sides
from capo.recipe import BenchmarkSection, Recipe
from capo.store.check import Check
from capo.store.manifest import identify
from capo.store.step import Job, StageName, Step

if TYPE_CHECKING:
    from capo.benchmarks.setup import Setup
    from capo.store import Run

STAGE: StageName = "benchmark"


def steps(recipe: Recipe) -> list[Step]:
    """The artifacts of all benchmarks of the recipe."""
    return [step for section in recipe.benchmarks for step in _steps(recipe, section)]


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that prompts can be read, judges be loaded, and models be used, for every benchmark."""
    if not recipe.benchmarks:
        return []
    from capo.benchmarks.benchmark_checks import benchmark_checks

    return benchmark_checks(recipe, run)


def model_location(recipe: Recipe, section: BenchmarkSection, side: Side) -> tuple[str, str | None]:
    """Return the field that says which model to measure, and its value; None is the run's own."""
    if side == TUNED:
        return f"{section.field}.model", section.model or recipe.evaluate.policy
    return f"{section.field}.against", section.against or recipe.evaluate.against


def _steps(recipe: Recipe, section: BenchmarkSection) -> Iterator[Step]:
    from capo.benchmarks.setup import set_up

    setup, measured = set_up(section), sides(section)
    images = {side: artifact_name(section.name, "images", side) for side in measured}
    judgments = {side: artifact_name(section.name, "judgments", side) for side in measured}
    for side in measured:
        _, value = model_location(recipe, section, side)
        upstream = ("train",) if side == TUNED and value is None else ()
        inputs = _images_inputs(recipe, setup, side)
        make = partial(_make_images, section, side)
        yield Step(images[side], STAGE, inputs, upstream, make, sharded=True)
    if section.export is not None:
        name, everything = artifact_name(section.name, "official"), tuple(images.values())
        inputs = {f"{section.field}.export": section.export}
        yield Step(name, STAGE, inputs, everything, partial(_write_official, section))
    for side in measured:
        judge = partial(_make_judgments, section, side)
        yield Step(judgments[side], STAGE, _judge_inputs(setup), (images[side],), judge, sharded=True)
    results = partial(_make_results, section)
    before = (*images.values(), *judgments.values())
    inputs = {f"{section.field}.variant": setup.variant}
    yield Step(artifact_name(section.name, "results"), STAGE, inputs, before, results)


def _images_inputs(recipe: Recipe, setup: "Setup", side: Side) -> dict[str, Any]:
    from capo.evaluation.baseline import evaluated_model_inputs
    from capo.evaluation.candidates import candidate_identity
    from capo.prompts import prompts_inputs

    prompts, field = setup.prompts, f"{setup.field}.prompts"
    inputs = evaluated_model_inputs(recipe) | prompts_inputs(field, prompts)
    inputs |= {field: prompts.source, f"{setup.field}.count": prompts.count}
    inputs[f"{setup.field}.images"] = setup.images
    model, value = model_location(recipe, setup.section, side)
    if value is not None:
        inputs |= {model: value, f"{model}.content": candidate_identity(model, value)}
    return inputs


def _judge_inputs(setup: "Setup") -> dict[str, Any]:
    field = f"{setup.field}.judge"
    content = identify(field, lambda: setup.judge.fingerprint)
    return {field: setup.section.judge or next(iter(setup.benchmark.judges)), f"{field}.content": content}


def _make_images(section: BenchmarkSection, side: Side, job: Job) -> None:
    from capo.benchmarks.benchmark_images import make_images

    make_images(section, side, job)


def _write_official(section: BenchmarkSection, job: Job) -> None:
    from capo.benchmarks.official_files import write_official

    write_official(section, job)


def _make_judgments(section: BenchmarkSection, side: Side, job: Job) -> None:
    from capo.benchmarks.judgments import make_judgments

    make_judgments(section, side, job)


def _make_results(section: BenchmarkSection, job: Job) -> None:
    from capo.benchmarks.benchmark_results import make_results

    make_results(section, job)
