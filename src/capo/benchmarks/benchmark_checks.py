"""Checks of what the benchmarks of a recipe need, before a run: prompts, judges, models, sizes."""

from collections.abc import Iterator
from functools import partial

from capo.benchmarks.artifacts import BASE, TUNED, Part, artifact_name, sides
from capo.benchmarks.benchmark_stage import STAGE, model_location
from capo.benchmarks.setup import Setup, set_up
from capo.diffusion.model_checks import model_check, model_facts
from capo.evaluation.candidates import Candidate, find_candidate
from capo.images.disk_space import check_shard, image_space
from capo.recipe import BenchmarkSection, Recipe
from capo.store import Run
from capo.store.check import Check, Finding
from capo.store.engine_checks import engine_checks


def benchmark_checks(recipe: Recipe, run: Run) -> list[Check]:
    """Return the checks of all benchmarks of the recipe."""
    found = engine_checks(recipe.engine, STAGE)
    for section in recipe.benchmarks:
        field = section.field
        found += [
            Check(field, STAGE, partial(_check_benchmark, recipe, section)),
            _judge_check(recipe, section),
            Check(f"{field}.model", STAGE, partial(_check_models, recipe, section), machine=True),
            Check(f"{field}.images", STAGE, partial(_check_shards, recipe, section)),
        ]
    if any(map(partial(_uses_model, recipe), recipe.benchmarks)):
        found.append(model_check(recipe.model, recipe.generate, recipe.train, STAGE))
    return found


def _judge_check(recipe: Recipe, section: BenchmarkSection) -> Check:
    """Return the check of the judge, which makes the judgments, and whose fingerprint is in the results."""
    parts: tuple[Part, ...] = ("judgments", "results")
    artifacts = tuple(artifact_name(section.name, part) for part in parts)
    find = partial(_check_judge, recipe, section)
    return Check(f"{section.field}.judge", STAGE, find, machine=True, artifacts=artifacts)


def _check_benchmark(recipe: Recipe, section: BenchmarkSection) -> Iterator[Finding]:
    setup = set_up(section)
    prompts = setup.load_prompts(recipe.seed)
    models = len(sides(section))
    images = models * len(prompts) * setup.images
    text = f"{len(prompts):,} prompts of {setup.prompts.source}, {images:,} images of {models} models"
    yield Finding(section.field, text, "note")
    if setup.images > 1 and setup.images % setup.benchmark.layout.tiles:
        tiles = setup.benchmark.layout.tiles
        raise ValueError(
            f"{section.field}.images: {setup.images} is no multiple of {tiles}, the tiles of a file"
        )


def _check_judge(recipe: Recipe, section: BenchmarkSection) -> Iterator[Finding]:
    setup = set_up(section)
    judge = setup.judge
    try:
        prompts = setup.load_prompts(recipe.seed)
    except (ValueError, OSError):  # reported by the check of the benchmark
        return
    judge.check(prompts)
    _ = judge.fingerprint
    if setup.benchmark.published and not judge.official:
        text = f"{judge.name} is not the official judge: its scores must not be compared with published ones"
        yield Finding(f"{section.field}.judge", text, "note")


def _check_models(recipe: Recipe, section: BenchmarkSection) -> None:
    """Raise `ValueError` if a model does not exist or does not fit the recipe's."""
    for candidate in _named(recipe, section):
        candidate.check(recipe.model)


def _check_shards(recipe: Recipe, section: BenchmarkSection) -> None:
    setup: Setup = set_up(section)
    settings = recipe.generate
    size = (
        model_facts(recipe.model, settings, recipe.train).image_size if _uses_model(recipe, section) else None
    )
    if size is not None:  # otherwise the check of the model says what is wrong
        images = image_space(setup.images, size[0] * size[1], settings.image_format)
        check_shard(settings.shard_prompts, images)


def _named(recipe: Recipe, section: BenchmarkSection) -> Iterator[Candidate]:
    """Yield the candidates that the recipe names by a location."""
    for side in sides(section):
        field, value = model_location(recipe, section, side)
        if value is not None:
            yield find_candidate(field, value)


def _uses_model(recipe: Recipe, section: BenchmarkSection) -> bool:
    """Return whether a measured model needs the recipe's own."""
    measured = sides(section)
    locations = {side: model_location(recipe, section, side)[1] for side in (BASE, TUNED) if side in measured}
    if None in locations.values():
        return True
    try:
        return any(c.existing is None and not c.whole_model for c in _named(recipe, section))
    except (ValueError, OSError):  # reported by the check of the models
        return False
