"""The executor of a Ray cluster: a worker on every GPU, of one machine or many, makes shards.

Ray places the workers and notices when one dies; nothing else is left to it. What is made is on record in the
run directory, which all machines share. Workers take part as soon as the cluster has room for them, so
machines may join and leave at any time.
"""

import logging
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from capo.engine.local_executor import LocalExecutor, progress_of
from capo.engine.progress import Bar, say
from capo.engine.ray_launch import RankHost, RayLaunch
from capo.engine.shard_host import Failed, ShardHost
from capo.engine.shard_queue import ShardQueue
from capo.engine.shard_work import Executor, Failure, OnDone, ShardsFailed, Work, ignore
from capo.recipe import EngineSection

T = TypeVar("T")

MISSING = "ray is not installed; pip install 'capo-diffusion[ray]', or set it to auto"
"""What is wrong with `engine.executor` without the package."""

AHEAD = 2
"""Shards that a worker has: one in the making, and one for it to begin without waiting."""

POLL = 1.0
"""Seconds between two looks at the number of workers, unless something happens."""

SILENCE = 300.0
"""Seconds without an answer after which a worker is given up."""

CLOSING = 60.0
"""Seconds to wait for workers to release what they hold."""

OPENINGS = 3
"""Workers that may fail to open a work, one after another, before the run ends."""


@dataclass
class _Worker:
    """A worker as the main process sees it."""

    name: str
    actor: Any
    log: Path
    where: str = ""
    """Its process and host; empty until it runs."""
    ready: bool = False
    """True when it has opened the work."""
    busy: list[int] = field(default_factory=list)
    """The shards it has, in the order in which it makes them."""
    sign: tuple[Any, float] | None = None
    """A call that it answers at once whatever it does, and when that was made."""


class RayExecutor:
    """Makes shards on the workers of a Ray cluster, and replaces workers that die.

    A shard that fails three times is set aside while all others are made; `ShardsFailed` then names it.
    """

    def __init__(self, engine: EngineSection, logs: Path) -> None:
        """`logs` is the folder for the output of the workers, on a file system that all machines share."""
        self._engine, self._logs = engine, logs
        self._workers: list[_Worker] = []
        self._named = 0
        self._resources: Mapping[str, float] = {}

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ignore, *, held: Any = None) -> None:
        """Make all `shards`; work on something that only this process holds is done here."""
        if held is not None or not shards:
            LocalExecutor().run(work, shards, on_done, held=held)
            return
        if work.resources != self._resources:
            self.close()  # the present workers occupy the cluster
            self._resources = work.resources
        with progress_of(work, shards) as bar:
            run = _RayRun(self, work, ShardQueue(shards), on_done, bar)
            try:
                run.until_finished()
            except BaseException:
                self.close()  # workers may be in the middle of a shard
                raise
        self._release()
        if run.shards.failures:
            raise ShardsFailed(work, run.shards.failures)

    def call_all(self, function: Callable[[Executor, Any], None], shares: int = 1) -> bool:
        """Call `function` in processes of the cluster, one per worker that the recipe wants, up to `shares`.

        The main process takes no part, since its machine may have no GPU.
        """
        self.close()  # the workers occupy the GPUs
        self.connect()
        size = max(n for n in range(1, min(self._wanted(), shares) + 1) if shares % n == 0)
        RayLaunch(self._start_rank, self._logs, self._engine.device).call(function, size)
        return False

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make`."""
        return make()

    def free_memory(self, engine: EngineSection) -> int:
        """Return the least memory that a worker's device has free, of the workers that run."""
        ray = self.connect()
        asked: dict[Any, _Worker] = {}
        lost = 0
        while True:
            known = {worker.name for worker in asked.values()}
            for worker in self.workers():
                if worker.name not in known:
                    asked[worker.actor.free_memory.remote(engine)] = worker
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=POLL)
            free = []
            for answer in ready:
                try:
                    free.append(ray.get(answer))
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    worker, lost = asked.pop(answer), lost + 1
                    self.drop(worker)
                    if lost >= OPENINGS:
                        raise RuntimeError(f"{worker.name}, {worker.log}: {_death(error)}") from error
            if free:
                return min(free)

    def close(self) -> None:
        """End all workers."""
        if not self._workers:
            return  # ray may be unused, or not even installed
        import ray

        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()

    def workers(self) -> "list[_Worker]":
        """Return as many workers as the recipe wants, some of which may not run yet."""
        self.connect()
        while len(self._workers) < self._wanted():
            self._workers.append(self._start())
        return self._workers

    def drop(self, worker: _Worker) -> None:
        """Give up a worker; another one takes its place."""
        import ray

        self._workers.remove(worker)
        ray.kill(worker.actor)

    def _release(self) -> None:
        """Let the workers release the models of the work that is over."""
        import ray

        closing = [worker.actor.close.remote() for worker in self._workers if worker.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING)
        for worker in self._workers:
            worker.ready = False

    def connect(self) -> ModuleType:
        """Return `ray`, connected to the cluster; raises `RuntimeError` if it is not installed."""
        try:
            import ray
        except ImportError as error:
            raise RuntimeError(f"engine.executor: {MISSING}") from error
        if ray.is_initialized():
            return ray
        address = None if self._engine.address == "local" else self._engine.address
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise RuntimeError(
                f"engine.address: {self._engine.address}: {error}. Start Ray on the machines of the cluster "
                "(`ray start --head`, and `ray start --address HOST:6379` on the others), or set it to "
                "`local` to use this machine alone"
            ) from error
        return ray

    def _wanted(self) -> int:
        """The number of workers: by default, one for every GPU that the cluster has now."""
        import ray

        if self._engine.workers is not None:
            return self._engine.workers
        resources = ray.cluster_resources()
        return max(1, int(resources.get("GPU" if self._uses_gpus else "CPU", 0)))

    @property
    def _uses_gpus(self) -> bool:
        import ray

        device = self._engine.device
        return device == "cuda" or (device == "auto" and "GPU" in ray.cluster_resources())

    def _start(self) -> _Worker:
        import ray

        self._named += 1
        name = f"ray-{self._named}"
        log = self._logs / f"{name}.log"
        host = ray.remote(ShardHost).options(max_concurrency=AHEAD + 3, **self._room(self._resources))
        return _Worker(name, host.remote(name, log, str(Path.cwd()), sys.path), log)

    def _start_rank(self, log: Path) -> Any:
        import ray

        host = ray.remote(RankHost).options(**self._room({}))
        return host.remote(log, str(Path.cwd()), sys.path)

    def _room(self, resources: Mapping[str, float]) -> dict[str, Any]:
        """Return the options of an actor that takes `resources` of the cluster; one GPU or CPU if empty."""
        wanted = dict(resources) or ({"GPU": 1.0} if self._uses_gpus else {"CPU": 1.0})
        return {
            "num_gpus": wanted.pop("GPU", 0),
            "num_cpus": wanted.pop("CPU", 0),
            "resources": wanted,
            "max_restarts": 0,
        }


class _RayRun:
    """One work, while it is being made."""

    def __init__(
        self, executor: RayExecutor, work: Work, shards: ShardQueue, on_done: OnDone, bar: Bar
    ) -> None:
        self._ray = executor.connect()
        self.shards = shards
        self._executor, self._work, self._on_done, self._bar = executor, work, on_done, bar
        self._sent = self._ray.put(pickle.dumps(work))
        self._calls: dict[Any, tuple[_Worker, int | None]] = {}
        """What is awaited: from which worker, and which shard; None for opening the work."""
        self._unopened: list[Failure] = []
        """The workers that failed to open the work since one succeeded."""
        self._listened = 0.0
        """When workers were last asked for a sign of life."""

    def until_finished(self) -> None:
        while not self.shards.finished:
            self._employ()
            self._listen()
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=POLL)
            for call in ready:
                if call in self._calls:  # a lost worker's other calls are gone
                    self._receive(call, *self._calls.pop(call))

    def _employ(self) -> None:
        """Give every worker something to do."""
        workers = self._executor.workers()
        opening = {worker.name for worker, shard in self._calls.values() if shard is None}
        for worker in workers:
            if not worker.ready and worker.name not in opening:
                self._calls[worker.actor.open.remote(self._sent)] = worker, None
            while worker.ready and len(worker.busy) < AHEAD:
                shard = self.shards.next(worker.busy)
                if shard is None:
                    break
                worker.busy.append(shard)
                self._calls[worker.actor.make.remote(shard)] = worker, shard
        running = sum(worker.ready for worker in workers)
        self._bar.note(f"{running} of {len(workers)} workers")

    def _listen(self) -> None:
        """Give up workers whose processes are stopped or hang; Ray notices only those that end."""
        now = time.monotonic()
        if now - self._listened < POLL:
            return
        self._listened = now
        for worker in list(self._executor.workers()):
            if not worker.where:
                continue  # may be waiting for room in the cluster
            if worker.sign is None:
                worker.sign = worker.actor.is_alive.remote(), now
            elif self._ray.wait([worker.sign[0]], timeout=0)[0]:
                worker.sign = None
            elif now - worker.sign[1] > SILENCE:
                self._lose(worker, RuntimeError(f"the worker gave no sign of life for {SILENCE:.0f} s"))

    def _receive(self, call: Any, worker: _Worker, shard: int | None) -> None:
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._lose(worker, _death(error))
            return
        if isinstance(answer, Failed):
            if shard is None:
                self._lose(worker, answer.error)
            else:
                self._failed(worker, answer)
        elif shard is None:
            worker.ready, worker.where = True, answer
            self._unopened.clear()
        else:
            worker.busy.remove(shard)
            self.shards.made(shard)
            self._bar.advance(self._work.size(shard))
            self._on_done(answer)

    def _failed(self, worker: _Worker, failed: Failed) -> None:
        """Take back the shards that overlapped when one of them failed."""
        self._forget(worker, failed.shards)
        self.shards.failed(failed.shards, f"{worker.where}, {worker.log}", failed.error)

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """Take back the shards of a worker that is gone. Raises `ShardsFailed` if none can be opened."""
        self._executor.drop(worker)
        busy = tuple(worker.busy)
        self._forget(worker, busy)
        if worker.ready:
            self.shards.failed(busy, f"{worker.where}, {worker.log}", error)
            return
        self._unopened.append(Failure((), f"{worker.name}, {worker.log}", error))
        if len(self._unopened) >= OPENINGS:
            raise ShardsFailed(self._work, self._unopened)
        say(f"{self._work.title}: {worker.name} could not start ({error}); trying another worker")

    def _forget(self, worker: _Worker, shards: Sequence[int]) -> None:
        """Await no answers about `shards` from a worker."""
        worker.busy = [shard for shard in worker.busy if shard not in shards]
        gone = [call for call, (w, s) in self._calls.items() if w is worker and (s is None or s in shards)]
        for call in gone:
            del self._calls[call]


def _death(error: Exception) -> RuntimeError:
    """Return what Ray says of the death of a worker, without its ids."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    return RuntimeError(f"the worker died: {' '.join(lines) or type(error).__name__}")
