"""Kills at random times, at every failpoint and at every step, and what else may come between.

Whenever a command is stopped, the same command must resume to the bytes of an undisturbed run.
"""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from disks import STAGES, without_report
from flips import copy_tree, without
from forks import Ended, Running, fork, import_all, modules, prepare, start
from ground import digests, ground, recipe_arguments, surroundings
from tries import Try

KILLS = 40
"""Kills of whole runs."""

LONGEST = 5.0
"""A process is killed after at most as many seconds of processor time, which other work does not stretch."""

SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT)


def attack(folder: Path, kills: int = KILLS) -> Iterator[Try]:
    """Kill and disturb commands; yields what became of every try."""
    prepare()
    killed = Killed(folder)
    for theme in (
        killed.failpoints,
        killed.steps,
        killed.locks,
        killed.changes,
        killed.numbers,
        killed.memory,
    ):
        yield from _reported(theme())
    yield from _reported(killed.whole_runs(kills))


def _reported(tries: Iterator[Try]) -> Iterator[Try]:
    for one in tries:
        print(f"{one.case}, {one.what}: {one.outcome if not one.problem else 'FAILED'}", flush=True)
        yield one


class Killed:
    """A run directory in which commands are disturbed, and the bytes of the undisturbed run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "killed"
        self.logs = folder / "logs"
        self.ground = ground(folder / "ground")
        self.expected = without_report(digests(self.ground))
        self.recipe = (self.ground / "recipe.yaml").read_bytes()
        self.cache = {"CAPO_CACHE": str(folder / "cache")}
        self.fill("pairs", "report")
        for words in (["pair"], ["report"], ["run"]):
            self.capo(*words)
            import_all(modules(self.logs))

    def fill(self, *missing: str) -> None:
        """Copy the finished run, without some artifacts."""
        copy_tree(self.ground, self.run)
        for artifact in missing:
            without(self.run, artifact)

    def start(self, *words: str, **environment: str) -> Running:
        """Start a command on the run."""
        return start([*words, "--run", str(self.run)], self.logs, **self.cache | environment)

    def capo(self, *words: str, **environment: str) -> Ended:
        """Run a command on the run."""
        return fork([*words, "--run", str(self.run)], self.logs, **self.cache | environment)

    def failpoints(self) -> Iterator[Try]:
        """Kill calibration and pairing at every failpoint."""
        count = self.folder / "count"
        self.fill("pairs")
        self.capo("pair", CAPO_FAILPOINT_COUNT=str(count))
        for k in range(1, int(count.read_text()) + 1):
            self.fill("pairs")
            code = self.capo("pair", CAPO_FAILPOINT=str(k)).code
            problem = self.resumed("pair") if code == -signal.SIGKILL else f"ended with {code}"
            yield Try("SIGKILL at every failpoint of `pair`", f"failpoint {k}", problem, "equal")

    def steps(self) -> Iterator[Try]:
        """Kill training as each of its checkpoints appears."""
        settings = ("--set", "train.checkpoint_every=1", "--set", "train.validation_prompts=null")
        self.fill("train")
        self.capo("train", *settings)
        expected = without_report(digests(self.run))
        for step in (1, 2, 3):
            self.fill("train")
            running = self.start("train", *settings)
            state = self.run / f"train/checkpoints/step-{step:06d}/state.json"
            while not running.over and not state.exists():
                time.sleep(0.001)
            running.signal(signal.SIGKILL)
            running.wait()
            problem = self.resumed("train", *settings, expected=expected)
            yield Try("SIGKILL at every step of training", f"step {step}", problem, "equal")

    def locks(self) -> Iterator[Try]:
        """Run two commands at once, the first one stopped, and leave the locks of dead processes."""
        self.fill("samples", "pairs")
        first = self.start("generate")
        while not first.over and not list(self.run.glob("samples/*.parquet")):
            time.sleep(0.002)
        first.signal(signal.SIGSTOP)
        for words in (["generate"], ["run"], ["pair"]):
            second = fork([*words, "--run", str(self.run)], self.folder / "second", **self.cache)
            wanted = f"in use by process {first.child}"
            problem = "" if second.code == 1 and wanted in second.err else f"{second.code}: {second.err}"
            yield Try("two commands on one run", f"second: {' '.join(words)}", problem, "rejected by pid")
        first.signal(signal.SIGCONT)
        ended = first.wait()
        problem = ended.err if ended.code else self.resumed("pair")
        yield Try("two commands on one run", "first", problem, "equal")
        alive = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0}
        locks = {
            "dead process": json.dumps({"id": "x", "beat": "1", **alive, "pid": 2**22 - 1}),
            "another process with its pid": json.dumps({"id": "x", "beat": "1", **alive}),
            "garbage": "\x00\xff{",
            "another host": json.dumps({"id": "x", "beat": "1", **alive, "host": "elsewhere"}),
        }
        for name, text in locks.items():
            self.fill("pairs")
            (self.run / ".lock").write_text(text)
            yield Try("stale lock", name, self.resumed("pair"), "taken over")

    def changes(self) -> Iterator[Try]:
        """Change settings between a stop and the resume."""
        for setting, line in {
            "train.beta=20": "train.beta: 15.0 → 20.0",
            "seed=1": "seed: 0 → 1",
            "generate.guidance_scale=2": "generate.guidance_scale: 1.0 → 2.0",
            "pairs.selection=frontier": "pairs.selection: sum → frontier",
        }.items():
            self.fill("report")
            ended = self.capo("run", "--set", setting)
            problem = "" if ended.code == 1 and line in ended.err else f"code {ended.code}: {ended.err}"
            yield Try("changed settings", setting, problem or self.resumed("run"), "rejected by name, kept")

    def numbers(self) -> Iterator[Try]:
        """Train with numbers that explode, and merge policies that are equal, opposite or of other kinds."""
        self.fill("train")
        ended = self.capo(
            "train", "--set", "train.learning_rate=1e30", "--set", "train.validation_prompts=null"
        )
        named = ended.code == 1 and "not finite" in ended.err and "prompt" in ended.err
        problem = (
            "" if named and not (self.run / "train/best").exists() else f"{ended.code}: {ended.err[-900:]}"
        )
        yield Try("values that are not finite", "learning rate 1e30", problem, "stopped, no policy written")
        (self.run / "recipe.yaml").write_bytes(self.recipe)  # without the rate, which the run has saved
        problem = self.resumed("train", "--force")
        yield Try("values that are not finite", "trained again", problem, "equal")
        yield from self.soups()

    def soups(self) -> Iterator[Try]:
        """Merge policies that are equal, opposite, or of another architecture."""
        self.fill()
        soup, one = self.folder / "soup", str(self.run)
        flow = str(Path(surroundings()["PYTHONPATH"]) / "capo/shapes/checkpoints/flow")
        cases = {
            "equal policies, slerp": ([one, one], 0),
            "equal policies, linear": ([one, one, "--interpolation", "linear"], 0),
            "weights that cancel": ([one, one, "--weights", "1,-1"], 2),
            "weights of zero": ([one, one, "--weights", "0,0"], 2),
            "another architecture": ([one, flow], 1),
        }
        for name, (words, code) in cases.items():
            shutil.rmtree(soup, ignore_errors=True)
            ended = fork(["soup", *words, "--to", str(soup)], self.logs, **self.cache)
            bad = "Traceback" in ended.err or (ended.code != 0) != (code != 0)
            yield Try("soups", name, f"{ended.code}: {ended.err[-900:]}" if bad else "", "defined")

    def memory(self) -> Iterator[Try]:
        """Let training and sampling run out of memory."""
        for stage, megabytes in (("train", 60), ("generate", 24)):
            self.fill(*STAGES[stage])
            ended = self.capo(stage, ATTACKED_BYTES=str(megabytes << 20))
            orderly = ended.code == 1 and "Traceback" not in ended.err and "memory" in ended.err.lower()
            problem = "" if orderly else f"code {ended.code}: {ended.err[-900:]}"
            yield Try("out of memory", stage, problem or self.resumed(stage), "named, resumed to equal bytes")

    def whole_runs(self, kills: int) -> Iterator[Try]:
        """Kill whole runs at random times, several times each, until there were enough kills."""
        drawn = random.Random(0)
        done = 0
        for number in itertools.count():
            shutil.rmtree(self.run, ignore_errors=True)
            here, problem = 0, ""
            while not problem:
                running = start(recipe_arguments(self.run), self.logs, **self.cache)
                limit = drawn.uniform(0.0, LONGEST) if done < kills else float("inf")
                while not running.over and running.cpu_seconds < limit:
                    time.sleep(0.001)
                if running.over:
                    ended = running.wait()
                    problem = ended.err if ended.code else self.difference(self.expected)
                    break
                sent = drawn.choice(SIGNALS)
                running.signal(sent)
                problem = _wrong_end(sent, running.wait())
                done, here = done + 1, here + 1
            yield Try("whole runs killed", f"run {number}, {here} kills", problem, "equal")
            if done >= kills or problem:
                yield Try("kills of whole runs", f"{done} kills over {number + 1} runs", "", f"{done} kills")
                return

    def resumed(self, *words: str, expected: dict[str, str] | None = None) -> str:
        """Run the command to its end; return what is wrong with it or with its bytes."""
        ended = self.capo(*words)
        if ended.code:
            return f"the same command failed with {ended.code}: {ended.err[-900:]}"
        return self.difference(expected or self.expected)

    def difference(self, expected: dict[str, str]) -> str:
        """Name the files that differ from the undisturbed run's."""
        made = without_report(digests(self.run))
        wrong = sorted(n for n in made.keys() | expected.keys() if made.get(n) != expected.get(n))
        return f"other bytes: {wrong}" if wrong else ""


def _wrong_end(sent: int, ended: Ended) -> str:
    """Return what is wrong with how a command ended after a signal; it may have ended before."""
    if sent == signal.SIGKILL:
        return "" if ended.code in (-signal.SIGKILL, 0) else f"ended with {ended.code}"
    interrupted = ended.code == 130 and "To resume:" in ended.err
    starting = ended.code in (-sent, 130) and not ended.err.strip()
    return "" if interrupted or starting or ended.code == 0 else f"code {ended.code}: {ended.err[-900:]}"
