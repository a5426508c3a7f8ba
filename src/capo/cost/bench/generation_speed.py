"""Images per second: sampling in batches, as the stage does, against one image per call; and decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch

from capo.cost.bench.measure import Case, Row, Work, measure
from capo.cost.bench.subject import Subject, changed, prompts
from capo.diffusion.family import Family
from capo.engine.seeds import initial_noise
from capo.images.encoding import ENCODINGS, encode_image
from capo.recipe import GenerateSection, Recipe
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import sample_images
from capo.store import Run


def bench_generate(subject: Subject, repeats: int) -> Iterator[Row]:
    """One image per call first, with its prompt encoded and its file written in turn; then batches."""
    one = Case("conventional", _one_image(subject), units=1, threads=True)
    yield measure(one, subject.device, repeats)
    samples = subject.recipe.generate.samples_per_prompt
    for size in sorted({min(size, samples) for size in (1, 4, samples)}):
        recipe = changed(subject.recipe, generate={"batch_size": size})
        case = Case(f"batches of {size}", _stage(subject, recipe), units=samples, threads=True)
        yield measure(case, subject.device, repeats)


def bench_decode(subject: Subject, repeats: int) -> Iterator[Row]:
    """Latents to pixels, and to image files of every format."""
    family = subject.family(subject.recipe.model)
    images = min(4, subject.recipe.generate.samples_per_prompt)
    latents = _noise(family, subject.recipe.generate, images)
    for name in ("pixels", *ENCODINGS):
        work = _decode(family, latents, None if name == "pixels" else name)
        yield measure(Case(name, work, units=images), subject.device, repeats)


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
            seed_key=("sample", recipe.seed),
            description="generate",
            keep_latents=True,
        )
        batch = recipe.generate.batch_size
        yield lambda: sample_images(family, request, artifact, f"{batch}-{next(folders)}")


@contextmanager
def _one_image(subject: Subject) -> Iterator[Work]:
    recipe = changed(subject.recipe, model={"compile": False})
    family, settings = subject.family(recipe.model), recipe.generate
    noise = _noise(family, settings, 1)
    (prompt,) = prompts(1)

    def work() -> object:
        latents = family.sample(family.encode([prompt.text]), family.unconditional(), noise, settings)
        (image,) = family.decode(latents)
        return encode_image(image, settings.image_format)

    yield work


@contextmanager
def _decode(family: Family, latents: torch.Tensor, image_format: str | None) -> Iterator[Work]:
    def work() -> object:
        images = family.decode(latents)
        return [encode_image(image, image_format) for image in images] if image_format else images

    yield work


def _noise(family: Family, settings: GenerateSection, rows: int) -> torch.Tensor:
    shape = family.latent_shape(settings)
    return torch.stack([initial_noise(seed, shape) for seed in range(rows)])
