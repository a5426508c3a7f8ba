"""A run that is killed at any instant of any stage and resumed ends with the bytes of an undisturbed run."""

import pytest

import fake_stages
import killed_stages
import killed_writing
from capo.recipe import parse_recipe
from forked import forking_process
from killed_stages import STAGES, contents


def killed_runs(folder):
    """Return the runs that were killed and done again; all must equal the whole one."""
    runs = [path for path in folder.iterdir() if path.name.isdigit()]
    assert len(runs) > 10
    whole = contents(folder / "whole")
    for run in runs:
        assert contents(run) == whole, run.name
    return runs


@pytest.mark.parametrize("stale", [False, True], ids=["new", "stale"])
def test_every_kill_while_writing_leaves_old_or_new_files(tmp_path, stale):
    """As below, with artifacts of a few bytes that are also removed, replaced and remade.

    The old files are kept, whenever the kill comes.
    """
    with forking_process() as process:
        process.submit(killed_writing.kill_writing, tmp_path, stale).result()
    for run in killed_runs(tmp_path):
        kept = [path.read_bytes() for path in run.glob("replaced/*/*/folder/old")]
        assert kept == [b"old"] * 2 * stale, run.name


def test_reuse_survives_kills(tmp_path):
    recipe = parse_recipe(fake_stages.VALUES | {"train": {"beta": 300, "steps": 5}})
    with forking_process() as process:
        process.submit(killed_writing.kill_reuse, tmp_path, recipe).result()
    for run in killed_runs(tmp_path):
        assert (run / "samples/shard-0").samefile(tmp_path / "donor/samples/shard-0")


@pytest.fixture(scope="module")
def process(tmp_path_factory, sdxl):
    """The process with all stages of an undisturbed run, which kills and resumes them."""
    with forking_process() as process:
        process.submit(killed_stages.make_stages, tmp_path_factory.mktemp("killed"), sdxl).result()
        yield process


@pytest.mark.parametrize("name", STAGES)
def test_a_run_killed_at_any_failpoint_resumes_to_the_same_bytes(process, name, capsys):
    points, wrong = process.submit(killed_stages.kill_stage, name).result()
    with capsys.disabled():
        print(f"\n{name}: resumed from {points} failpoints, {len(wrong)} mismatches", end=" ")
    assert not wrong


def test_full_fine_tuning_killed_late_resumes_to_the_same_bytes(process, sdxl, tmp_path):
    """With validation, an average, and a model that every process loads for itself.

    A process that resumes after the last validation encodes no prompt before it saves the policy.
    """
    validated = {"validation_prompts": {"source": "shapes:validation", "count": 2}}
    settings = killed_stages.recipe(
        tmp_path, sdxl, adaptation="full", learning_rate=1e-4, ema_decay=0.5, **validated
    )
    assert process.submit(killed_stages.kill_late, settings, tmp_path / "full").result() == []
