"""Which executor makes the shards of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capo.engine.local_executor import LocalExecutor
from capo.engine.shard_work import Executor
from capo.recipe import EngineSection

LOGS = "logs"
"""The folder of a run directory that has the output of workers on other processes."""


@contextmanager
def open_executor(engine: EngineSection, directory: Path) -> Iterator[Executor]:
    """Return the executor that `engine` asks for, and end its workers on leaving.

    `directory` is the run directory. Raises `RuntimeError` if the executor's package is not installed.
    """
    if engine.executor != "ray":
        yield LocalExecutor()
        return
    from capo.engine.ray_executor import RayExecutor

    executor = RayExecutor(engine, directory.absolute() / LOGS)
    try:
        yield executor
    finally:
        executor.close()
