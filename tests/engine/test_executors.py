"""Choosing an executor whose package may be missing."""

import sys

import pytest

from capo.engine.executors import open_executor
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
