"""Run a whole recipe on a model of real size with random weights, and measure what size costs.

    full_size.py sdxl FOLDER                 7 GB of disk, memory for one copy of the weights
    full_size.py sd3 FOLDER --shard-size 2GB
    full_size.py sd3-small FOLDER --interrupt \\
        --train '{adaptation: full, reference_offload: true, learning_rate: 1.0e-5}'

Writes the checkpoint into FOLDER (once), runs a tiny recipe on it on the CPU, and prints seconds, memory and
bytes read of every command. SD3 is written without T5-XXL, which alone has 9.5 GB; `sd3-small` has a
transformer of 0.3 billion parameters. With --interrupt, training is killed after its first checkpoint,
resumed, and compared with training that was not.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
import yaml

from capo.cost.checkpoints import write_checkpoint
from capo.diffusion.architectures import PARTS
from capo.diffusion.components import Source
from capo.diffusion.random_weights import RandomWeights
from capo.pretrained.model_loading import quiet

GIB = 2**30
VARIANT = "fp16"
STAGES = ("prompts", "status", "generate", "score", "pair", "train", "evaluate", "report", "status", "run")
LEFT_OUT = "text_encoder_3"
"""Not written, because it would not fit into the memory of a small machine."""
SMALL = {"num_layers": 14, "num_attention_heads": 12, "caption_projection_dim": 768}


def build(architecture: str, folder: Path, shard_size: str) -> None:
    """Write a checkpoint of an architecture with random weights in float16, one part at a time."""
    partial = folder.with_name(f"{folder.name}.partial")
    name = architecture.removesuffix("-small")
    write_checkpoint(name, partial)
    if name != architecture:
        _change(partial / "transformer" / "config.json", SMALL)
    load = RandomWeights(torch.device("cpu"))
    for part, (kind, _) in PARTS[name].items():
        if part == LEFT_OUT:
            _leave_out(partial, part)
        elif part != "scheduler":
            library = transformers if part.startswith("text_encoder") else diffusers
            with quiet():
                network = load(getattr(library, kind), Source(str(partial)), part, torch.float16)
                network.save_pretrained(partial / part, variant=VARIANT, max_shard_size=shard_size)
            print(f"wrote {part}", flush=True)
    partial.rename(folder)


def _leave_out(folder: Path, part: str) -> None:
    absent = [None, None]
    tokenizer = part.replace("text_encoder", "tokenizer")
    _change(folder / "model_index.json", {part: absent, tokenizer: absent})


def _change(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))


def recipe(checkpoint: Path, dtype: str, train: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of two prompts with two samples each, at 256 x 256."""
    flow = "transformer" in json.loads((checkpoint / "model_index.json").read_text())
    return {
        "name": checkpoint.name,
        "model": {"checkpoint": str(checkpoint), "variant": VARIANT, "dtype": dtype},
        "prompts": {"source": "shapes:train", "count": 2},
        "generate": {
            "scheduler": "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler",
            "samples_per_prompt": 2,
            "num_inference_steps": 2,
            "height": 256,
            "width": 256,
        },
        "rewards": [{"name": "shapes-preference"}, {"name": "shapes-aesthetic"}],
        "train": {"beta": 300, "steps": 2, "global_batch_size": 2, "checkpoint_every": 1, **train},
        "evaluate": {"prompts": {"source": "shapes:test", "count": 2}, "samples_per_prompt": 2},
        "engine": {"device": "cpu"},
    }


@dataclass
class Cost:
    """What a command took. `own` excludes pages of files, which the system may drop at any time."""

    seconds: float = 0.0
    processor: float = 0.0
    """Processor seconds of all threads, which other load does not change much."""
    own: int = 0
    resident: int = 0
    read: int = 0
    """Bytes read by system calls; mapped files are not among them."""


def measured(command: list[str]) -> Cost:
    """Run a command to its end and return its cost; raises `CalledProcessError` if it fails."""
    cost, started, before = Cost(), time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"CAPO_QUIET": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    watcher = threading.Thread(target=_watch, args=(process.pid, cost))
    watcher.start()
    code = process.wait()
    watcher.join()
    cost.seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost.processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if code:
        raise subprocess.CalledProcessError(code, command)
    return cost


def interrupt(command: list[str], run: Path) -> None:
    """Start a training and kill it once it has a checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not any((run / "train" / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()


def trained(run: Path) -> dict[str, bytes]:
    """Digests of the weights and moments of the last checkpoint and of the policy."""
    files = sorted((run / "train").rglob("*.safetensors"))
    return {str(f.relative_to(run)): hashlib.blake2b(f.read_bytes()).digest() for f in files}


def _watch(pid: int, cost: Cost) -> None:
    place = Path(f"/proc/{pid}")
    while True:
        try:
            status = _table(place / "status")
            own, resident = (1024 * int(status.get(name, "0").split()[0]) for name in ("RssAnon", "VmRSS"))
            cost.own, cost.resident = max(cost.own, own), max(cost.resident, resident)
            cost.read = max(cost.read, int(_table(place / "io")["rchar"]))
        except (OSError, KeyError):
            return
        if "RssAnon" not in status:  # ended
            return
        time.sleep(0.05)


def _table(path: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in path.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("architecture", choices=["sdxl", "sd3", "sd3-small"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shard-size", default="20GB", help="largest file of weights")
    parser.add_argument("--dtype", default="bfloat16", help="model.dtype")
    parser.add_argument("--train", default="{}", metavar="YAML", help="fields of the section train")
    parser.add_argument("--interrupt", action="store_true")
    parser.add_argument("--stages", default=",".join(STAGES), help="commands to run, in order")
    chosen = parser.parse_args()
    checkpoint = chosen.folder.resolve()
    if not checkpoint.exists():
        # In a process of its own, whose memory this one's children would otherwise inherit in their peaks.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(build, chosen.architecture, checkpoint, chosen.shard_size).result()
    weights = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    print(f"{checkpoint.name}: {weights / 1e9:.2f} GB of weights in float16")
    file = checkpoint.with_name(f"{checkpoint.name}.yaml")
    file.write_text(yaml.safe_dump(recipe(checkpoint, chosen.dtype, yaml.safe_load(chosen.train))))
    run = checkpoint.with_name(f"{checkpoint.name}-run")
    print("\n| command | seconds | processor | own memory | with files | read |\n|---|--:|--:|--:|--:|--:|")
    for stage in chosen.stages.split(","):
        command = [sys.executable, "-m", "capo", stage, str(file), "--run", str(run), "--json"]
        if stage == "train" and chosen.interrupt:
            shutil.copytree(run, whole := run.with_name(f"{run.name}-whole"))
            subprocess.run([*command[:-2], str(whole), "--json"], check=True, stdout=subprocess.DEVNULL)
            interrupt(command, run)
        cost = measured(command)
        if stage == "train" and chosen.interrupt:
            equal = trained(run) == trained(whole)
            print(f"Resumed and uninterrupted training are {'equal' if equal else 'different'}.")
        sizes = (f"{size / GIB:.1f} GiB" for size in (cost.own, cost.resident, cost.read))
        cells = (f"{cost.seconds:.1f}", f"{cost.processor:.1f}", *sizes)
        print(f"| `capo {stage}` |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
