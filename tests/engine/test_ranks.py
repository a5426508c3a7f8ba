"""Connecting the processes of a command, with a fake torch.distributed; test_together.py starts real ones."""

import os
from contextlib import nullcontext

import pytest
import torch

from capo.engine import ranks
from capo.engine.launch import LaunchError, Processes


@pytest.fixture
def calls(monkeypatch):
    """The calls of the first of two processes to torch.distributed."""
    made = []

    class Store:
        def set(self, key, value):
            made.append(key)

        def wait(self, keys, timeout):
            made.append("wait")

    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(ranks, "processes", lambda: Processes(0, 2, 0))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(ranks, "heartbeats", lambda *_: nullcontext())
    monkeypatch.setattr(ranks, "lifeline", lambda *_: nullcontext())
    monkeypatch.setattr(ranks.Group, "joined", None)
    monkeypatch.setattr(ranks, "rendezvous", lambda url: iter([(Store(), 0, 2)]))
    monkeypatch.setattr(ranks.dist, "init_process_group", lambda **_: made.append("init"))
    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda: made.append("destroy"))
    return made


def test_processes_wait_for_one_another(calls):
    with ranks.join_processes("cpu"):
        pass
    assert calls == ["init", "left/0", "wait", "destroy"]


def test_a_process_that_fails_does_not_wait_for_the_others(calls):
    """Closing the connections would wait for processes that wait for this one; the launcher would wait."""
    with pytest.raises(KeyError), ranks.join_processes("cpu"):
        raise KeyError
    assert calls == ["init"]


def test_gradients_are_grouped_by_type_and_size(monkeypatch):
    """One all-reduce takes one type of number, and no more than a bucket of them."""
    monkeypatch.setattr(ranks, "BUCKET", 16)
    sizes = [
        (2, torch.float32),
        (2, torch.float32),
        (1, torch.float32),
        (2, torch.bfloat16),
        (9, torch.bfloat16),
    ]
    gradients = [torch.zeros(size, dtype=kind) for size, kind in sizes]
    buckets = list(ranks._buckets(gradients))
    assert [[len(gradient) for gradient in bucket] for bucket in buckets] == [[2, 2], [1], [2], [9]]
    assert [id(gradient) for bucket in buckets for gradient in bucket] == [id(g) for g in gradients]


def test_one_device_for_all_processes_is_rejected(calls):
    with (
        pytest.raises(LaunchError, match="cuda:1 would be"),
        ranks.join_processes("cuda:1"),
    ):
        pass


def test_more_processes_than_gpus_are_rejected(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(LaunchError, match="0 GPUs but more processes"), ranks.join_processes("cuda"):
        pass
