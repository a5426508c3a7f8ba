"""Loading transformers checkpoints strictly: safetensors only, no remote code, whole and finite."""

from typing import TYPE_CHECKING, Any

from capo.rewards.protocol import RewardError
from capo.rewards.registry import split_revision
from capo.runtime import quiet
from capo.weights import defect

if TYPE_CHECKING:
    import torch


def load_model(auto_class: Any, checkpoint: str, device: Any, dtype: "torch.dtype | str") -> Any:
    """The model of a directory or Hub id (`owner/name@revision`), frozen, on `device`.

    Raises `RewardError` when it cannot be read, when weights are missing or left over, or when
    some are not finite.
    """
    model, found = _from_pretrained(auto_class, checkpoint, dtype=dtype, output_loading_info=True)
    if wrong := defect(model, found):
        raise RewardError(f"{checkpoint} {wrong}")
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
