"""The images of a run as plain files, with a table of their prompts and scores.

    DIR/samples/metadata.jsonl
    DIR/samples/base/PROMPT-SAMPLE.png
    DIR/evaluation/metadata.jsonl
    DIR/evaluation/tuned/PROMPT-SAMPLE.png

Every folder is one that `datasets` loads as an `imagefolder`, and that `images.source` reads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from capo.images.plain_files import write_image_folder
from capo.recipe import Recipe
from capo.reporting.image_purposes import Purpose
from capo.reporting.run_images import StoredImages, row_of, run_images
from capo.store import Run, atomic


def export_images(recipe: Recipe, run: Run, to: Path, purposes: Sequence[Purpose]) -> dict[str, int]:
    """Write the images for `purposes` into the new folder `to`; return the number of images by purpose.

    Raises `WorkspaceError` if images are not made yet, and `ValueError` if `to` exists.
    """
    rewards = tuple(reward.name for reward in recipe.rewards)
    sets = {purpose: run_images(run, rewards, purpose) for purpose in purposes}
    with atomic.create_folder(to) as folder:
        return {
            purpose: write_image_folder(folder / purpose, _entries(found)) for purpose, found in sets.items()
        }


def _entries(sets: Sequence[StoredImages]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield the path of every image without its ending, the image, and the columns of the table."""
    for images in sets:
        for image in images:
            path = f"{images.model}/{image.prompt.prompt_id}-{image.sample}"
            yield path, image.data, row_of(images, image)
