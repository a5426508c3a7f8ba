"""Whether loaded weights can be trusted: all of them there, none left over, all finite."""

from collections.abc import Mapping
from typing import Any

CONSTANTS = ("position_ids", "inv_freq")
"""Last parts of the names of constants that older checkpoints store among the weights."""


def defect(model: Any, found: Mapping[str, Any]) -> str | None:
    """What is wrong with the weights of `model`, to be read after the checkpoint's name; else None.

    `found` is the loading information of diffusers and transformers. They fill missing weights with
    random numbers, and a random head gives answers all the same.
    """
    unknown = [key for key in found["unexpected_keys"] if key.rpartition(".")[2] not in CONSTANTS]
    for what, keys in (("lacks", found["missing_keys"]), ("has unknown", unknown)):
        if keys:
            return f"{what} weights of {type(model).__name__}: {_some(sorted(keys))}"
    wrong = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    return f"has weights that are not finite: {_some(wrong)}" if wrong else None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
