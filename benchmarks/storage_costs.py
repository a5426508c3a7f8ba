"""Compare ways of writing and reading the large files of a run, each with the way before it, in one process.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/storage_costs.py

Writes about 3 GB to the temporary folder. Processor time is stable on a busy machine, wall-clock time is not.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from capo.store import Artifact, Run
from capo.store.manifest import describe
from capo.store.tensor_file import HashedFile, write_tensors

TENSORS = 16
GIGABYTE = {f"w{n}": torch.randn(10**9 // 4 // TENSORS) for n in range(TENSORS)}
"""The tensors of a checkpoint of 1 GB."""

ROWS, PROMPTS = 256, 16
PAIRS = 32


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock seconds and processor seconds."""
    wall, processor = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - processor


def checkpoints(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the costs of writing a checkpoint of 1 GB."""
    path = folder / "policy.safetensors"

    def three_passes() -> None:
        save_file({name: tensor.clone() for name, tensor in GIGABYTE.items()}, path)
        with path.open("rb") as file:
            hashlib.file_digest(file, "blake2b").hexdigest()
        describe(path)

    def one_pass() -> None:
        with HashedFile(path) as file:
            write_tensors(file, GIGABYTE)

    yield "written, then read and hashed twice (before)", *cost(three_passes)
    yield "hashed while it is written, by a thread", *cost(one_pass)
    copies: list[dict[str, torch.Tensor]] = []
    copy = cost(lambda: copies.append({n: t.to("cpu", copy=True) for n, t in GIGABYTE.items()}))
    yield "copied, which is all that training waits for", *copy


def first_batch(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the bytes read for the latents of a batch, over the bytes of these latents; SDXL's size."""
    with Run.open(folder / "run") as run:
        samples = run.artifact("samples")
        samples.begin({})
        shards = PAIRS // 4
        for shard in range(shards):
            latents = torch.randn(ROWS, 4, 128, 128).bfloat16()
            samples.write_tensors(f"{shard}.safetensors", {"latents": latents})
        samples.commit()
    places = [(f"{n % shards}.safetensors", 37 * n % ROWS) for n in range(2 * PAIRS)]
    needed = len(places) * 4 * 128 * 128 * 2

    def whole_files() -> None:
        reader = Run(folder / "run").artifact("samples")
        for name, row in places:
            with safe_open(reader.path(name), "pt") as file:
                file.get_slice("latents")[row]

    def rows() -> None:
        reader: Artifact = Run(folder / "run").artifact("samples")
        for name, row in places:
            reader.read_row(name, row)

    for title, read in (("whole files are verified (before)", whole_files), ("rows are verified", rows)):
        before = _bytes_read()
        read()
        yield title, (_bytes_read() - before) / needed


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        print("| a checkpoint, per GB | seconds | processor |\n|---|--:|--:|")
        for name, wall, processor in checkpoints(Path(temporary)):
            print(f"| {name} | {wall:.1f} s | {processor:.1f} s |")
        print("\n| a batch of 32 pairs from 8 shards of SDXL | bytes read |\n|---|--:|")
        for name, ratio in first_batch(Path(temporary)):
            print(f"| {name} | {ratio:.2f} × |")


if __name__ == "__main__":
    main()
