"""Images of prompts by one candidate: sampled from its model, or taken from those that exist already."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from capo.engine.device import select_device
from capo.engine.shard_work import Workplace
from capo.evaluation.candidates import Candidate
from capo.images import open_images
from capo.images.entries import ImageSource
from capo.images.evaluation_import import EvaluationImages, import_evaluation_images
from capo.images.shard_files import shard_path
from capo.prompts import Prompt
from capo.recipe import ImagesSection, Recipe
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import Sampling, run_sampling
from capo.store.step import Job

if TYPE_CHECKING:
    from capo.diffusion.family import Family

CheckSize = Callable[[tuple[int, int], str], None]
"""Called with (height, width) and the words that introduce them; raises for sizes that do not fit."""


def any_size(size: tuple[int, int], what: str) -> None:
    """Accept images of all sizes."""


@dataclass(frozen=True, kw_only=True)
class CandidateImages:
    """Which images to make."""

    purpose: str
    """Starts the progress lines."""
    field: str
    """The recipe field with the number of images of a prompt, for errors."""
    prompts: Sequence[Prompt]
    samples: int
    """K, images of every prompt."""
    folders: Mapping[str, str]
    """By folder of the artifact: the key of its image seeds. Models with equal keys share their noise."""
    title: str
    """Names the images in the progress line."""
    check: CheckSize = any_size
    """Picklable."""
    open_source: Callable[[ImagesSection], ImageSource] = open_images
    """Opens images that exist already. Picklable."""


def make_candidate_images(job: Job, wanted: CandidateImages, candidate: Candidate) -> None:
    """Fill the job's artifact with images by `candidate`; shards that exist are kept.

    Raises `ValueError` if existing images are too few, cannot be read, or do not fit.
    """
    recipe, artifact, settings = job.recipe, job.artifact, job.recipe.generate
    shards = range(math.ceil(len(wanted.prompts) / settings.shard_prompts))
    if all(artifact.has(shard_path(folder, shard)) for folder in wanted.folders for shard in shards):
        return
    if candidate.existing is not None:
        request = EvaluationImages(
            section=candidate.existing,
            prompts=wanted.prompts,
            samples=wanted.samples,
            field=wanted.field,
            shard_prompts=settings.shard_prompts,
            check=wanted.check,
            purpose=wanted.purpose,
            open_source=wanted.open_source,
        )
        for folder in wanted.folders:
            import_evaluation_images(job.executor, artifact, folder, request)
        return
    requests = [
        ImageRequest(
            prompts=wanted.prompts,
            samples=wanted.samples,
            settings=settings,
            seed_key=(seed_key, recipe.seed),
            description=f"{wanted.purpose}: {folder}",
            folder=folder,
        )
        for folder, seed_key in wanted.folders.items()
    ]
    load = partial(_load_checked, recipe, candidate, wanted.check)
    work = Sampling(f"{wanted.purpose}: {wanted.title}", job.run.access(), artifact.name, requests, load)
    run_sampling(job.executor, work, artifact)


def _load_checked(recipe: Recipe, candidate: Candidate, check: CheckSize, place: Workplace) -> "Family":
    """Load a candidate's model; raises the error of `check` for the size of the images that it makes."""
    assert candidate.load is not None
    family = candidate.load(recipe.model, select_device(recipe.engine))
    check(family.image_size(recipe.generate), "this model makes")
    return family
