"""Images of a benchmark's prompts by one of its models, sampled or in the official layout already."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from capo.benchmarks.artifacts import TUNED, Side
from capo.benchmarks.benchmark_stage import model_location
from capo.benchmarks.evaluated_images import SEED_KEY, take_evaluated
from capo.benchmarks.official_files import OfficialImages
from capo.benchmarks.setup import set_up
from capo.evaluation.candidate_images import CandidateImages, make_candidate_images
from capo.evaluation.candidates import Candidate, base_model, find_candidate, trained
from capo.images import open_images
from capo.images.entries import ImageSource
from capo.prompts import Prompt
from capo.recipe import BenchmarkSection, ImagesSection, Recipe
from capo.store import Run
from capo.store.step import Job


def candidate(recipe: Recipe, section: BenchmarkSection, side: Side, run: Run) -> Candidate:
    """Return the model of one side; raises `ValueError` if its location names none."""
    field, value = model_location(recipe, section, side)
    if value is not None:
        return find_candidate(field, value)
    return trained(run.artifact("train")) if side == TUNED else base_model(recipe.model)


def make_images(section: BenchmarkSection, side: Side, job: Job) -> None:
    """Fill and commit the artifact with one model's images; its model must fit the recipe's."""
    setup, recipe = set_up(section), job.recipe
    prompts = setup.load_prompts(recipe.seed)
    model = candidate(recipe, section, side, job.run)
    model.check(recipe.model)
    wanted = CandidateImages(
        purpose=f"benchmark {section.name}",
        field=f"{section.field}.images",
        prompts=prompts,
        samples=setup.images,
        folders={"": SEED_KEY},  # both models start from the same noise
        title=f"images of {side}",
        open_source=partial(open_existing, section, prompts),
    )
    take_evaluated(section, side, job, prompts, setup.images)
    make_candidate_images(job, wanted, model)
    sampled = model.existing is None
    summary = {"model": model.name, "prompts": len(prompts), "images": len(prompts) * setup.images}
    job.artifact.commit(summary | {"sampled": sampled})


def open_existing(section: BenchmarkSection, prompts: Sequence[Prompt], images: ImagesSection) -> ImageSource:
    """Open images in the benchmark's official layout, or else in any that `capo evaluate` reads."""
    setup = set_up(section)
    official = OfficialImages(Path(images.source), setup.benchmark.layout, prompts, setup.images)
    if not official.exists:
        return open_images(images)
    official.check()
    return official
