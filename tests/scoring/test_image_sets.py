"""Image sets are scored shard by shard; finished shards are kept unless their file is damaged."""

import numpy as np
import pyarrow as pa
import pytest

import tiny_run
from capo.engine.local_executor import LocalExecutor
from capo.images.shard_files import shard_path
from capo.recipe import RewardSection
from capo.scoring.image_sets import PARTS, ImageSet, score_image_sets
from capo.store import Run, WorkspaceError
from function_rewards import redness

PROMPTS, SAMPLES, SHARDS = tiny_run.prompts(6), 2, 3
RED = RewardSection(name="red", source="function_rewards:redness")
CONTRAST = RewardSection(name="contrast", source="function_rewards:contrast")


@pytest.fixture
def sets(tmp_path):
    """The images of two models, each in three shards of two prompts."""
    rng = np.random.default_rng(0)
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("baseline")
        artifact.begin({})
        for model in ("base", "null"):
            for shard in range(SHARDS):
                keys = [(p.prompt_id, n) for p in PROMPTS[2 * shard : 2 * shard + 2] for n in range(SAMPLES)]
                files = [tiny_run.png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in keys]
                table = {
                    "prompt_id": [prompt_id for prompt_id, _ in keys],
                    "sample": pa.array([n for _, n in keys], pa.int32()),
                    "image": [{"bytes": data, "path": None} for data in files],
                }
                artifact.write_table(shard_path(f"images/{model}", shard), pa.table(table))
        yield [ImageSet(artifact, f"images/{model}", f"scores/{model}") for model in ("base", "null")]


def score(sets, *rewards):
    engine = tiny_run.recipe([{"name": "red", "source": "function_rewards:redness"}]).engine
    score_image_sets(LocalExecutor(), sets, rewards, PROMPTS, engine, "test")


def tables(sets, *rewards):
    return [images.artifact.read_bytes(images.table_path(r.name)) for images in sets for r in rewards]


def interrupt(monkeypatch, call):
    """Let the reward raise at its n-th call; returns the number of images of every call."""
    calls = []

    def interrupted(images, prompts):
        calls.append(len(images))
        if len(calls) == call:
            raise KeyboardInterrupt
        return redness(images, prompts)

    interrupted.comparison = redness.comparison
    monkeypatch.setattr("function_rewards.redness", interrupted)
    return calls


def test_a_table_per_set_and_reward_and_nothing_else(sets):
    before = set(sets[0].artifact.files())
    score(sets, RED, CONTRAST)
    written = {f"scores/{model}/{name}.parquet" for model in ("base", "null") for name in ("red", "contrast")}
    assert set(sets[0].artifact.files()) - before == written
    scores = sets[1].read_scores("red", [prompt.prompt_id for prompt in PROMPTS], SAMPLES)
    assert scores.shape == (len(PROMPTS), SAMPLES)
    assert np.isfinite(scores).all()


def test_interrupted_scoring_resumes_with_the_shard_it_stopped_at(sets, monkeypatch, tmp_path):
    calls = interrupt(monkeypatch, call=3)
    with pytest.raises(KeyboardInterrupt):
        score(sets, RED)
    score(sets, RED)
    assert len(calls) == 2 * SHARDS + 1, "only the interrupted shard is scored twice"
    resumed = tables(sets, RED)
    for images in sets:
        images.artifact.remove(images.table_path("red"))
    score(sets, RED)
    assert tables(sets, RED) == resumed
    assert not sets[0].artifact.has(PARTS)


def test_tables_that_exist_are_not_made_again(sets, monkeypatch):
    score(sets, RED)
    monkeypatch.delattr("function_rewards.redness")
    score(sets, RED, CONTRAST)
    assert sets[0].artifact.has(sets[0].table_path("contrast"))


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_damaged_scores_of_an_interrupted_run_are_rejected(sets, monkeypatch, place):
    """Before the commit no digest protects the table of a shard, but its pages carry checksums."""
    interrupt(monkeypatch, call=2)
    with pytest.raises(KeyboardInterrupt):
        score(sets, RED)
    part = sets[0].artifact.folder / f"{PARTS}/red/{sets[0].shards[0].path}"
    data = bytearray(part.read_bytes())
    data[int(place * _pages_end(part))] ^= 1
    part.write_bytes(data)
    with pytest.raises(WorkspaceError, match=part.name):
        score(sets, RED)


def test_scores_under_a_damaged_name_are_rejected(sets, monkeypatch):
    """Column names are in the footer of the file, which has no checksum."""
    interrupt(monkeypatch, call=2)
    with pytest.raises(KeyboardInterrupt):
        score(sets, RED)
    part = sets[0].artifact.folder / f"{PARTS}/red/{sets[0].shards[0].path}"
    part.write_bytes(part.read_bytes().replace(b"truncated", b"truncatee"))
    with pytest.raises(WorkspaceError, match=part.name):
        score(sets, RED)


def _pages_end(path):
    """The length of the column data, which the footer follows."""
    import pyarrow.parquet as pq

    columns = pq.ParquetFile(path).metadata.row_group(0)
    last = columns.column(columns.num_columns - 1)
    return (last.dictionary_page_offset or last.data_page_offset) + last.total_compressed_size
