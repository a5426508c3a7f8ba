"""Stage `prompts`: collect the prompts to sample for."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from capo.engine.seeds import stable_seed
from capo.recipe import ImagesSection, Recipe
from capo.store.check import Check
from capo.store.step import Job, Step, flatten

if TYPE_CHECKING:
    from capo.images import Entry, ImageSource
    from capo.store import Artifact, Run


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `prompts`."""
    from capo.images import images_inputs
    from capo.prompts import prompts_inputs

    inputs = flatten("prompts", recipe.prompts.results()) | images_inputs(recipe.images)
    if recipe.images is None:
        inputs |= prompts_inputs("prompts", recipe.prompts)
    return [Step("prompts", "prompts", inputs | {"seed": recipe.seed}, (), collect)]


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that the prompts, or the images that bring them, can be read."""
    from capo.images import check_images
    from capo.prompts.prompt_checks import check_prompts, on_hub

    if recipe.images is not None:
        return [Check("images.source", "prompts", partial(check_images, recipe.images), machine=True)]
    find = partial(check_prompts, recipe.prompts, recipe.seed, "prompts", {})
    return [Check("prompts", "prompts", find, machine=on_hub(recipe.prompts))]


def collect(job: Job) -> None:
    """Write `prompts.parquet`: distinct prompts, or the captions of existing images."""
    from capo.prompts import collect_prompts
    from capo.prompts.table import prompt_table

    recipe, artifact = job.recipe, job.artifact
    if recipe.images is not None:
        _captions(recipe.images, recipe.prompts.count, recipe.seed, artifact)
        return
    prompts, duplicates = collect_prompts(recipe.prompts, recipe.seed)
    artifact.write_table("prompts.parquet", prompt_table(prompts))
    artifact.commit({"prompts": len(prompts), "duplicates": duplicates})


def training_texts(recipe: Recipe, run: "Run") -> Iterator[str]:
    """Yield the texts of the prompts that the run has or will have.

    Captions of images on the Hub are not fetched ahead of the run, so there are none. Raises
    `ValueError` for prompts or captions that cannot be read.
    """
    from capo.images import open_images
    from capo.prompts.prompt_checks import on_hub, training_prompts
    from capo.prompts.table import stream_texts

    if run.artifact("prompts").done:
        yield from stream_texts(run)
    elif recipe.images is None:
        yield from (prompt.text for prompt in training_prompts(recipe, run))
    elif not on_hub(recipe.images):
        entries = _drawn(open_images(recipe.images), recipe.prompts.count, recipe.seed)
        yield from (entry.prompt.text for entry in entries)


def _captions(images: ImagesSection, count: int | None, seed: int, artifact: "Artifact") -> None:
    from capo.images import open_images
    from capo.prompts.table import prompt_table

    source = open_images(images)
    kept = _drawn(source, count, seed)
    artifact.write_table("prompts.parquet", prompt_table([entry.prompt for entry in kept]))
    summary = {"prompts": len(kept), "images": sum(len(entry.images) for entry in kept)}
    artifact.commit(summary | {"without_caption": source.without_caption})


def _drawn(source: "ImageSource", count: int | None, seed: int) -> "list[Entry]":
    """Draw `count` prompts with their images; raises `ImagesError` if there are fewer."""
    from capo.images import ImagesError

    ids = [entry.prompt.prompt_id for entry in source.entries]
    if count is not None and count > len(ids):
        raise ImagesError(f"prompts.count is {count}, but the images have only {len(ids)} prompts")
    drawn = set(sorted(ids, key=lambda prompt_id: stable_seed("prompts", seed, prompt_id))[:count])
    return [entry for entry in source.entries if entry.prompt.prompt_id in drawn]
