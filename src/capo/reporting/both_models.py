"""Images of both models of an evaluation, for the same prompts and noise."""

from typing import TYPE_CHECKING

from capo.images.first_images import first_images
from capo.reporting.examples import read_shown_prompts
from capo.store import Run

if TYPE_CHECKING:
    from PIL import Image


def evaluated_images(run: Run, count: int) -> "list[tuple[str, tuple[Image.Image, Image.Image]]]":
    """Return at most `count` evaluation prompts, and an image of each by the base and by the tuned model."""
    baseline = run.artifact("baseline")
    prompts = read_shown_prompts(baseline)
    sides = ((baseline, "images/base"), (run.artifact("evaluate"), "images/tuned"))
    base, tuned = (first_images(artifact, folder, count) for artifact, folder in sides)
    return [(prompts[name].text, (base[name], tuned[name])) for name in base if name in tuned]
