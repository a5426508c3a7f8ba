"""Reading the environment that launchers set, and rejecting launches that would not train together."""

import pytest

from capo.engine.launch import LaunchError, Processes, check_launch, idle_gpus, processes, resume_command

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}


def test_processes_are_read_from_the_environment():
    assert processes({}) == Processes(0, 1, 0)
    assert processes({}).is_main
    found = processes(TORCHRUN)
    assert (found.rank, found.size, found.local_rank, found.is_main) == (5, 8, 1, False)
    assert processes(TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}).local_size == 4


def test_the_resume_command_launches_as_many_processes():
    arguments = ["train", "my recipe.yaml"]
    assert resume_command(arguments, {}) == "capo train 'my recipe.yaml'"
    launched = resume_command(arguments, TORCHRUN | {"LOCAL_WORLD_SIZE": "4"})
    assert launched == "torchrun --nproc-per-node 4 -m -- capo train 'my recipe.yaml'"


def test_idle_gpus_are_those_that_this_process_could_use(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert idle_gpus({}, tmp_path) == 3
    assert idle_gpus({"CUDA_VISIBLE_DEVICES": "0,2"}, tmp_path) == 2
    assert idle_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == 0
    assert idle_gpus(TORCHRUN, tmp_path) == 0


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_an_incomplete_launch_is_rejected(name):
    with pytest.raises(LaunchError, match=f"{name}=None.*torchrun"):
        processes({key: value for key, value in TORCHRUN.items() if key != name})


@pytest.mark.parametrize(
    ("environment", "sharding", "message"),
    [
        # What `accelerate launch --cpu --num_processes 2` sets for its one process.
        (
            {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "True"},
            "ddp",
            "MASTER_ADDR=127.0.0.1 announces",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "ddp", "work alone.*unset OMPI_COMM_WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "ddp", "srun --ntasks-per-node 1 torchrun"),
        (TORCHRUN | {"ACCELERATE_USE_FSDP": "true"}, "ddp", "set train.sharding=fsdp"),
        (TORCHRUN | {"ACCELERATE_USE_DEEPSPEED": "true"}, "fsdp", "DeepSpeed"),
        (TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "bf16"}, "ddp", "train.dtype"),
    ],
)
def test_launches_that_would_not_train_together_are_rejected(environment, sharding, message):
    with pytest.raises(LaunchError, match=message):
        check_launch(sharding, environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        TORCHRUN,
        {"SLURM_STEP_NUM_TASKS": "1"},
        TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2"},  # srun starting torchrun on each machine
        TORCHRUN | {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "no"},
    ],
)
def test_launches_that_train_together_pass(environment):
    check_launch("fsdp", environment)
