"""Images of the same validation prompts along training, from the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass

from capo.recipe import Recipe
from capo.reporting.examples import ShownPrompt, read_shown_prompts, spread
from capo.reporting.pictures import Gallery, Picture
from capo.scoring.validation_folders import validated_folders
from capo.store import Run

PROMPTS, STEPS = 4, 5
"""Maximum numbers of prompts and, beside the base, of steps."""

PIXELS = 192


@dataclass(frozen=True)
class ProgressRow:
    """The images of one prompt: of the base, then of the policy at every step."""

    prompt: ShownPrompt
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Progress:
    """Images along training; the first of the columns is the base."""

    steps: tuple[int, ...]
    rows: tuple[ProgressRow, ...]


def progress_images(recipe: Recipe, run: Run) -> Progress | None:
    """Return images of some validation prompts, at steps spread evenly over training, or None.

    None without validation, for runs of earlier versions, which did not record the prompts, and if the
    images of the base were removed.
    """
    train, base = run.artifact("train"), run.artifact("validation")
    folders = validated_folders(train)
    if not folders or not base.done or not base.has("prompts.parquet"):
        return None
    prompts = read_shown_prompts(base)
    first = list(prompts.values())[: recipe.generate.shard_prompts]  # those of one shard: few files are read
    shown, steps = spread(first, PROMPTS), _spread_steps(list(folders))
    places = [(base, "base"), *((train, folders[step]) for step in steps)]
    wanted = {prompt.prompt_id: (0,) for prompt in shown}
    columns = [
        Gallery(artifact, folder, list(prompts), recipe.generate.shard_prompts).pictures(wanted, PIXELS)
        for artifact, folder in places
    ]
    rows = (ProgressRow(p, tuple(column[p.prompt_id, 0] for column in columns)) for p in shown)
    return Progress(steps, tuple(rows))


def _spread_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """Return at most `STEPS` of the steps, spread evenly, with the last one."""
    count = min(STEPS, len(steps))
    return tuple(steps[(i + 1) * len(steps) // count - 1] for i in range(count))
