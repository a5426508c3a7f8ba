"""Simulated people, who compare samples in place of real people.

They are a plug-in: an installed package supplies a class, called without arguments, as an entry point
of the group `capo.people`.
"""

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from capo.prompts import Prompt
from capo.recipe import Recipe
from capo.recipe.plugins import PEOPLE, load_plugin, plugin_version

if TYPE_CHECKING:
    from PIL import Image

FIELD = "pairs.people"

Answer = tuple[int, int, float]
"""The places of two images, and 1 if the first was preferred, 0 if the second was, 1/2 for a tie."""


class People(Protocol):
    """The interface of simulated people."""

    def can_compare(self, prompt: Prompt) -> bool:
        """Return whether the prompt has the metadata that they need."""
        ...

    def compare(
        self, images: "Sequence[Image.Image]", prompt: Prompt, rng: random.Random
    ) -> Iterable[Answer]:
        """Compare images of one prompt in disjoint pairs.

        All randomness must come from `rng`, so that a run can be repeated.
        """
        ...


def load_people(name: str) -> People:
    """Load the people that `pairs.people` names.

    Raises `PluginError` if no installed package supplies them.
    """
    people: People = load_plugin(PEOPLE, name, FIELD)()
    return people


def check_comparable(people: People, recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Raise `ValueError` if the people cannot compare images of some of the prompts."""
    unknown = [prompt.text for prompt in prompts if not people.can_compare(prompt)]
    if unknown:
        raise ValueError(
            f"{FIELD}: {recipe.pairs.people} need metadata that {len(unknown)} of the {len(prompts)} prompts "
            f"of {recipe.prompts.source} lack; the first is {unknown[0]!r}"
        )


def people_inputs(name: str) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the people, beyond their name."""
    version = plugin_version(PEOPLE, name)
    return {} if version is None else {f"{FIELD}.package": version}
