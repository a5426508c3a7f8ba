"""Run everything that needs a GPU within nine minutes, the most valuable first.

    gpu_day.py results                 on a GPU
    gpu_day.py results --tiny          every part on the CPU with tiny models
    gpu_day.py results --part score    only this part; repeat for several

Every part is a process with a time limit. `results/PART.json` has what a part has measured so far, even if it
is killed or fails, and `results/table.md` the table for docs/evidence/performance.md. A part or a case that
fails does not stop the others.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_day_table import table

from capo.cost.bench import BenchPart

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 9.0
LEAST_SECONDS = 5.0
"""A part that would get less time is not started."""
KILL_SECONDS = 5.0
"""The most that a killed part is waited for: a hanging driver can keep its process from ending."""
OUTPUT = 4000
"""Last characters of a part's output that are kept."""


@dataclass(frozen=True)
class Settings:
    """How the parts run: where they write, and whether tiny models on the CPU stand in for real ones."""

    out: Path
    work: Path
    """A folder for what is not a result."""
    tiny: bool


@dataclass(frozen=True)
class Measured:
    """One call of `capo bench`."""

    part: BenchPart
    architecture: str
    cases: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    repeats: int = 3
    attention: str | None = None
    """Kernel of torch's attention: flash, cudnn or efficient; its own choice if None."""


IMAGES = ("generate.num_inference_steps=10", "generate.samples_per_prompt=4")
FOUR = ("conventional", "conventional, batches of 4", "batches of 4")
BENCHES: dict[str, tuple[Measured, ...]] = {
    "train-sdxl": (
        Measured(
            BenchPart.TRAIN, "sdxl", ("conventional", "LoRA", "LoRA, checkpointing", "full, checkpointing")
        ),
        Measured(BenchPart.TRAIN, "sdxl", ("LoRA",), ("model.channels_last=true",)),
        Measured(BenchPart.TRAIN, "sdxl", ("conventional", "LoRA"), ("train.global_batch_size=8",)),
        Measured(BenchPart.TRAIN, "sdxl", ("LoRA, compiled",)),
    ),
    "train-sd3": (
        Measured(BenchPart.TRAIN, "sd3", ("conventional", "LoRA", "LoRA, checkpointing")),
        Measured(BenchPart.TRAIN, "sd3", ("LoRA",), ("train.global_batch_size=8",)),
        Measured(BenchPart.TRAIN, "sd3", ("LoRA, compiled",)),
    ),
    "generate": (
        Measured(BenchPart.GENERATE, "sdxl", FOUR, IMAGES, 1),
        Measured(BenchPart.GENERATE, "sd3", FOUR, IMAGES, 1),
        Measured(BenchPart.GENERATE, "sdxl", FOUR[2:], (*IMAGES, "model.channels_last=true"), 1),
        *(
            Measured(BenchPart.GENERATE, "sd3", FOUR[2:], IMAGES, 1, attention)
            for attention in ("cudnn", "flash", "efficient")
        ),
        Measured(
            BenchPart.GENERATE, "sdxl", ("batches of 16",), (IMAGES[0], "generate.samples_per_prompt=16"), 1
        ),
        Measured(BenchPart.GENERATE, "sd3", FOUR[2:], (*IMAGES, "model.compile=true"), 1),
        Measured(BenchPart.GENERATE, "sdxl", FOUR[2:], (*IMAGES, "model.compile=true"), 1),
    ),
    "score": (Measured(BenchPart.SCORE, "sdxl", (), (), 2),),
}
TINY_BENCHES: dict[str, tuple[Measured, ...]] = {
    "train-sdxl": (
        Measured(BenchPart.TRAIN, "tiny-sdxl", ("conventional", "LoRA"), ("train.global_batch_size=1",), 1),
    ),
    "train-sd3": (Measured(BenchPart.TRAIN, "tiny-sd3", ("LoRA",), ("train.global_batch_size=1",), 1),),
    "generate": (
        Measured(
            BenchPart.GENERATE,
            "tiny-sd3",
            ("conventional", "conventional, batches of 2", "batches of 2"),
            ("generate.num_inference_steps=2", "generate.samples_per_prompt=2"),
            1,
        ),
    ),
    "score": (Measured(BenchPart.SCORE, "tiny-sdxl", (), (), 1),),
}
TINY_IMAGES = 4
"""Images that tiny rewards score."""
TINY_WORLD = (
    "prompts.count=4", "generate.samples_per_prompt=2", "generate.num_inference_steps=2", "train.steps=2",
    "train.global_batch_size=2", "train.validation_prompts=null", "evaluate.prompts.count=2",
    "evaluate.samples_per_prompt=2", "pairs.selection=sum", "train.warmup_steps=0",
)  # fmt: skip


TEST_SECONDS = 60
"""The most that one test may take, so that one that hangs does not take the time of all."""
TEST_LINE = re.compile(r"^\S+::(?P<test>\S+) (?P<outcome>PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)")
FAILURE_LINE = re.compile(r"^(?:FAILED|ERROR) \S+::(?P<test>\S+) - (?P<why>.*)")


def run_tests(settings: Settings) -> dict[str, Any]:
    """The tests that need CUDA; their outcomes are written one by one."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_SECONDS}", str(ROOT / "tests" / "cuda")]
    command += ["-k", "first_agree or finite"] if settings.tiny else []
    environment = os.environ | ({"CAPO_TEST_DEVICE": "cpu"} if settings.tiny else {})
    cases: dict[str, dict[str, str]] = {}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if ended := TEST_LINE.match(line):
                cases[ended["test"]] = {"test": ended["test"], "outcome": ended["outcome"].lower(), "why": ""}
            elif (failure := FAILURE_LINE.match(line)) and failure["test"] in cases:
                cases[failure["test"]]["why"] = failure["why"][:500]
            else:
                continue
            found = {"part": "tests", "state": "running", "tests": [*cases.values()]}
            write(settings.out / "tests.json", found)
    return {"exit code": process.returncode, "tests": [*cases.values()]}


def run_world(settings: Settings) -> dict[str, Any]:
    """The embedded recipe, from prompts to the report; the seconds of its stages are written one by one."""
    run = settings.work / "shapes"
    changes = [f"--set={change}" for change in (TINY_WORLD if settings.tiny else ())]
    changes.append(f"--set=engine.device={'cpu' if settings.tiny else 'cuda'}")
    command = [sys.executable, "-m", "capo", "run", "shapes", "--run", str(run), *changes]
    timings = run / "timings.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.5)
            if timings.exists():
                found = {"part": "world", "state": "running", "timings": _json_lines(timings)}
                write(settings.out / "world.json", found)
    if process.returncode:
        raise SystemExit(f"capo run ended with {process.returncode}")
    results = json.loads((run / "evaluate" / "results.json").read_text())
    return {"timings": _json_lines(timings), "results": results}


def _json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(name: str) -> Callable[[Settings], dict[str, Any]]:
    """A part of `BENCHES`, which writes its results after every case."""

    def run(settings: Settings) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        path = settings.out / f"{name}.json"
        for measured in (TINY_BENCHES if settings.tiny else BENCHES)[name]:
            found.append({})
            try:
                for found[-1] in _benchmarks(measured, settings):
                    write(path, {"part": name, "state": "running", "benchmarks": found})
            except Exception as error:  # a kernel that a device lacks must not cost the other cases
                traceback.print_exc()
                found[-1] = found[-1] | {"error": f"{_words(measured)}: {type(error).__name__}: {error}"}
                write(path, {"part": name, "state": "running", "benchmarks": found})
        return {"benchmarks": found}

    return run


def _words(measured: Measured) -> str:
    attention = [f"{measured.attention} attention"] if measured.attention else []
    return " ".join([measured.architecture, *measured.overrides, *attention])


def _benchmarks(measured: Measured, settings: Settings) -> Iterator[dict[str, Any]]:
    from capo.cost.bench import scoring_speed
    from capo.cost.bench.benchmark import bench

    if settings.tiny:
        scoring_speed.IMAGES = TINY_IMAGES
    overrides = [*measured.overrides]
    drawn: AbstractContextManager[None] = nullcontext()
    if measured.part == BenchPart.SCORE:
        drawn, rewards = _random_rewards(settings)
        overrides.append(f"rewards={json.dumps(rewards)}")
    overrides.append(f"engine.device={'cpu' if settings.tiny else 'cuda'}")
    with _attention(measured.attention), drawn:
        for result in bench(
            measured.part, measured.architecture, None, overrides, measured.repeats, measured.cases
        ):
            yield asdict(result) | {"changes": [*measured.overrides], "attention": measured.attention}


def _random_rewards(settings: Settings) -> tuple[AbstractContextManager[None], list[dict[str, Any]]]:
    import torch
    from random_rewards import clip_h, llava_7b, weights_drawn_on

    device = torch.device("cpu" if settings.tiny else "cuda")
    places = {"clip-h": ("pickscore", clip_h), "vlm-7b": ("vqascore", llava_7b)}
    rewards = [
        {"name": name, "source": source, "checkpoint": str(write(settings.work / name, settings.tiny))}
        for name, (source, write) in places.items()
    ]
    return weights_drawn_on(device), rewards


def _attention(kernel: str | None) -> AbstractContextManager[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kernel is None:
        return nullcontext()
    kinds = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    return sdpa_kernel(kinds[kernel])


PARTS: dict[str, tuple[Callable[[Settings], dict[str, Any]], float]] = {
    "tests": (run_tests, 110),
    "world": (run_world, 90),
    "train-sdxl": (measure("train-sdxl"), 170),
    "train-sd3": (measure("train-sd3"), 100),
    "generate": (measure("generate"), 150),
    "score": (measure("score"), 80),
}
"""Name → function, and the most seconds it may take; in order of value.

Together they are more than `MINUTES`, which bounds them all: what one part leaves goes to the later ones."""


def write(path: Path, values: dict[str, Any]) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
    temporary.replace(path)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a part: its process, or children that outlived it and would hold the GPU."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def run_part(name: str, command: list[str], out: Path, limit: float) -> dict[str, Any]:
    """Run the process of a part, kill it and its children after `limit` seconds, and record how it ended."""
    path, started = out / f"{name}.json", time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="capo-gpu-day-", ignore_cleanup_errors=True) as work,
        tempfile.TemporaryFile("w+", errors="replace") as output,
    ):
        environment = os.environ | {"TMPDIR": work, "HF_HUB_OFFLINE": "1"}  # without a network it would retry
        process = subprocess.Popen(
            command, start_new_session=True, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            state = "done" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "killed"
        finally:
            _kill(process)
        output.seek(0)
        text = output.read()
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"part": name}
    values |= {"state": state, "seconds": round(time.monotonic() - started, 1), "limit": round(limit)}
    values |= {} if state == "done" else {"output": text[-OUTPUT:]}
    write(path, values)
    return values


def run_all(out: Path, names: list[str], tiny: bool, minutes: float) -> list[dict[str, Any]]:
    """Run the parts in order; the last ones get less time, or none, if the others take too long."""
    end, results = time.monotonic() + 60 * minutes, []
    for name in names:
        limit = min(PARTS[name][1], end - time.monotonic() - KILL_SECONDS)
        if limit < LEAST_SECONDS:
            print(f"{name}: no time left", flush=True)
            continue
        (out / f"{name}.json").unlink(missing_ok=True)  # of an earlier day
        command = [sys.executable, __file__, str(out), "--run", name, *(["--tiny"] if tiny else [])]
        result = run_part(name, command, out, limit)
        print(f"{name}: {result['state']} after {result['seconds']} s", flush=True)
        results.append(result)
        (out / "table.md").write_text(table(results), encoding="utf-8")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.run:
        with tempfile.TemporaryDirectory() as work:
            settings = Settings(chosen.out, Path(work), chosen.tiny)
            write(chosen.out / f"{chosen.run}.json", {"part": chosen.run} | PARTS[chosen.run][0](settings))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part that runs is killed too
    results = run_all(chosen.out, chosen.part or list(PARTS), chosen.tiny, chosen.minutes)
    print(table(results))


if __name__ == "__main__":
    main()
