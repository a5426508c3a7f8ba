"""The files of an evaluation that a change of its settings leaves as they are.

Images do not depend on rewards and judges, and the scores of one reward do not depend on the others. So an
added reward costs its own scores alone. More prompts or more images of each leave the images in use, too.
"""

from collections.abc import Collection

from capo.evaluation.model_images import IMAGES, JUDGMENTS
from capo.sampling.former_images import kept_former

APART_FROM_IMAGES = ("rewards.", "evaluate.judge", "evaluate.embedder", "@baseline")
"""Beginnings of the inputs that images do not depend on."""


GROWTH = ("evaluate.samples_per_prompt", "evaluate.prompts.")
"""Beginnings of the inputs that say how many images there are."""


def kept_as(file: str, changed: Collection[str]) -> str | None:
    """Return where `file` of `baseline` or `evaluate` is used although the inputs `changed` differ."""
    if all(field.startswith(APART_FROM_IMAGES) for field in changed):
        return file if _is_same(file, changed) else None
    in_images = file.startswith(f"{IMAGES}/")
    return kept_former(file, changed, APART_FROM_IMAGES + GROWTH) if in_images else None


def _is_same(file: str, changed: Collection[str]) -> bool:
    folder, _, name = file.partition("/")
    if folder == IMAGES:
        return True
    if file == JUDGMENTS:
        return not any(field.startswith("evaluate.judge") for field in changed)
    if folder == "scores" and name.endswith(".parquet"):
        reward = name.partition("/")[2].removesuffix(".parquet")
        return not {f"rewards.{reward}.weights", f"rewards.{reward}.source"} & set(changed)
    return False
