import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from capo.pairing.training_pairs import PairCounts, read_pairs
from capo.store import Artifact, Run, WorkspaceError
from capo.training.sample_files import Samples, expected_shards


@pytest.fixture
def pairs(tmp_path):
    """Writes `pairs.parquet` from rows (prompt_id, chosen, rejected, combined), for one reward."""
    sets, values = pa.list_(pa.int32()), pa.list_(pa.float64())
    columns = {"prompt_id": pa.string(), "chosen": sets, "rejected": sets}
    columns |= {"calibrated": pa.list_(values), "combined": values}
    schema = pa.schema(columns, metadata={"rewards": '["red"]', "comparisons": "{}"})

    def write(*rows):
        with Run.open(tmp_path / "run") as run:
            artifact = run.artifact("pairs")
            artifact.begin({}, force=True)
            names = ("prompt_id", "chosen", "rejected", "combined")
            listed = [dict(zip(names, row, strict=True)) for row in rows]
            for row in listed:
                row["calibrated"] = [None if value is None else [value] for value in row["combined"]]
            table = pa.Table.from_pylist(listed, schema)
            artifact.write_table("pairs.parquet", table)
            return artifact

    return write


def test_all_pairs_of_both_sets_are_allowed(pairs):
    artifact = pairs(("a", [0, 2], [1, 3], [0.9, 0.2, 0.6, 0.7]))
    (prompt,), counts = read_pairs(artifact, None)
    assert prompt.allowed.tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    assert prompt.delta_reward(2, 3) == pytest.approx(-0.1)
    assert counts == PairCounts(used=1, no_pair=0, dropped=0)


def test_pairs_below_the_margin_are_excluded_and_counted(pairs):
    artifact = pairs(
        ("a", [0, 2], [1, 3], [0.9, 0.2, 0.6, 0.7]),
        ("tied", [0], [1], [0.5, 0.5, 0.5, 0.5]),
        ("none", [], [], [0.5, 0.5, 0.5, 0.5]),
    )
    prompts, counts = read_pairs(artifact, 0.0)
    assert [p.allowed.tolist() for p in prompts] == [[[0, 1], [0, 3], [2, 1]]]
    assert counts == PairCounts(used=1, no_pair=1, dropped=1)


def test_samples_without_a_reward_are_excluded(pairs):
    artifact = pairs(("a", [3], [1], [None, 0.2, None, 0.7]))
    (prompt,), _ = read_pairs(artifact, 0.0)
    assert prompt.allowed.tolist() == [[3, 1]]


def test_nothing_to_train_on_is_an_error(pairs):
    artifact = pairs(("a", [0], [1], [0.5, 0.4]), ("b", [], [], [0.5, 0.5]))
    with pytest.raises(WorkspaceError, match=r"no pair to train on .* 0\.2"):
        read_pairs(artifact, 0.2)


def test_latents_and_conditioning_are_those_of_the_sample(prepared):
    artifact = Run(prepared).artifact("samples")
    samples = Samples(artifact)
    for shard in ("shard-00000", "shard-00001"):
        table = artifact.read_table(f"{shard}.parquet")
        conditioning = load_file(artifact.path(f"{shard}.conditioning.safetensors"))
        latents = load_file(artifact.path(f"{shard}.latents.safetensors"))["latents"]
        assert len(latents) == len(table)
        ids = list(dict.fromkeys(table["prompt_id"].to_pylist()))
        for latent, row in zip(latents, table.select(["prompt_id", "sample"]).to_pylist(), strict=True):
            assert torch.equal(samples.latent(row["prompt_id"], row["sample"]), latent)
            one = samples.conditioning(row["prompt_id"])
            place = ids.index(row["prompt_id"])
            assert all(torch.equal(one[name], conditioning[name][place]) for name in conditioning)


def test_locating_the_samples_reads_neither_images_nor_latents(prepared, monkeypatch):
    """They may be terabytes, and training must not wait for all of their digests."""
    verified = []
    monkeypatch.setattr(Artifact, "_verify", lambda self, relative: verified.append(relative))
    artifact = Run(prepared).artifact("samples")
    prompt_id = pq.read_table(artifact.folder / "shard-00000.parquet")["prompt_id"][0].as_py()
    latents, conditioning = Samples(artifact).forecast([prompt_id])
    assert latents == (artifact.folder / "shard-00000.latents.safetensors").stat().st_size
    assert conditioning == (artifact.folder / "shard-00000.conditioning.safetensors").stat().st_size
    assert verified == []


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_to_the_prompt_ids_of_a_shard_is_detected(prepared, tmp_path, damage):
    folder = shutil.copytree(prepared, tmp_path / "run")
    path = folder / "samples" / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-9:]
    else:
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert column.path_in_schema == "prompt_id"
        data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkspaceError, match=r"shard-00001.parquet is damaged .* remove it"):
        Samples(Run(folder).artifact("samples")).conditioning("any")


@pytest.mark.parametrize(("shard_prompts", "opened"), [(4, 1), (3, 2)])
def test_only_the_shards_of_a_batch_are_opened(prepared, monkeypatch, shard_prompts, opened):
    """The order of the prompts tells the shard, unless `generate.shard_prompts` has changed since."""
    run = Run(prepared)
    expected = expected_shards(run, shard_prompts)
    prompt_id = [*expected][3]
    latent = Samples(run.artifact("samples")).latent(prompt_id, 2)
    reads, read = [], Artifact.read_columns

    def counted(self, relative, columns):
        reads.append(relative)
        return read(self, relative, columns)

    monkeypatch.setattr(Artifact, "read_columns", counted)
    samples = Samples(run.artifact("samples"), expected)
    samples.forecast([prompt_id])
    assert reads == []
    assert torch.equal(samples.latent(prompt_id, 2), latent)
    samples.conditioning(prompt_id)
    assert len(reads) == opened


def test_a_missing_prompt_or_sample_is_an_error(prepared):
    artifact = Run(prepared).artifact("samples")
    with pytest.raises(WorkspaceError, match="no samples of prompt other"):
        Samples(artifact).latent("other", 0)
    prompt = artifact.read_table("shard-00000.parquet")["prompt_id"][0].as_py()
    with pytest.raises(IndexError, match="has 4 samples, not a sample 4"):
        Samples(artifact).latent(prompt, 4)


def test_a_flipped_bit_in_the_samples_is_detected(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "run")
    path = folder / "samples" / "shard-00000.conditioning.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    artifact = Run(folder).artifact("samples")
    samples = Samples(artifact)
    ids = artifact.read_table("shard-00000.parquet", ["prompt_id"])["prompt_id"]
    samples.conditioning(ids[0].as_py())
    with pytest.raises(WorkspaceError, match=r"shard-00000.conditioning.safetensors is damaged"):
        samples.conditioning(ids[-1].as_py())
