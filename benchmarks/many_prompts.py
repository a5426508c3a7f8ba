"""Measure what grows with the number of prompts: seconds, memory and file accesses, models left out.

    .venv/bin/python benchmarks/many_prompts.py [PROMPTS...]

Builds a run with 16 samples per prompt and three rewards for each number of prompts (default: 10,000 and
100,000), in the formats of a real run but with images of 8 x 8 pixels, and prints a table. The scores are
written by this script. 100,000 prompts take 2 GB in the temporary folder and ten minutes.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SAMPLES, SHARD_PROMPTS = 16, 16
REWARDS = ("first", "second", "third")
STAGES_LEFT_OUT = ("train", "baseline", "evaluate", "report")
"""Artifacts that are only declared complete, so that a command finds the whole run up to date."""


def reward(images: Sequence[Any], prompts: Sequence[str]) -> list[float]:
    """Stand for all rewards of the recipe, whose scores are written without it."""
    raise NotImplementedError


def recipe_text(prompts: Path) -> str:
    """Return the recipe of the run."""
    rewards = [
        {"name": name, "source": "many_prompts:reward", "comparison": "bradley-terry", "temperature": 1.0}
        for name in REWARDS
    ]
    values = {
        "name": "many",
        "model": {"checkpoint": "shapes"},
        "prompts": {"source": str(prompts)},
        "generate": {"samples_per_prompt": SAMPLES, "shard_prompts": SHARD_PROMPTS},
        "rewards": rewards,
        "train": {"beta": 300.0, "global_batch_size": 32},
        "evaluate": {"prompts": {"source": str(prompts), "count": 16}, "judge": None},
        "engine": {"device": "cpu"},
    }
    return json.dumps(values)


def build(folder: Path, prompts: int) -> None:
    """Write the recipe and the prompts, and fill the samples and the scores of the run."""
    from capo.pipeline import run
    from capo.store import Run, atomic

    # Waiting for the disk is most of the time of writing small files, and none of what is measured.
    atomic.flush = lambda path: None
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "prompts.txt"
    source.write_text("".join(f"prompt number {n} of many\n" for n in range(prompts)))
    (folder / "recipe.yaml").write_text(recipe_text(source))
    recipe = _recipe(folder)
    run(recipe, folder / "run", stage="prompts")
    with Run.open(folder / "run", recipe) as opened:
        _fill_samples(opened, recipe)
        for name in REWARDS:
            _fill_scores(opened, recipe, name)


def _fill_samples(run: Any, recipe: Any) -> None:
    import numpy as np
    import pyarrow as pa
    import torch
    from PIL import Image

    from capo.images.sample_table import sample_table
    from capo.images.shard_files import UNCONDITIONAL, conditioning_path, latents_path, shard_path

    rng = np.random.default_rng(0)
    files = []
    for _ in range(4096):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    artifact = _begin(run, recipe, "samples")
    artifact.write_tensors(UNCONDITIONAL, {"embeds": torch.zeros(1, 8, 16)})
    for shard, ids in _shards(run):
        generator = torch.Generator().manual_seed(shard)
        latents = torch.randn(len(ids) * SAMPLES, 4, 2, 2, generator=generator)
        artifact.write_tensors(latents_path("", shard), {"latents": latents})
        embeds = torch.randn(len(ids), 8, 16, generator=generator)
        artifact.write_tensors(conditioning_path("", shard), {"embeds": embeds})
        columns = _keys(ids) | {"seed": pa.array(rng.integers(0, 2**62, len(latents)), pa.int64())}
        images = [files[n] for n in rng.integers(0, len(files), len(latents))]
        artifact.write_table(shard_path("", shard), sample_table(columns, images))
    count = sum(len(ids) for _, ids in _shards(run))
    artifact.commit({"prompts": count, "samples": count * SAMPLES})


def _fill_scores(run: Any, recipe: Any, name: str) -> None:
    import numpy as np
    import pyarrow as pa

    from capo.images.shard_files import shard_path

    rng = np.random.default_rng(REWARDS.index(name))
    artifact = _begin(run, recipe, f"scores/{name}")
    for shard, ids in _shards(run):
        rows = len(ids) * SAMPLES
        columns = _keys(ids) | {
            "score": pa.array(rng.normal(size=rows)),
            "error": pa.nulls(rows, pa.string()),
            "truncated": pa.nulls(rows, pa.bool_()),
        }
        artifact.write_table(shard_path("", shard), pa.table(columns))
    artifact.commit()


def _shards(run: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers of the shards, and the ids of their prompts."""
    ids = run.artifact("prompts").read_table("prompts.parquet", ["prompt_id"])["prompt_id"].to_pylist()
    for shard, start in enumerate(range(0, len(ids), SHARD_PROMPTS)):
        yield shard, ids[start : start + SHARD_PROMPTS]


def _keys(ids: Sequence[str]) -> dict[str, Any]:
    import pyarrow as pa

    return {
        "prompt_id": pa.array([i for i in ids for _ in range(SAMPLES)], pa.string()),
        "sample": pa.array(list(range(SAMPLES)) * len(ids), pa.int32()),
    }


def declare(folder: Path) -> None:
    """Declare the artifacts complete that models would make."""
    from capo.store import Run

    recipe = _recipe(folder)
    with Run.open(folder / "run", recipe) as run:
        for name in STAGES_LEFT_OUT:
            artifact = _begin(run, recipe, name)
            artifact.write_json("results.json", {})
            artifact.commit()


def first_batch(folder: Path) -> dict[str, float]:
    """Prepare training up to its first batch, as one of its processes does; return its cost."""
    import torch

    from capo.diffusion.process import Process  # noqa: F401  (imported before the clock starts)
    from capo.pairing.training_pairs import read_pairs
    from capo.store import Run
    from capo.training.batches import Batches
    from capo.training.sample_files import Samples, expected_shards

    class NoTimes:
        """A process whose times are all 0: drawing them is not what is measured."""

        def draw_times(self, count: int, *_: Any) -> "torch.Tensor":
            return torch.zeros(count)

    recipe, run = _recipe(folder), Run(folder / "run")
    started, before = time.monotonic(), _bytes_read()
    prompts, _ = read_pairs(run.artifact("pairs"), None)
    pairs_read, read_before = time.monotonic(), _bytes_read()
    samples = Samples(run.artifact("samples"), expected_shards(run, SHARD_PROMPTS))
    samples.forecast(prompts.ids)
    located, read_located = time.monotonic(), _bytes_read()
    batch = Batches(prompts, samples, NoTimes(), recipe.train, 0).batch(1)  # type: ignore[arg-type]
    needed = 2 * batch.chosen.nbytes + sum(tensor.nbytes for tensor in batch.conditioning.values())
    return {
        "read_pairs": pairs_read - started,
        "locate": located - pairs_read,
        "batch": time.monotonic() - located,
        "seconds": time.monotonic() - started,
        "bytes_of_pairs": read_before - before,
        "bytes_of_locating": read_located - read_before,
        "bytes": _bytes_read() - read_located,
        "bytes_needed": needed,
    }


def report_material(folder: Path) -> dict[str, float]:
    """Read what the report needs of the training prompts; return its cost."""
    from capo.pairing.pair_table import PairTable
    from capo.reporting.gather import raw_scores
    from capo.store import Run

    run, started = Run(folder / "run"), time.monotonic()
    PairTable.read(run.artifact("pairs"))
    for name in REWARDS:
        raw_scores(run, name)
    return {"seconds": time.monotonic() - started}


def count_stats(folder: Path) -> dict[str, float]:
    """Return how often `capo status` asks for the length or existence of a file."""
    from capo.pipeline import status
    from capo.store import artifact_files, finished_files

    counts = {"stats": 0}
    stat, walk = os.stat, finished_files.finished_files

    def counted_stat(*arguments: Any, **options: Any) -> os.stat_result:
        counts["stats"] += 1
        return stat(*arguments, **options)

    def counted_walk(*arguments: Any) -> Any:
        for entry in walk(*arguments):
            counts["stats"] += 1  # the caller asks for its length
            yield entry

    recipe = _recipe(folder)
    os.stat = counted_stat
    vars(artifact_files)["finished_files"] = counted_walk
    states = status(recipe, folder / "run")
    os.stat = stat
    vars(artifact_files)["finished_files"] = walk
    assert all(state.state == "done" for state in states), states
    return dict(counts)


def _recipe(folder: Path) -> Any:
    from capo.recipe import load_recipe

    return load_recipe(folder / "recipe.yaml")


def _begin(run: Any, recipe: Any, name: str) -> Any:
    from capo.pipeline.graph import steps_of
    from capo.pipeline.states import fingerprint

    (step,) = [step for step in steps_of(recipe) if step.artifact == name]
    artifact = run.artifact(name)
    artifact.begin(fingerprint(step, run))
    return artifact


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


# Each part runs in a process of its own, so that its peak memory is its own.

PARTS = {f.__name__: f for f in (build, declare, first_batch, report_material, count_stats)}


def _measured(command: Sequence[str], threads: int | None = 1) -> dict[str, Any]:
    """Run a command; return its output, its seconds, processor time and peak memory."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "CAPO_QUIET": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, env=environment)
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed\n{text}")
    return {
        "output": text,
        "seconds": time.monotonic() - started,
        "processor": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
    }


def _part(name: str, *arguments: str) -> dict[str, Any]:
    return _measured([__file__, "--part", name, *arguments])


def _capo(command: str, folder: Path, threads: int | None = 1) -> dict[str, Any]:
    place = str(folder / "run")
    return _measured(["-m", "capo", command, str(folder / "recipe.yaml"), "--run", place, "--json"], threads)


def measure(folder: Path, prompts: int) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table for one number of prompts."""

    def row(name: str, cost: dict[str, Any]) -> tuple[str, str]:
        return name, f"{cost['seconds']:.1f} s, {cost['processor']:.1f} s, {cost['memory'] / 1e6:.0f} MB"

    yield row("write samples and scores", _part("build", str(folder), str(prompts)))
    yield row("`capo pair`", _capo("pair", folder, threads=None))
    _part("declare", str(folder))
    yield row("`capo status`", _capo("status", folder))
    yield row("`capo run`, nothing to do", _capo("run", folder))
    counts = json.loads(_part("count_stats", str(folder))["output"])
    yield "files that `capo status` examines", f"{counts['stats']:,}"
    cost = _part("first_batch", str(folder))
    yield row("first training batch", cost)
    own = json.loads(cost["output"])
    yield (
        "of it: pairs, locating, batch",
        ", ".join(f"{own[name]:.2f} s" for name in ("read_pairs", "locate", "batch")),
    )
    yield "of it: read to locate the samples", f"{own['bytes_of_locating'] / 1e6:.0f} MB"
    yield row("the report reads its pairs and scores", _part("report_material", str(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--keep", type=Path, help="build the runs here and keep them")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, folder, *rest = options.part
        print(json.dumps(PARTS[name](Path(folder), *map(int, rest))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for prompts in options.prompts:
            print(f"\n| {prompts:,} prompts | seconds, processor, memory |\n|---|--:|")
            for name, value in measure((options.keep or Path(temporary)) / str(prompts), prompts):
                print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
