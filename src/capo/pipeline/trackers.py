"""The trackers of a recipe: TensorBoard, Weights & Biases, MLflow and Trackio.

A tracker is a callback like any other: it receives the events of the run. It has one run for a run directory,
which an interrupted run resumes; other settings begin another.

    tensorboard/            TensorBoard's files
    wandb/                  files of Weights & Biases, also in its offline mode
    trackers.json           the ids of the trackers' runs
"""

import hashlib
import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from capo.engine.events import Event, StageResult, TrainingStep, ValidationStep, calling
from capo.recipe import Recipe, dump_recipe
from capo.recipe.fields import Section
from capo.store import Run
from capo.store.check import Check, Finding
from capo.store.step import StageName, flatten

if TYPE_CHECKING:
    from PIL import Image

IDS = "trackers.json"
EVALUATED = 8
"""Evaluation prompts of which images are logged."""


def checks(recipe: Recipe, run: Run) -> list[Check]:
    """Checks that the packages of the trackers are installed, and that Weights & Biases has a key."""
    find = partial(_check_trackers, recipe)
    return [Check("trackers", stage, find, machine=True) for stage in get_args(StageName) if recipe.trackers]


def _check_trackers(recipe: Recipe) -> Iterator[Finding]:
    for name in recipe.trackers:
        if find_spec(name) is None:
            yield Finding(
                "trackers",
                f"{name} is not installed; pip install 'capo-diffusion[{name}]', or remove it from trackers",
            )
        elif name == "wandb" and not _can_log_in():
            yield Finding(
                "trackers",
                "wandb has no API key; run `wandb login`, or set WANDB_MODE=offline to log into the run "
                "directory, or remove it from trackers",
            )


def _can_log_in() -> bool:
    import wandb

    return wandb.setup().settings.mode != "online" or wandb.login(prompt=False, verify=False)


@contextmanager
def calling_trackers(recipe: Recipe, run: Run) -> Iterator[None]:
    """Pass the events of this process to the trackers of `recipe`; end them on leaving."""
    with ExitStack() as stack:
        trackers = [Tracking(name, recipe, run) for name in recipe.trackers]
        for tracker in trackers:
            stack.callback(tracker.close)
        stack.enter_context(calling(trackers))
        yield


class Tracking:
    """A callback that passes events on to one tracker. The first event opens it."""

    def __init__(self, name: str, recipe: Recipe, run: Run) -> None:
        from capo.pipeline.tracker_kinds import KINDS

        self._name, self._recipe, self._run = name, recipe, run
        self._kind = KINDS[name]
        self._tracker: Any = None
        self._step = 0

    def __call__(self, event: Event) -> None:
        """Log an event. Artifacts that were up to date are not logged again."""
        from capo.reporting.both_models import evaluated_images

        match event:
            case TrainingStep(step, measures):
                self._log("train", measures, step, training=True)
            case ValidationStep(step, measures):
                self._log("validation", measures, step, training=True)
                rows = [(shown.prompt, (shown.base, shown.policy)) for shown in event.images()]
                self._log_images("validation/images", rows, ("base", "policy"))
            case StageResult(name, skipped=False):
                train = self._run.artifact("train")
                step = max(self._step, train.summary["steps"] if train.done else 0)
                self._log(name, event.summary | {"seconds": event.seconds}, step)
                if name == "evaluate":
                    self._log_images(
                        "evaluate/images", evaluated_images(self._run, EVALUATED), ("base", "tuned")
                    )

    def close(self) -> None:
        """End the tracker, which sends what it holds back."""
        if self._tracker is not None:
            self._tracker.finish()

    def _log(self, group: str, values: Mapping[str, Any], step: int, *, training: bool = False) -> None:
        self._step = step
        tracker = self._opened(step if training else None)
        tracker.log(dict(_numbers(group, values)), step=step)

    def _log_images(
        self, title: str, rows: "Sequence[tuple[str, tuple[Image.Image, ...]]]", columns: Sequence[str]
    ) -> None:
        from capo.images.contact_sheet import SheetRow, contact_sheet

        if rows:
            sheet = contact_sheet([SheetRow(prompt, images) for prompt, images in rows], columns)
            self._kind.log_image(self._opened(None), title, sheet, self._step)

    def _opened(self, first_step: int | None) -> Any:
        from capo.pipeline.tracker_kinds import TrackedRun

        if self._tracker is None:
            ids = _read_ids(self._recipe, self._run)
            known = ids["runs"].get(self._name)
            tracked = TrackedRun(self._run.path.resolve(), self._recipe.name, ids["key"], known, first_step)
            self._tracker = self._kind.open(tracked)
            run_id = self._kind.run_id(self._tracker, tracked)
            if run_id != known:
                values = _flat(self._recipe)
                self._kind.log_recipe(self._tracker, values, dump_recipe(self._recipe))
                ids["runs"][self._name] = run_id
                self._run.write_text(IDS, json.dumps(ids, indent=2) + "\n")
        return self._tracker


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Return all fields of a recipe by dotted name; lists and nulls as JSON."""
    values = flatten("", recipe.model_dump(mode="json"))
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in values.items()
    }


def _numbers(group: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers among nested values as `group/name/name`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{group}/{name}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{group}/{name}", value


def _read_ids(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Return the ids of the trackers' runs: `settings`, `key`, and `runs` by tracker."""
    settings = hashlib.blake2b(json.dumps(_settings(recipe)).encode(), digest_size=16).hexdigest()
    file = run.path / IDS
    ids: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if ids.get("settings") != settings:
        ids = {"settings": settings, "key": secrets.token_hex(4), "runs": {}}
        run.write_text(IDS, json.dumps(ids, indent=2) + "\n")
    return ids


def _settings(value: Any) -> Any:
    """Return what of a recipe determines results, as JSON values."""
    if isinstance(value, Recipe):
        return {
            name: _settings(getattr(value, name)) for name in type(value).model_fields if name != "trackers"
        }
    if isinstance(value, Section):
        return value.results()
    return [_settings(item) for item in value] if isinstance(value, tuple) else value
