"""Processes that wait for a stopped one end with an error that names it; real ones, connected by gloo."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import os, signal, sys, time
import torch
from capo.engine import heartbeat
from capo.engine.ranks import join_processes

heartbeat.INTERVAL, heartbeat.LIMIT = 0.1, float(sys.argv[2])
with join_processes("cpu") as group:
    group.barrier()
    if group.rank == int(sys.argv[1]):
        print("ready", os.getpid(), flush=True)
        time.sleep(float(sys.argv[3]))
    group.barrier()
"""


@pytest.fixture
def launch(tmp_path):
    """Start two processes; the one of `rank` makes the other wait for `seconds`."""
    (tmp_path / "worker.py").write_text(WORKER)
    started = []

    def launch(rank, limit, seconds):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [*command, tmp_path / "worker.py", str(rank), str(limit), str(seconds)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def parent_of(pid):
    return int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_ends_the_others(launch, rank):
    process = launch(rank, limit=3, seconds=600)
    stopped = int(re.match(r"ready (\d+)", process.stdout.readline())[1])
    assert parent_of(stopped) == process.pid
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    _, errors = process.communicate(timeout=120)  # the launcher kills the stopped one after 30 seconds
    assert process.returncode != 0
    assert re.search(rf"no heartbeat from process {rank} on \S+.*rerun", errors)
    assert time.monotonic() - started < 100


def test_waiting_long_for_a_busy_process_is_not_an_error(launch):
    process = launch(0, limit=2, seconds=4)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
