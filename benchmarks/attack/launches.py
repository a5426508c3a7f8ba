"""Processes of a launch, killed while they sample, score, train and validate.

Two processes of `torchrun` and two actors of a Ray cluster share a stage. One of them is killed, or the
process that started them. A lost actor is replaced; otherwise every process must end, and the same command
must resume to the bytes of an undisturbed launch.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from disks import without_report
from flips import copy_tree, without
from ground import command, digests, ground, surroundings
from tries import Try

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--")
SCORES = tuple(f"scores/{name}" for name in ("preference", "alignment", "aesthetic", "heldout"))
SECONDS = 900.0
"""Longer than any launch takes; one that takes longer hangs."""
ENDING = 120.0
"""Seconds for the processes of a killed launch to notice."""


@dataclass(frozen=True)
class Moment:
    """What a launch does when a process is killed."""

    name: str
    stage: str
    artifacts: tuple[str, ...]
    """What the stage makes."""
    sign: str
    """Pattern of the files whose first says that the moment has come."""


MOMENTS = (
    Moment("sampling", "generate", ("samples",), "samples/shard-*.parquet"),
    Moment("scoring", "score", SCORES, "scores/*/*.parquet"),
    Moment("training", "train", ("train", "validation"), "train/checkpoints/step-000002/state.json"),
    Moment("validating", "train", ("train", "validation"), "train/validation/step-*/*.parquet"),
)


def attack(folder: Path, moments: int = len(MOMENTS)) -> Iterator[Try]:
    """Kill processes of launches at the first so many moments; yields what became of every try."""
    yield from Launches(folder).killed(MOMENTS[:moments], TorchRun())
    if _has_ray():
        with ray_cluster() as address:
            yield from Launches(folder).killed(MOMENTS[:moments], RayCommand(address))


class TorchRun:
    """Two processes that `torchrun` starts."""

    name = "torchrun"
    survives = False
    """True if a launch replaces a lost process by itself."""

    def words(self, stage: str, run: Path) -> list[str]:
        """Return the command line of a stage."""
        return [sys.executable, *TORCHRUN, *command(stage, "--run", str(run))]

    def processes(self, launcher: int) -> list[psutil.Process]:
        """Return the processes that do the work, by rank."""
        return list(psutil.Process(launcher).children())


class RayCommand:
    """A command whose work two actors of a cluster do."""

    name = "Ray"
    survives = True

    def __init__(self, address: str) -> None:
        self._settings = {"executor": "ray", "address": address, "workers": "2", "device": "cpu"}

    def words(self, stage: str, run: Path) -> list[str]:
        """Return the command line of a stage."""
        settings = [w for name, value in self._settings.items() for w in ("--set", f"engine.{name}={value}")]
        return command(stage, "--run", str(run), *settings)

    def processes(self, launcher: int) -> list[psutil.Process]:
        """Return the actors, which are children of the cluster's nodes."""
        nodes = psutil.Process().children(recursive=True)
        return [each for each in nodes if _title(each).startswith(("ray::ShardHost", "ray::RankHost"))]


class Launches:
    """A run directory on which launches are killed."""

    def __init__(self, folder: Path) -> None:
        self.ground = ground(folder / "ground")
        self.run = folder / "launched"
        self.log = folder / "launch.log"

    def killed(self, moments: Sequence[Moment], kind: TorchRun | RayCommand) -> Iterator[Try]:
        """Kill a process that works, and the process that started it, at every moment."""
        expected: dict[str, dict[str, str]] = {}
        for moment in moments:
            if moment.stage not in expected:
                self._fill(moment)
                self._wait(self._start(moment, kind))
                expected[moment.stage] = self._made()
            for victim in ("a worker", "the launcher"):
                problem, outcome = self._kill(moment, kind, victim)
                problem = problem or self._resumed(moment, kind, expected[moment.stage])
                yield Try(f"{kind.name}: {victim} killed", f"while {moment.name}", problem, outcome)

    def _kill(self, moment: Moment, kind: TorchRun | RayCommand, victim: str) -> tuple[str, str]:
        """Kill a process at a moment; return what is wrong with the rest, and what became of the launch."""
        self._fill(moment)
        launched = self._start(moment, kind)
        until = time.monotonic() + SECONDS
        while launched.poll() is None and not list(self.run.glob(moment.sign)):
            time.sleep(0.01)
            if time.monotonic() > until:
                launched.kill()
                return f"nothing to kill after {SECONDS:.0f} s: {self._said()}", ""
        if launched.poll() is not None:
            return f"ended with {launched.returncode} before it was killed: {self._said()}", ""
        workers = kind.processes(launched.pid)
        if victim == "the launcher":
            launched.kill()
            launched.wait()
            return _left_running(workers), "all ended"
        if not workers:
            launched.kill()
            return "no worker to kill", ""
        workers[-1].kill()
        code = self._wait(launched, check=False)
        if kind.survives:
            return "" if code == 0 else f"the launch ended with {code}: {self._said()}", "replaced"
        named = re.search(r"\b(rank|process)\W+1\b", self.log.read_text(errors="replace"))
        return _left_running(workers) or ("" if named else f"not named: {self._said()}"), "all ended"

    def _resumed(self, moment: Moment, kind: TorchRun | RayCommand, expected: dict[str, str]) -> str:
        if code := self._wait(self._start(moment, kind), check=False):
            return f"the same command ended with {code}: {self._said()}"
        made = self._made()
        wrong = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
        return f"other bytes: {wrong[:5]}" if wrong else ""

    def _fill(self, moment: Moment) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        copy_tree(self.ground, self.run)
        for artifact in moment.artifacts:
            without(self.run, artifact)

    def _start(self, moment: Moment, kind: TorchRun | RayCommand) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            words = kind.words(moment.stage, self.run)
            return subprocess.Popen(words, env=surroundings(), stdout=log, stderr=log)

    def _wait(self, launched: subprocess.Popen[bytes], check: bool = True) -> int:
        code = launched.wait(timeout=SECONDS)
        if check and code:
            raise RuntimeError(f"a launch failed undisturbed: {self._said()}")
        return code

    def _made(self) -> dict[str, str]:
        return without_report(digests(self.run))

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-1500:].strip()


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Run a cluster of two nodes on this machine; yields its address."""
    os.environ.update(surroundings())
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def _has_ray() -> bool:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _left_running(processes: list[psutil.Process]) -> str:
    """End processes that still run after some time; return which."""
    _, alive = psutil.wait_procs(processes, timeout=ENDING)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)
    return f"{len(alive)} processes still run" if alive else ""
