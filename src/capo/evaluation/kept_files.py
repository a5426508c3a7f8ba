"""The files of an evaluation that a change of its settings leaves as they are.

Images do not depend on rewards and judges, and the scores of one reward do not depend on the others. So an
added reward costs its own scores alone.
"""

from collections.abc import Collection

from capo.evaluation.model_images import IMAGES, JUDGMENTS

APART_FROM_IMAGES = ("rewards.", "evaluate.judge", "evaluate.embedder", "@baseline")
"""Beginnings of the inputs that images do not depend on."""


def is_kept(file: str, changed: Collection[str]) -> bool:
    """Report whether `file` of `baseline` or `evaluate` is the same although the inputs `changed` differ."""
    if not all(field.startswith(APART_FROM_IMAGES) for field in changed):
        return False
    folder, _, name = file.partition("/")
    if folder == IMAGES:
        return True
    if file == JUDGMENTS:
        return not any(field.startswith("evaluate.judge") for field in changed)
    if folder == "scores" and name.endswith(".parquet"):
        reward = name.partition("/")[2].removesuffix(".parquet")
        return not {f"rewards.{reward}.weights", f"rewards.{reward}.source"} & set(changed)
    return False
