"""Processes of a Ray cluster that work together, as those that `torchrun` starts do."""

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.engine.launch import processes
from capo.engine.lifeline import GRACE
from capo.engine.local_executor import LocalExecutor
from capo.engine.progress import say
from capo.engine.shard_host import redirect_output
from capo.engine.shard_work import Executor

POLL = 1.0
"""Seconds between two looks at the output of the main process."""

SETTLING = GRACE / 2
"""Seconds to wait for other processes after one returned an error. They may have been lost, which caused the
error; but once `GRACE` has passed, the error ends them."""

STARTS = 3
"""Starts before a lost process ends the launch: the first, and two more."""

Function = Callable[[Executor, Any], None]


class RankHost:
    """One of the processes."""

    def __init__(self, log: Path, folder: str, python_path: Sequence[str]) -> None:
        """What this process prints goes to the file `log`; the rest is as for `ShardHost`."""
        redirect_output(log)
        os.chdir(folder)
        sys.path += [path for path in python_path if path not in sys.path]

    def address(self) -> tuple[str, str]:
        """Return an address and a free port of this machine, at which all processes can meet."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), str(free.getsockname()[1])

    def call(self, environment: Mapping[str, str], device: str, function: bytes) -> str | None:
        """Join the other processes and call a pickled function with them; return the text of an error."""
        os.environ.update(environment)
        try:
            self._call(device, pickle.loads(function))
        except BaseException as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return None

    def _call(self, device: str, function: Function) -> None:
        from capo.engine.ranks import join_processes
        from capo.engine.ranks_executor import RanksExecutor

        with join_processes(device) as group:
            alone = group.size == 1
            function(LocalExecutor() if alone else RanksExecutor(group.store, processes()), None)


class RayLaunch:
    """Starts processes that call a function together."""

    def __init__(self, start: Callable[[Path], Any], logs: Path, device: str) -> None:
        """`start` starts a `RankHost` whose output goes to a file; `device` is `engine.device`."""
        self._start, self._logs, self._device = start, logs, device

    def call(self, function: Function, size: int) -> None:
        """Call a picklable `function` in `size` processes, again if one of them is lost.

        Shows the progress of the main one. Raises `RuntimeError` with the errors of the processes.
        """
        from ray.exceptions import RayError

        for start in range(1, STARTS + 1):
            logs = [self._logs / f"rank-{rank}.log" for rank in range(size)]
            with _Echo(logs[0]) as echo:
                try:
                    errors = self._call_once(function, logs, echo)
                except RayError as error:
                    if start == STARTS:
                        raise RuntimeError(f"a process was lost {STARTS} times; see {self._logs}") from error
                    say("a process was lost; starting again from what is kept")
                    continue
            if errors:
                lines = [f"  {logs[rank]}: {text}" for rank, text in errors.items()]
                raise RuntimeError("\n".join(["processes of the cluster failed:", *lines]))
            return

    def _call_once(self, function: Function, logs: Sequence[Path], echo: "_Echo") -> dict[int, str]:
        """Return the errors by rank; ends all processes."""
        import ray

        hosts = [self._start(log) for log in logs]
        try:
            address, port = ray.get(hosts[0].address.remote())
            calls = []
            for rank, host in enumerate(hosts):
                environment = {"RANK": str(rank), "WORLD_SIZE": str(len(hosts)), "LOCAL_RANK": "0"}
                environment |= {"LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": address, "MASTER_PORT": port}
                calls.append(host.call.remote(environment, self._device, pickle.dumps(function)))
            return _errors(calls, echo)
        finally:
            for host in hosts:
                ray.kill(host)


def _errors(calls: Sequence[Any], echo: "_Echo") -> dict[int, str]:
    """Wait for the calls of all ranks, but not long after one returned an error; return the errors by rank.

    Raises `RayError` when a process is lost.
    """
    import ray

    errors: dict[int, str] = {}
    waiting, end = list(calls), float("inf")
    while waiting and time.monotonic() < end:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=POLL)
        echo.read()
        for call in ready:
            if (text := ray.get(call)) is not None:
                errors[calls.index(call)] = text
                end = min(end, time.monotonic() + SETTLING)
    return dict(sorted(errors.items()))


class _Echo:
    """Prints here what another process adds to its log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = log.stat().st_size if log.is_file() else 0

    def __enter__(self) -> "_Echo":
        return self

    def __exit__(self, *error: object) -> None:
        self.read()

    def read(self) -> None:
        """Print what is new, in whole lines."""
        if not self._log.is_file():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines, _, _ = file.read().rpartition(b"\n")
        if lines:
            self._read += len(lines) + 1
            say(lines.decode(errors="replace"))
