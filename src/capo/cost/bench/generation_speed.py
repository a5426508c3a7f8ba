"""Images per second: sampling as the stage does, against diffusers' own pipeline; and decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch

from capo.cost.bench.measure import Case, Work
from capo.cost.bench.subject import Subject, changed, prompts
from capo.diffusion.plain_pipeline import call_values
from capo.engine.seeds import initial_noise, sample_key
from capo.images.encoding import ENCODINGS, encode_image
from capo.recipe import Recipe
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import sample_images
from capo.store import Run


def generation_cases(subject: Subject) -> list[Case]:
    """The bare pipeline, one image per call and all samples of a prompt at once; then the stage."""
    samples = subject.recipe.generate.samples_per_prompt
    cases = {
        "conventional": (_bare_pipeline(subject, 1), 1),
        f"conventional, batches of {samples}": (_bare_pipeline(subject, samples), samples),
    }
    for size in sorted({min(size, samples) for size in (1, 4, samples)}):
        recipe = changed(subject.recipe, generate={"batch_size": size})
        cases[f"batches of {size}"] = _stage(subject, recipe), samples
    return [Case(name, work, units, subject.device, threads=True) for name, (work, units) in cases.items()]


def decoding_cases(subject: Subject) -> list[Case]:
    """Latents to pixels, and to image files of every format."""
    images = min(4, subject.recipe.generate.samples_per_prompt)
    return [
        Case(name, _decode(subject, images, name), images, subject.device) for name in ("pixels", *ENCODINGS)
    ]


@contextmanager
def _stage(subject: Subject, recipe: Recipe) -> Iterator[Work]:
    """All samples of one prompt, up to the shard on disk."""
    family, prompt, folders = subject.family(recipe.model), prompts(1), count()
    with Run.open(subject.folder / "run", recipe) as run:
        artifact = run.artifact("samples")
        artifact.begin({}, force=True)
        request = ImageRequest(
            prompts=prompt,
            samples=recipe.generate.samples_per_prompt,
            settings=recipe.generate,
            seed_key=sample_key(recipe.seed),
            description="generate",
            keep_latents=True,
        )
        batch = recipe.generate.batch_size
        yield lambda: sample_images(family, request, artifact, f"{batch}-{next(folders)}")


@contextmanager
def _bare_pipeline(subject: Subject, rows: int) -> Iterator[Work]:
    """Diffusers' own pipeline from a prompt to images, whose files are written in turn."""
    family, settings = subject.family(subject.recipe.model), subject.recipe.generate
    (prompt,) = prompts(1)
    arguments = call_values(settings, family.plain_diffusers(settings))

    def work() -> object:
        images = pipeline(prompt=prompt.text, num_images_per_prompt=rows, **arguments).images
        return [encode_image(image, settings.image_format) for image in images]

    with family.pipeline(settings) as pipeline:
        yield work


@contextmanager
def _decode(subject: Subject, images: int, name: str) -> Iterator[Work]:
    family = subject.family(subject.recipe.model)
    shape = family.latent_shape(subject.recipe.generate)
    latents = torch.stack([initial_noise(seed, shape) for seed in range(images)])

    def work() -> object:
        pixels = family.decode(latents)
        return pixels if name == "pixels" else [encode_image(image, name) for image in pixels]

    yield work
