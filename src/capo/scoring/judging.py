"""What the exact judge asks of an evaluation, and its verdicts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capo.prompts import Prompt
from capo.recipe import Recipe
from capo.shapes.scenes import SIZE

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


def check_judgeable(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Raise `ValueError` for prompts that do not say what must be seen, when the recipe has a judge."""
    unknown = [prompt.text for prompt in prompts if not tells_what_to_see(prompt)]
    if recipe.evaluate.judge is not None and unknown:
        raise ValueError(
            f"evaluate.judge: {recipe.evaluate.judge} needs prompts that say what must be seen, as those "
            f"of shapes:test; {len(unknown)} of {recipe.evaluate.prompts.source} do not, the first being "
            f"{unknown[0]!r}"
        )


def tells_what_to_see(prompt: Prompt) -> bool:
    """Whether the judge can say of an image if it shows what `prompt` says."""
    return "include" in prompt.metadata


def check_size(recipe: Recipe, size: tuple[int, int], what: str) -> None:
    """Raise `ValueError` for images of height and width `size` that the judge cannot look at.

    `what` says in words what has that size, as "this model makes".
    """
    if recipe.evaluate.judge == "shapes" and size != (SIZE, SIZE):
        raise ValueError(
            f"evaluate.judge: shapes looks at images of {SIZE}×{SIZE} pixels, and {what} "
            f"{size[1]}×{size[0]}; set it to null"
        )


def verdicts(prompts: Sequence[Prompt], rows: "pa.Table", images: "Sequence[Image.Image]") -> list[bool]:
    """Whether each image, of the prompt of its row, is correct."""
    from capo.shapes.judge import judge

    metadata = {prompt.prompt_id: prompt.metadata for prompt in prompts}
    keys = zip(images, rows["prompt_id"].to_pylist(), strict=True)
    return [judge(np.asarray(image), metadata[prompt_id]) for image, prompt_id in keys]
