"""A contact sheet of a run."""

from typing import TYPE_CHECKING

from capo.images.contact_sheet import SheetRow, contact_sheet
from capo.reporting.image_purposes import Purpose
from capo.reporting.run_images import StoredImages, run_images
from capo.rewards.rgb_images import decode_image
from capo.store import Run

if TYPE_CHECKING:
    from PIL import Image

SAMPLES = 8
"""Samples of a prompt."""
STEPS = 5
"""Number of validated steps shown; the base is shown as well."""
HEADINGS = {"null": "base, other seeds"}
"""Headings of columns that differ from the name of the model."""


def run_sheet(run: Run, purpose: Purpose, count: int) -> "Image.Image":
    """Draw images of the first `count` prompts: their samples, or one of every model.

    Raises `WorkspaceError` if the images are not made yet.
    """
    sets = run_images(run, (), purpose)
    if purpose == "samples":
        return contact_sheet(_sample_rows(sets[0], count))
    if purpose == "validation":
        sets = [sets[0], *sets[1:][-STEPS:]]
    columns = [_first(images, count) for images in sets]
    rows = [
        SheetRow(text, tuple(column[prompt][1] for column in columns))
        for prompt, (text, _) in columns[0].items()
    ]
    return contact_sheet(rows, [HEADINGS.get(images.model, images.model) for images in sets])


def _sample_rows(images: StoredImages, count: int) -> list[SheetRow]:
    found: dict[str, list[Image.Image]] = {}
    for image in images:
        if image.prompt.prompt_id not in found and len(found) == count:
            break
        shown = found.setdefault(image.prompt.prompt_id, [])
        if len(shown) < SAMPLES:
            shown.append(decode_image(image.data))
    return [SheetRow(images.prompts[prompt].text, tuple(shown)) for prompt, shown in found.items()]


def _first(images: StoredImages, count: int) -> "dict[str, tuple[str, Image.Image]]":
    """Return the text and the first image of the first prompts, by id."""
    found: dict[str, tuple[str, Image.Image]] = {}
    for image in images:
        if image.prompt.prompt_id not in found:
            if len(found) == count:
                break
            found[image.prompt.prompt_id] = image.prompt.text, decode_image(image.data)
    return found
