"""Judges: exact verdicts on whether an image shows what its prompt asks for.

A judge is a plug-in: an installed package supplies a class, called without arguments, as an entry
point of the group `capo.judges`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from capo.prompts import Prompt
from capo.recipe import EvaluateSection
from capo.recipe.plugins import JUDGES, load_plugin, plugin_version

if TYPE_CHECKING:
    from PIL import Image

FIELD = "evaluate.judge"


class Judge(Protocol):
    """The interface of a judge. It is created often, so the first `verdicts` should load its model."""

    image_size: tuple[int, int] | None
    """The only height and width that it accepts; None if it accepts any."""

    def can_judge(self, prompt: Prompt) -> bool:
        """Return whether the prompt has the metadata that the judge needs."""
        ...

    def verdicts(self, images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> Sequence[bool]:
        """Return whether each image shows what the prompt at its place asks for."""
        ...


def load_judge(name: str) -> Judge:
    """Load the judge that `evaluate.judge` names.

    Raises `PluginError` if no installed package supplies it.
    """
    judge: Judge = load_plugin(JUDGES, name, FIELD)()
    return judge


def judge_inputs(name: str | None) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the judge, beyond its name."""
    version = None if name is None else plugin_version(JUDGES, name)
    return {} if version is None else {f"{FIELD}.package": version}


def check_judgeable(section: EvaluateSection, prompts: Sequence[Prompt]) -> None:
    """Raise `ValueError` if the section has a judge that cannot judge some of the prompts."""
    if section.judge is None:
        return
    judge = load_judge(section.judge)
    unknown = [prompt.text for prompt in prompts if not judge.can_judge(prompt)]
    if unknown:
        raise ValueError(
            f"{FIELD}: {section.judge} needs metadata that {len(unknown)} of the {len(prompts)} prompts of "
            f"{section.prompts.source} lack; the first is {unknown[0]!r}"
        )


def can_judge(name: str | None, prompts: Sequence[Prompt]) -> bool:
    """Return whether `name` is a judge that can judge all prompts."""
    return name is not None and all(map(load_judge(name).can_judge, prompts))


def check_size(name: str | None, size: tuple[int, int], what: str) -> None:
    """Raise `ValueError` for images of height and width `size` that the judge does not accept.

    `what` introduces the size in the message, such as "this model makes".
    """
    wanted = None if name is None else load_judge(name).image_size
    if wanted not in (None, size):
        raise ValueError(
            f"{FIELD}: {name} needs images of {wanted[1]}×{wanted[0]} pixels, but {what} "
            f"{size[1]}×{size[0]}; set it to null"
        )
