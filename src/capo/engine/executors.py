"""Choosing the executor that a recipe and the launch ask for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capo.engine.launch import COMMAND, LaunchError, Processes, processes
from capo.engine.local_executor import LocalExecutor
from capo.engine.shard_work import Executor
from capo.recipe import EngineSection

LOGS = "logs"
"""The folder of a run directory that has the output of workers on other processes."""


@contextmanager
def open_executor(engine: EngineSection, directory: Path) -> Iterator[Executor]:
    """Yield the executor that `engine.executor` selects for the processes of this command.

    Ends its workers on leaving. `directory` is the run directory. Raises `LaunchError` if the processes that
    a launcher started contradict the executor, and `RuntimeError` if its package is not installed.
    """
    started = processes()
    _check(engine.executor, started)
    if engine.executor == "ray":
        from capo.engine.ray_executor import RayExecutor

        executor = RayExecutor(engine, directory.absolute() / LOGS)
        try:
            yield executor
        finally:
            executor.close()
    elif started.size == 1:
        yield LocalExecutor()
    else:
        from capo.engine.ranks import join_processes
        from capo.engine.ranks_executor import RanksExecutor

        with join_processes(engine.device) as group:
            yield RanksExecutor(group.store, started)


def _check(wanted: str, started: Processes) -> None:
    if started.size > 1 and wanted in ("local", "ray"):
        raise LaunchError(
            f"engine.executor is {wanted}, but the launcher started {started.size} processes; set it to "
            "auto, or start one process without a launcher"
        )
    if wanted == "ranks" and not started.launched:
        raise LaunchError(f"engine.executor is ranks, but no launcher started this process; use `{COMMAND}`")
