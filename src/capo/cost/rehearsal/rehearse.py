"""Rehearse a recipe: run it small, measure it, and project the whole run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import pipeline
from capo.cost.gpus import find_device
from capo.cost.plan import Plan, plan_run
from capo.cost.plan.counts import count_sampling
from capo.cost.plan.wall_clock import StageTime, wall_clock
from capo.cost.plan.work import Stage
from capo.cost.rehearsal.meter import MeasuredPart, Meter
from capo.cost.rehearsal.projection import PartSpeed, part_speed, project
from capo.cost.rehearsal.small_recipe import small_recipe
from capo.engine.progress import listening, say
from capo.pipeline import PreflightError
from capo.recipe import Recipe
from capo.store import Run

UTILIZATION = 0.4
"""Share of the peak speed that the plan next to the projection assumes."""


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal measured, and what it says about the whole run."""

    recipe: str
    device: str
    """As the device calls itself."""
    devices: int
    """GPUs of this machine; 1 without any."""
    seconds: float
    """Of the whole rehearsal."""
    parts: list[PartSpeed]
    artifacts: dict[str, float]
    """Seconds by artifact."""
    projected: list[Stage]
    """The stages of the whole run, in hours on one device."""
    times: list[StageTime]
    """The same on all devices of this machine."""
    plan: Plan | None
    """The plan for this GPU; None if its peak speed is not known."""

    @property
    def hours(self) -> float:
        """Projected hours of all stages on one device."""
        return sum(stage.hours for stage in self.projected)


def rehearse(recipe: Recipe) -> Rehearsal:
    """Run all stages with two prompts in a scratch directory, which is removed unless a stage fails.

    Raises `PreflightError` for what would stop the whole run, and `RuntimeError` naming the directory if a
    stage fails.
    """
    with _scratch() as folder:
        _, findings = pipeline.check_run(recipe, folder)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            raise PreflightError(errors)
        small, meter = small_recipe(recipe), Meter()
        with listening(meter), _no_cached_scores():
            pipeline.run(small, folder)
        timings = Run(folder).timings()
    return _report(recipe, small, list(meter.parts.values()), timings)


def _report(
    recipe: Recipe, small: Recipe, parts: list[MeasuredPart], timings: dict[str, dict[str, Any]]
) -> Rehearsal:
    device = next(timing["device"] for timing in reversed(timings.values()))
    gpu = find_device(device)
    plan = plan_run(recipe, gpu or "h100", UTILIZATION)
    projected = project(recipe, plan, small, parts, count_sampling(small))
    devices = _devices()
    artifacts = {name: timing["seconds"] for name, timing in timings.items()}
    return Rehearsal(
        recipe=recipe.name,
        device=device,
        devices=devices,
        seconds=sum(artifacts.values()),
        parts=[part_speed(small, part) for part in parts],
        artifacts=artifacts,
        projected=projected,
        times=wall_clock(recipe, plan.prompts, projected, devices, None),
        plan=plan if gpu else None,
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a new directory; it is kept if the work in it fails, which the error then says."""
    folder = Path(tempfile.mkdtemp(prefix="capo-rehearsal-"))
    try:
        yield folder
    except PreflightError:
        shutil.rmtree(folder)
        raise
    except KeyboardInterrupt:
        say(f"The rehearsal is kept in {folder}")
        raise
    except Exception as error:
        raise RuntimeError(f"{error}\nThe rehearsal is kept in {folder}") from error
    shutil.rmtree(folder)


@contextmanager
def _no_cached_scores() -> Iterator[None]:
    """Compute all scores: cached ones would take no time, and those of rehearsals are of no later use."""
    name = "CAPO_SCORE_CACHE"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())
