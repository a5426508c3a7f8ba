"""Checks that this machine has what the section `engine` asks for, before a run."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

from capo.engine.device import select_device
from capo.engine.ray_executor import MISSING
from capo.recipe import EngineSection
from capo.store.check import Check, Finding
from capo.store.step import StageName


def engine_checks(engine: EngineSection, stage: StageName) -> list[Check]:
    """The checks that `stage` has the device and the executor that it runs on."""
    return [
        Check("engine.device", stage, partial(_check_device, engine), machine=True),
        Check("engine.executor", stage, partial(_check_executor, engine), machine=True),
    ]


def _check_device(engine: EngineSection) -> None:
    if engine.executor == "ray":
        return  # the device is that of the workers
    if engine.device not in ("auto", "cpu"):  # these always exist, and need no torch here
        select_device(engine)


def _check_executor(engine: EngineSection) -> Iterator[Finding]:
    if engine.executor == "ray" and find_spec("ray") is None:
        yield Finding("engine.executor", MISSING)
