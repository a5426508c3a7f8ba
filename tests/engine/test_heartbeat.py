"""Processes that wait for a stopped one end with an error that names it; real ones, connected by gloo."""

import os
import re
import signal
import subprocess
import sys

import pytest
from torch.distributed import TCPStore

WORKER = """
import sys, time
from capo.engine import heartbeat
from capo.engine.ranks import join_processes

heartbeat.INTERVAL, heartbeat.LIMIT = 0.1, 2.0
with join_processes("cpu") as group:
    group.barrier()
    if group.rank == int(sys.argv[1]):
        time.sleep(1.5 * heartbeat.LIMIT)
    group.barrier()
    if group.rank == int(sys.argv[1]):
        print("ready", flush=True)
        time.sleep(600)
    group.barrier()
"""


@pytest.fixture
def launch():
    """Start two processes, as torchrun does; the one of `rank` makes the other wait."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    joining = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    joining |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1"}
    started = []

    def launch(rank):
        for own in ("0", "1"):
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(rank)],
                env=os.environ | joining | {"RANK": own, "LOCAL_RANK": own},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return started

    yield launch
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_ends_the_others_and_a_busy_one_does_not(launch, rank):
    processes = launch(rank)
    stopped, waiting = processes[rank], processes[1 - rank]
    assert stopped.stdout.readline() == "ready\n", "the other has waited for longer than the limit"
    stopped.send_signal(signal.SIGSTOP)
    _, errors = waiting.communicate(timeout=120)
    assert waiting.returncode != 0
    assert re.search(rf"no heartbeat from process {rank} on \S+.*rerun", errors)
