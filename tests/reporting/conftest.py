"""A synthetic run and its page, shared by the tests of this folder."""

from pathlib import Path

import pytest

from capo.reporting.gather import Material, gather
from capo.reporting.report_page import render
from synthetic_run import Options, make_run


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    recipe, run = make_run(tmp_path_factory.mktemp("runs") / "usual", Options())
    return gather(recipe, run)


@pytest.fixture(scope="session")
def page_file(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(material), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def page(page_file: Path) -> str:
    return page_file.read_text(encoding="utf-8")
