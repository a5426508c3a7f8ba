"""Choosing an executor, whose package may be missing."""

import sys
from types import SimpleNamespace

import pytest

from capo.engine.executors import open_executor
from capo.engine.launch import LaunchError, Processes
from capo.engine.local_executor import LocalExecutor
from capo.engine.ray_executor import RayExecutor
from capo.recipe import EngineSection
from squares import Squares


def test_without_ray_its_executor_hides_no_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match="of the body"),
        open_executor(EngineSection(executor="ray"), tmp_path),
    ):
        raise ValueError("of the body")


def test_without_ray_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = EngineSection(executor="ray")
    for use in (
        lambda executor: executor.run(Squares(tmp_path, 1), [0]),
        lambda executor: executor.free_memory(engine),
        lambda executor: executor.call_all(print),
    ):
        with (
            pytest.raises(RuntimeError, match=r"capo-diffusion\[ray\]"),
            open_executor(engine, tmp_path) as ray,
        ):
            use(ray)


@pytest.mark.parametrize("wanted", ["auto", "local"])
def test_one_process_works_by_itself(tmp_path, wanted):
    with open_executor(EngineSection(executor=wanted), tmp_path) as executor:
        assert isinstance(executor, LocalExecutor)


@pytest.mark.parametrize(
    ("wanted", "started", "message"),
    [
        ("local", Processes(0, 2, 0), "started 2 processes"),
        ("ray", Processes(0, 2, 0), "started 2 processes"),
        ("ranks", Processes(0, 1, 0), "no launcher started"),
    ],
)
def test_a_launch_that_contradicts_the_setting_is_rejected(monkeypatch, tmp_path, wanted, started, message):
    monkeypatch.setattr("capo.engine.executors.processes", lambda: started)
    with (
        pytest.raises(LaunchError, match=message),
        open_executor(EngineSection(executor=wanted), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("device", "gpus", "workers"),
    [("auto", 4, 4), ("auto", 0, 8), ("cuda", 4, 4), ("cpu", 4, 8)],
)
def test_a_ray_cluster_gets_a_worker_per_gpu_or_else_per_cpu(monkeypatch, tmp_path, device, gpus, workers):
    resources = {"CPU": 8.0} | ({"GPU": float(gpus)} if gpus else {})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: resources))
    executor = RayExecutor(EngineSection(executor="ray", device=device), tmp_path)
    assert executor._wanted() == workers
