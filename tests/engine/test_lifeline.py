"""A process whose peer dies or fails ends at once, and the main process says which; real processes."""

import contextlib
import re
import signal
import socket
import subprocess
import sys

import pytest

WORKER = """
import sys, time
from pathlib import Path
from capo.engine import lifeline

class Store:
    def set(self, key, value):
        Path(sys.argv[1], key).write_text(value)

    def get(self, key):
        while not (path := Path(sys.argv[1], key)).exists() or not path.read_text():
            time.sleep(0.01)
        return path.read_bytes()

lifeline.GRACE = 0.1
rank = int(sys.argv[2])
with lifeline.lifeline(Store(), rank, 3, "localhost"):
    print("ready", flush=True)
    command = sys.stdin.readline().strip()
    if command == "fail":
        raise ValueError("no such shard")
"""


@pytest.fixture
def crew(tmp_path):
    """Three processes, which end when they read a line."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path, str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def told(process, line=None):
    """Return the exit code and the messages of a process; without a line to read, it must end by itself."""
    if line is None:
        process.wait(60)
    _, errors = process.communicate(line, timeout=60)
    return process.returncode, errors


def test_a_killed_process_is_named_and_ends_the_others(crew):
    crew[2].send_signal(signal.SIGKILL)
    code, errors = told(crew[0])
    assert code == 1
    assert re.match(r"Error: process 2 on \S+ was killed.*rerun", errors)
    assert told(crew[1]) == (1, "")  # the main process has said it


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n", b"[" * 10**5 + b"\n"])
def test_a_stray_connection_disturbs_nothing(crew, tmp_path, line):
    port = int((tmp_path / "lifeline").read_text().split()[0])
    with socket.create_connection(("localhost", port)) as stray, contextlib.suppress(ConnectionError):
        stray.sendall(line)
        stray.settimeout(60)
        assert stray.recv(1) == b""
    crew[2].send_signal(signal.SIGKILL)
    code, errors = told(crew[0])
    assert code == 1
    assert re.match(r"Error: process 2 on \S+ was killed", errors)


def test_a_killed_main_process_ends_the_others(crew):
    crew[0].send_signal(signal.SIGKILL)
    for process in crew[1:]:
        code, errors = told(process)
        assert code == 1
        assert "the main process was killed" in errors


def test_an_error_is_reported_by_the_main_process_with_the_rank(crew):
    assert told(crew[1], "fail\n")[0] == 1
    code, errors = told(crew[0])
    assert code == 1
    assert re.match(r"Error: process 1 on \S+: ValueError: no such shard; rerun", errors)


def test_processes_that_leave_end_without_an_error(crew):
    for process in crew[1:]:
        assert told(process, "\n") == (0, "")
    assert told(crew[0], "\n") == (0, "")
