"""The trackers by name: how each is opened, and what each does in its own way. All are accelerate's."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

PROJECT = "capo"
"""The project, or experiment, that all runs are logged to."""


@dataclass(frozen=True)
class TrackedRun:
    """The run of a tracker that belongs to a run directory."""

    directory: Path
    name: str
    key: str
    """Names it among the runs of the project."""
    known: str | None
    """Its id in the tracker, if it was opened before."""
    first_step: int | None
    """The first step that is about to be logged, if training continues; later ones were lost."""


@dataclass(frozen=True)
class TrackerKind:
    """A tracker of accelerate's. `open` starts it; the others take what `open` returns."""

    open: Callable[[TrackedRun], Any]
    run_id: Callable[[Any, TrackedRun], str]
    log_recipe: Callable[[Any, dict[str, Any], str], None]
    """Records the flat values of a recipe, and its YAML."""
    log_image: Callable[[Any, str, "Image.Image", int], None]


def _open_tensorboard(run: TrackedRun) -> Any:
    from accelerate.tracking import TensorBoardTracker

    folder = run.directory / "tensorboard"
    return _started(TensorBoardTracker(run.key, folder, purge_step=run.first_step))


def _open_wandb(run: TrackedRun) -> Any:
    from accelerate.tracking import WandBTracker

    settings = {"id": run.key, "name": run.name, "resume": "allow", "dir": str(run.directory)}
    return _started(WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), **settings))


def _open_mlflow(run: TrackedRun) -> Any:
    import mlflow
    from accelerate.tracking import MLflowTracker

    known = run.known
    try:
        if known is not None:
            mlflow.get_run(known)
    except mlflow.MlflowException:  # in the store of another server or folder
        known = None
    return _started(MLflowTracker(PROJECT, run_id=known, run_name=run.name))


def _open_trackio(run: TrackedRun) -> Any:
    from accelerate.tracking import TrackioTracker

    return _started(TrackioTracker(PROJECT, name=f"{run.name}-{run.key}", resume="allow"))


def _started(tracker: Any) -> Any:
    from accelerate import PartialState

    PartialState()  # accelerate's loggers need it; it joins the processes that there are
    tracker.start()
    return tracker


def _key(tracker: Any, run: TrackedRun) -> str:
    return run.key


def _store_configuration(tracker: Any, values: dict[str, Any], text: str) -> None:
    tracker.store_init_configuration(values)


def _log_text(tracker: Any, values: dict[str, Any], text: str) -> None:
    # TensorBoard would show stored values as a run of their own.
    tracker.log({"recipe": "\n".join(f"    {line}" for line in text.splitlines())}, step=0)


def _log_array(tracker: Any, title: str, image: "Image.Image", step: int) -> None:
    tracker.log_images({title: np.asarray(image)[None]}, step=step, dataformats="NHWC")


def _log_wandb_image(tracker: Any, title: str, image: "Image.Image", step: int) -> None:
    tracker.log_images({title: [image]}, step=step)


def _log_file(tracker: Any, title: str, image: "Image.Image", step: int) -> None:
    folder, _, name = title.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, f"{name}-{step:06d}.png")
        image.save(path)
        tracker.log_artifact(str(path), folder)


def _log_trackio_image(tracker: Any, title: str, image: "Image.Image", step: int) -> None:
    import trackio

    tracker.log({title: trackio.Image(image)}, step=step)


KINDS = {
    "tensorboard": TrackerKind(_open_tensorboard, _key, _log_text, _log_array),
    "wandb": TrackerKind(_open_wandb, _key, _store_configuration, _log_wandb_image),
    "mlflow": TrackerKind(
        _open_mlflow, lambda tracker, run: str(tracker.tracker.info.run_id), _store_configuration, _log_file
    ),
    "trackio": TrackerKind(_open_trackio, _key, _store_configuration, _log_trackio_image),
}
