from types import SimpleNamespace

import pytest
import torch

from capo.engine import memory
from capo.engine.device import device_name, select_device
from capo.engine.memory import explain_out_of_memory
from capo.recipe import EngineSection


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_named_device_is_used():
    assert select_device(EngineSection(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize(("cuda", "mps", "best"), [(False, False, "cpu"), (False, True, "mps")])
def test_auto_selects_the_best_available_device(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device(EngineSection()).type == best


@pytest.mark.parametrize("name", ["cuda:99", "abacus", "cpu:x"])
def test_an_unavailable_device_is_rejected(name):
    with pytest.raises(ValueError, match=f"engine.device: '{name}' is not available"):
        select_device(EngineSection(device=name))


def test_a_gpu_is_recorded_by_its_own_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert device_name(torch.device("cpu")) == "cpu"
    assert device_name(torch.device("cuda:1")) == "GPU 1"


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_is_set():
    select_device(EngineSection(device="cpu", threads=2))
    assert torch.get_num_threads() == 2
    select_device(EngineSection(device="cpu"))
    assert torch.get_num_threads() == 2


def test_running_out_of_memory_names_the_setting_to_lower():
    with (
        pytest.raises(RuntimeError, match=r"lower train.per_device_batch_size"),
        explain_out_of_memory("train.per_device_batch_size"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("limit", "free"), [(10**12, 5 * 10**9), (4 * 10**9, 3 * 10**9), (10**8, 0)])
def test_on_a_cpu_free_memory_is_what_the_machine_and_its_container_leave(monkeypatch, limit, free):
    """The machine has 5 GB available, of which a container allows 4; this process has 1 already."""
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(total=8 * 10**9, available=5 * 10**9)
    )
    monkeypatch.setattr(
        "psutil.Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=10**9))
    )
    monkeypatch.setattr(memory, "main_memory", lambda: min(limit, 8 * 10**9))
    assert memory.free_memory(EngineSection(device="cpu")) == free
