"""Checks of prompts before a run: that they can be read, how many there are, and which sets share some."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from capo.prompts.hub import PREFIX, license_of
from capo.prompts.loading import load_prompts
from capo.prompts.prompt import Prompt
from capo.prompts.table import read_prompts
from capo.recipe import ImagesSection, PromptsSection, Recipe
from capo.store import Run
from capo.store.check import Finding

Load = Callable[[], Iterator[str] | Sequence[str]]
"""Returns the texts of prompts."""


def on_hub(section: PromptsSection | ImagesSection) -> bool:
    """Return whether reading the prompts, or the images, needs the Hub."""
    return PREFIX in section.source


def load_texts(section: PromptsSection, seed: int, field: str) -> list[str]:
    """Return the texts of the prompts that `section` names."""
    return [prompt.text for prompt in load_prompts(section, seed, field)]


def training_prompts(recipe: Recipe, run: Run) -> list[Prompt]:
    """Return the prompts that the run has or will have; none for existing images, which bring their own."""
    if run.artifact("prompts").done:
        return read_prompts(run)
    return [] if recipe.images is not None else load_prompts(recipe.prompts, recipe.seed)


def check_prompts(
    section: PromptsSection, seed: int, field: str, others: Mapping[str, Load]
) -> Iterator[Finding]:
    """Read the prompts of the recipe's `field`; warn about those that the sets `others`, by field, share.

    Raises `PromptsError` for prompts that cannot be read. Others that cannot be read are passed over.
    """
    prompts = load_prompts(section, seed, field)
    terms = (
        f"; license: {license_of(section.source, section.revision) or 'not stated'}"
        if on_hub(section)
        else ""
    )
    yield Finding(field, f"{len(prompts):,} prompts of {section.source}{terms}", "note")
    texts = {prompt.text for prompt in prompts}
    for other, load in others.items():
        try:
            shared = {text for text in load() if text in texts}
        except (ValueError, OSError):
            continue
        if shared:
            verb = "is" if len(shared) == 1 else "are"
            yield Finding(
                field,
                f"{len(shared)} of {len(prompts):,} prompts {verb} also in {other}, such as {min(shared)!r}; "
                "a model is measured on prompts that it was not trained or chosen on: remove them from one",
                "warning",
            )
