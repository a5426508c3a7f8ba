"""An open run and an artifact that is begun in it."""

import pytest

from capo.store import Run


@pytest.fixture
def inputs():
    """The inputs of `samples`."""
    return {"seed": 0, "generate.guidance_scale": 7.5, "@prompts": "abc"}


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def samples(run, inputs):
    artifact = run.artifact("samples")
    artifact.begin(inputs)
    return artifact
