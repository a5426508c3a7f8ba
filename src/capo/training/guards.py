"""What must hold before the weights are changed."""

from collections.abc import Sequence

from torch import Tensor


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is not finite; no update was made from it."""


def check_losses(losses: Tensor, step: int, prompt_ids: Sequence[str]) -> None:
    """Raise `TrainingDiverged` naming the prompts whose loss [B] is not finite."""
    finite = losses.isfinite()
    if not finite.all():
        bad = [prompt_id for prompt_id, good in zip(prompt_ids, finite.tolist(), strict=True) if not good]
        raise TrainingDiverged(_message("loss", step, bad))


def check_gradient(norm: Tensor, step: int, prompt_ids: Sequence[str]) -> None:
    """Raise `TrainingDiverged` naming the prompts of the step unless the gradient's norm is finite."""
    if not norm.isfinite():
        raise TrainingDiverged(_message("gradient", step, prompt_ids))


def _message(what: str, step: int, prompt_ids: Sequence[str]) -> str:
    return (
        f"step {step}: the {what} is not finite, from prompts {', '.join(prompt_ids)}; nothing was "
        "updated and the last checkpoint is intact: lower train.learning_rate or train.beta"
    )
