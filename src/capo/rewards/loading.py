"""Loading transformers checkpoints strictly: safetensors only, no remote code, whole and finite."""

from typing import Any

import torch

from capo.rewards.protocol import RewardError
from capo.rewards.registry import split_revision
from capo.runtime import quiet

BUFFERS = ("position_ids", "inv_freq")
"""Last parts of the names of constants that older checkpoints store among the weights."""


def load_model(auto_class: Any, checkpoint: str, device: Any, dtype: "torch.dtype | str") -> Any:
    """The model of a directory or Hub id (`owner/name@revision`), frozen, on `device`.

    Raises `RewardError` when it cannot be read, when weights are missing or left over (a random
    head would give scores all the same), or when some are not finite.
    """
    model, found = _from_pretrained(auto_class, checkpoint, dtype=dtype, output_loading_info=True)
    left_over = [k for k in found["unexpected_keys"] if k.rsplit(".", 1)[-1] not in BUFFERS]
    for what, keys in (("lacks", found["missing_keys"]), ("has unknown", left_over)):
        if keys:
            raise RewardError(f"{checkpoint} {what} weights of {type(model).__name__}: {_some(sorted(keys))}")
    wrong = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if wrong:
        raise RewardError(f"{checkpoint} has weights that are not finite: {_some(wrong)}")
    return model.eval().requires_grad_(False).to(device)


def load_part(auto_class: Any, checkpoint: str, **arguments: Any) -> Any:
    """A tokenizer, image processor or processor of a checkpoint."""
    return _from_pretrained(auto_class, checkpoint, **arguments)


def _from_pretrained(auto_class: Any, checkpoint: str, **arguments: Any) -> Any:
    name, revision = split_revision(checkpoint)
    if "dtype" in arguments:
        arguments["use_safetensors"] = True
    try:
        with quiet():
            return auto_class.from_pretrained(
                name, revision=revision or "main", trust_remote_code=False, **arguments
            )
    except ImportError:
        raise
    except Exception as error:
        # transformers raises many kinds here; all mean that this checkpoint is not usable.
        raise RewardError(
            f"{checkpoint} cannot be loaded as {auto_class.__name__}: {type(error).__name__}: {error}"
        ) from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
