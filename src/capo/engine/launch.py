"""The processes of a command that `torchrun` or `accelerate launch` started.

Both set `WORLD_SIZE`, `RANK` and `LOCAL_RANK` in the environment of every process; without these, the command
runs in one process. Launches whose processes would work separately instead of together are rejected.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = "torchrun --nproc-per-node {} -m --"

COMMAND = f"{LAUNCHER.format(8)} capo run RECIPE --run DIR"

SLURM_COMMAND = (
    "srun --ntasks-per-node 1 torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 --rdzv-backend c10d "
    "--rdzv-endpoint $(scontrol show hostnames $SLURM_NODELIST | head -1):29500 "
    "-m -- capo run RECIPE --run DIR"
)
"""In a job script with `#SBATCH --nodes N`."""

ANNOUNCEMENTS = ("MASTER_ADDR", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables set by launchers that start several processes, or announce that they do."""

UNSUPPORTED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""Training backends that `accelerate launch` can request and capo does not support."""


class LaunchError(ValueError):
    """A launch whose processes would not work together."""


@dataclass(frozen=True)
class Processes:
    """One of the processes of a command: its `rank` of `size`, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """The number of processes on this machine."""
    launched: bool = False
    """True if a launcher started it, even if it started no other."""

    @property
    def is_main(self) -> bool:
        """True for the process that begins and commits artifacts, and prints."""
        return self.rank == 0


def processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Return this process's place among the processes of its command."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in environment:
        return Processes()
    try:
        rank, size, local_rank = (int(environment[name]) for name in names)
        return Processes(
            rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)), launched=True
        )
    except (KeyError, ValueError):
        values = ", ".join(f"{name}={environment.get(name)}" for name in names)
        raise LaunchError(f"the launcher set {values}; all three must be integers. Use `{COMMAND}`") from None


def idle_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """Return the number of GPUs if this command uses one of several, and else 0; imports no torch."""
    if "WORLD_SIZE" in environment:
        return 0
    count = len(list(devices.glob("nvidia[0-9]*")))
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        count = min(count, len([name for name in visible.split(",") if name]))
    return count if count > 1 else 0


def resume_command(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Return the command line that reruns `capo ARGUMENTS` with as many processes per machine as now."""
    command = shlex.join(["capo", *arguments])
    if "WORLD_SIZE" not in environment:
        return command
    here = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"])
    return f"{LAUNCHER.format(here)} {command}"


def check_launch(sharding: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `LaunchError` for a launch whose processes would not work together.

    `sharding` is `train.sharding`. For example, `accelerate launch --cpu --num_processes 2` starts a single
    process, and a launcher that does not support torch starts several that do not know of each other.
    """
    announced = [f"{name}={environment[name]}" for name in ANNOUNCEMENTS if environment.get(name, "1") != "1"]
    if announced and "WORLD_SIZE" not in environment:
        command = SLURM_COMMAND if announced[0].startswith("SLURM") else COMMAND
        raise LaunchError(
            f"{', '.join(announced)} announces several processes, but WORLD_SIZE is not set, so each "
            f"would work alone. Use `{command}`, or unset {announced[0].partition('=')[0]}"
        )
    for name, backend in UNSUPPORTED.items():
        if environment.get(name) == "true":
            raise LaunchError(
                f"accelerate requests {backend}, which is not supported; use train.sharding: fsdp"
            )
    if environment.get("ACCELERATE_USE_FSDP") == "true" and sharding != "fsdp":
        raise LaunchError(
            f"accelerate requests FSDP, but train.sharding is {sharding}; set train.sharding=fsdp, "
            "which is the setting that applies"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", ""):
        raise LaunchError(
            f"accelerate requests mixed precision {precision}, which would have no effect; set train.dtype, "
            "and launch with --mixed_precision no"
        )
