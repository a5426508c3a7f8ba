"""What happens in a run, as typed events that callbacks receive.

def watch(event: Event) -> None:
    match event:
        case TrainingStep(step, measures):
            print(step, measures["loss"])
        case ValidationStep(step, measures):
            print(step, measures["win_rate"])
        case StageResult(name, skipped=False):
            print(name, event.summary)

run(recipe, "runs/first", callbacks=[watch])
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TrainingStep:
    """A step of training that is logged: a line of `train/metrics.jsonl`."""

    step: int
    """Counts from 1. After an interruption, steps after the newest checkpoint are reported again."""
    measures: Mapping[str, float]
    """Means over the batch by name, such as `loss` and `rewards/margins`, and `learning_rate`."""


@dataclass(frozen=True)
class ComparedImages:
    """Two images of a prompt from the same noise."""

    prompt: str
    base: "Image.Image"
    policy: "Image.Image"


@dataclass(frozen=True)
class ValidationStep:
    """A validation of the policy in training: a line of `train/validation.jsonl`."""

    step: int
    """The step whose policy was validated; 0 is the policy before training."""
    measures: Mapping[str, float | None]
    """By name: `win_rate`, the mean over the training rewards in [0, 1], `win_rate/REWARD`, and others."""
    images: Callable[[], Sequence[ComparedImages]]
    """Reads the first image of some validation prompts, at most four."""


@dataclass(frozen=True)
class StageResult:
    """The outcome for one artifact: made, or skipped because it was up to date."""

    name: str
    """The artifact, such as `samples` or `scores/pickscore`."""
    skipped: bool
    """True if it was up to date, or reused from another run."""
    seconds: float
    """The time it took to make; 0 if skipped."""
    summary: dict[str, Any]
    """Counts and means by name, as in the artifact's manifest."""


Event = TrainingStep | ValidationStep | StageResult

Callback = Callable[[Event], None]
"""Receives all events in the main process, in order. What it raises stops the run, which can be resumed."""

_callbacks: list[Callback] = []


def emit(event: Event) -> None:
    """Pass an event to the callbacks of this process."""
    for callback in tuple(_callbacks):
        callback(event)


@contextmanager
def calling(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Pass the events of this process to `callbacks`, in addition to those of an outer context."""
    before = len(_callbacks)
    _callbacks.extend(callbacks)
    try:
        yield
    finally:
        del _callbacks[before:]
