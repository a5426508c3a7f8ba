"""Samples: determined by their seeds, stored shard by shard, and readable by other programs."""

import io
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_training
from capo.diffusion import load_family
from capo.engine.seeds import initial_noise, sample_seed, stable_seed
from capo.images.sample_table import latent_tensors, sample_table
from capo.images.shard_files import read_samples
from capo.prompts import make_prompt
from capo.prompts.table import read_prompts
from capo.recipe import parse_recipe
from capo.sampling.collect_prompts import collect
from capo.sampling.generate import make_samples
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import sample_images
from capo.store import Run, WorkspaceError
from capo.store.step import Job

LATENTS = ".latents.safetensors"


@pytest.fixture
def settings(tmp_path, sdxl):
    return tiny_training.recipe(tmp_path, sdxl)


@pytest.fixture
def family(settings):
    return load_family(settings.model, torch.device("cpu"))


@pytest.fixture
def artifact(tmp_path):
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("samples")
        artifact.begin({})
        yield artifact


def sample(settings, family, artifact, texts, folder="", samples=4, **arguments):
    arguments = {"seed_key": "sample", "keep_latents": True} | arguments
    prompts = [make_prompt(text) for text in texts]
    keep_latents = arguments["keep_latents"]
    key = (arguments["seed_key"], settings.seed)
    request = ImageRequest(
        prompts=prompts,
        samples=samples,
        settings=settings.generate,
        seed_key=key,
        description="test",
        keep_latents=keep_latents,
    )
    sample_images(family, request, artifact, folder, arguments.get("waves"))
    rows = [row for table in read_samples(artifact, folder) for row in table.to_pylist()]
    if arguments["keep_latents"]:
        files = [name for name in artifact.files() if name.startswith(folder) and name.endswith(LATENTS)]
        latents = [latent for name in files for latent in load_file(artifact.path(name))["latents"]]
        rows = [
            {**row, "latent": latent.flatten().tolist()} for row, latent in zip(rows, latents, strict=True)
        ]
    return {(row["prompt_id"], row["sample"]): row for row in rows}


def picture(row):
    return Image.open(io.BytesIO(row["image"]["bytes"]))


def changed(settings, **generate):
    values = settings.model_dump(mode="json")
    values["generate"] |= generate
    return parse_recipe(values)


def test_rows_are_ordered_and_complete(prepared):
    run = Run(prepared)
    prompts = read_prompts(run)
    tables = list(read_samples(run.artifact("samples")))
    assert [len(table) for table in tables] == [16, 8]
    rows = [row for table in tables for row in table.to_pylist()]
    expected = [(p.prompt_id, k) for p in prompts for k in range(4)]
    assert [(row["prompt_id"], row["sample"]) for row in rows] == expected
    for row in rows:
        assert row["seed"] == stable_seed("sample", 0, row["prompt_id"], row["sample"])
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
    summary = run.artifact("samples").summary
    assert summary == {"prompts": 6, "samples": 24, "truncated_prompts": 0}


def test_an_image_is_determined_by_its_seed(prepared, settings, family):
    run = Run(prepared)
    row = next(read_samples(run.artifact("samples"))).to_pylist()[6]
    # From this seed, training reproduces the noise of a sample (`train.noise: prior`).
    assert row["seed"] == sample_seed(settings.seed, row["prompt_id"], row["sample"])
    text = next(p.text for p in read_prompts(run) if p.prompt_id == row["prompt_id"])
    noise = initial_noise(row["seed"], (4, 8, 8))[None]
    latents = family.sample(family.encode([text]), family.unconditional(), noise, settings.generate)
    stored = load_file(run.artifact("samples").path("shard-00000.latents.safetensors"))["latents"]
    torch.testing.assert_close(stored[6:7], latents, rtol=0, atol=1e-4)
    image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)
    assert np.abs(image - np.asarray(family.decode(latents)[0]).astype(int)).max() <= 1


def test_conditioning_has_one_row_per_prompt(prepared, family):
    run = Run(prepared)
    samples = run.artifact("samples")
    texts = [p.text for p in read_prompts(run)]
    for shard, part in (("shard-00000", texts[:4]), ("shard-00001", texts[4:])):
        kept = load_file(samples.path(f"{shard}.conditioning.safetensors"))
        assert all(torch.equal(kept[name], tensor) for name, tensor in family.encode(part).items())
    unconditional = load_file(samples.path("unconditional.safetensors"))
    assert {len(tensor) for tensor in unconditional.values()} == {1}


def test_tables_declare_features_for_datasets(prepared):
    table = next(read_samples(Run(prepared).artifact("samples")))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["image"] == {"_type": "Image"}
    assert features["seed"] == {"dtype": "int64", "_type": "Value"}


def test_other_prompts_and_batch_sizes_change_no_image(settings, family, artifact):
    few = sample(settings, family, artifact, ["a cat", "a dog"], "few")
    more = sample(changed(settings, batch_size=3), family, artifact, ["two", "a dog", "a cat"], "more")
    for key, row in few.items():
        assert row["seed"] == more[key]["seed"]
        np.testing.assert_allclose(row["latent"], more[key]["latent"], rtol=0, atol=1e-4)


def limited(monkeypatch, family, method, rows):
    """Limit a method of the family to `rows` rows of memory; return the list of requested sizes."""
    asked, whole = [], getattr(family, method)

    def within_limit(*arguments):
        asked.append(len(arguments[2] if method == "sample" else arguments[0]))
        if asked[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments)

    monkeypatch.setattr(family, method, within_limit)
    return asked


def test_the_batch_size_is_halved_until_it_fits_and_kept(settings, family, artifact, monkeypatch):
    texts = ["a cat", "a dog", "two"]
    whole = sample(changed(settings, batch_size=12), family, artifact, texts, "whole")
    asked = limited(monkeypatch, family, "sample", 3)
    found = sample(changed(settings, batch_size=None), family, artifact, texts, "found")
    assert asked == [12, 6, 3, 3, 3, 3]
    for key, row in whole.items():
        np.testing.assert_allclose(row["latent"], found[key]["latent"], rtol=0, atol=1e-4)
    asked.clear()
    sample(changed(settings, batch_size=None), family, artifact, ["a cat"], "again")
    assert asked == [3, 1]


def test_an_explicit_batch_size_is_not_changed(settings, family, artifact, monkeypatch):
    limited(monkeypatch, family, "sample", 3)
    with pytest.raises(RuntimeError, match=r"out of memory with generate.batch_size 8; lower it"):
        sample(settings, family, artifact, ["a cat", "a dog"])


def test_one_image_that_does_not_fit_names_the_setting_to_lower(settings, family, artifact, monkeypatch):
    limited(monkeypatch, family, "sample", 0)
    with pytest.raises(RuntimeError, match=r"with a single image; lower generate.height"):
        sample(changed(settings, batch_size=None), family, artifact, ["a cat"])


def test_on_a_cpu_a_batch_takes_at_most_half_of_the_memory(settings, family, artifact, monkeypatch):
    # 8 x 8 latents of 80 KiB a position are 5 MiB an image.
    monkeypatch.setattr("capo.sampling.batching.main_memory", lambda: 5 * 2 * 5 * 2**20)
    asked = limited(monkeypatch, family, "sample", 100)
    sample(changed(settings, batch_size=None), family, artifact, ["a cat", "a dog", "two"])
    assert asked == [5, 5, 2]


def test_decoding_that_does_not_fit_handles_one_image_at_a_time(settings, family, artifact, monkeypatch):
    whole = sample(settings, family, artifact, ["a cat", "a dog"], "whole")
    asked = limited(monkeypatch, family, "decode", 1)
    found = sample(settings, family, artifact, ["a cat", "a dog"], "found")
    assert asked == [8, *[1] * 8]
    for key, row in whole.items():
        one, other = (np.asarray(picture(each)).astype(int) for each in (row, found[key]))
        assert np.abs(one - other).max() <= 1


def test_images_are_decoded_while_the_next_are_sampled(settings, family, artifact, monkeypatch):
    """The first batch is decoded only while the third is sampled, which could not happen in sequence."""
    third, batches = threading.Event(), []
    take_sample, decode = family.sample, family.decode

    def sampling(*arguments):
        batches.append(len(batches))
        if len(batches) == 3:
            third.set()
        return take_sample(*arguments)

    def decoding(latents):
        assert third.wait(timeout=60)
        return decode(latents)

    monkeypatch.setattr(family, "sample", sampling)
    monkeypatch.setattr(family, "decode", decoding)
    rows = sample(changed(settings, batch_size=4), family, artifact, ["a cat", "a dog", "two"])
    monkeypatch.undo()
    again = sample(changed(settings, batch_size=4), family, artifact, ["a cat", "a dog", "two"], "again")
    assert rows == again


@pytest.mark.parametrize(
    ("method", "error"), [("decode", ValueError("overflow")), ("sample", KeyboardInterrupt())]
)
def test_an_error_leaves_complete_shards_and_no_thread(
    settings, family, artifact, monkeypatch, method, error
):
    calls, whole = [], getattr(family, method)

    def failing(*arguments):
        calls.append(method)
        if len(calls) == 3:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(family, method, failing)
    texts = ["a cat", "a dog", "red", "green", "blue", "circle", "square", "two", "three"]
    with pytest.raises(type(error)):
        sample(changed(settings, shard_prompts=2), family, artifact, texts)
    monkeypatch.undo()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image-writer")]
    tables = list(read_samples(artifact))
    assert [len(table) for table in tables] == [8] * len(tables)
    assert 1 <= len(tables) <= 2
    before = tiny_training.contents(artifact.folder)
    rows = sample(changed(settings, shard_prompts=2), family, artifact, texts)
    assert len(rows) == 36
    assert before.items() <= tiny_training.contents(artifact.folder).items()


@pytest.mark.parametrize(("name", "close"), [("png", 0), ("webp", 20), ("jpeg", 12)])
def test_images_are_stored_in_the_requested_format(settings, family, artifact, name, close):
    exact = sample(settings, family, artifact, ["a cat"], "exact")
    rows = sample(changed(settings, image_format=name), family, artifact, ["a cat"], name)
    for key, row in rows.items():
        image = picture(row)
        assert (image.format, image.mode, image.size) == (name.upper(), "RGB", (32, 32))
        assert np.abs(np.asarray(image).astype(int) - np.asarray(picture(exact[key]))).mean() <= close


def test_a_shard_too_large_to_read_is_rejected_before_it_is_made(settings, family, artifact, monkeypatch):
    # 4 images of 32² at 1.7 bytes a pixel are 6,963 bytes a prompt.
    monkeypatch.setattr("capo.images.disk_space.SHARD_BYTES", 14_000)
    texts = ["a cat", "a dog", "two", "red"]
    with pytest.raises(ValueError, match=r"generate.shard_prompts: 3 prompts .* set it to 2 or less, or set"):
        sample(changed(settings, shard_prompts=3), family, artifact, texts)
    assert artifact.files() == []
    sample(changed(settings, shard_prompts=2), family, artifact, texts)
    one = bytes(2**20)
    with pytest.raises(ValueError, match=r"2048 images of 2\.15 GB"):
        sample_table({}, [one] * 2048)


def test_disk_use_is_reported_and_a_full_disk_rejected(settings, family, artifact, monkeypatch, capsys):
    monkeypatch.setenv("CAPO_QUIET", "0")
    sample(settings, family, artifact, ["a cat", "a dog"])
    # 8 images of 32² at 1.7 bytes a pixel, 8 latents of 4 x 8 x 8, 2 x (16 x 32 + 16) numbers.
    told = "about 26.3 kB (images 13.9 kB, latents 8.19 kB, conditioning 4.22 kB) to write"
    assert f"test: {told}" in capsys.readouterr().err
    full = shutil.disk_usage("/")._replace(free=13_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(WorkspaceError, match=r"needs about 26.3 kB .* only 13 kB are free"):
        sample(settings, family, artifact, ["a cat", "a dog"], "more")
    assert not [name for name in artifact.files() if name.startswith("more")]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full._replace(free=20_000))
    sample(settings, family, artifact, ["a cat", "a dog"], "more")
    assert "20 kB free;" in capsys.readouterr().err


def test_samples_and_keys_have_their_own_noise(settings, family, artifact):
    first = sample(settings, family, artifact, ["a cat"], "first")
    other = sample(settings, family, artifact, ["a cat"], "other", seed_key="evaluate")
    latents = [tuple(row["latent"]) for rows in (first, other) for row in rows.values()]
    assert len(set(latents)) == 8


def test_only_missing_shards_are_made(settings, family, artifact, monkeypatch):
    texts = [
        f"a {word}" for word in ["cat", "dog", "red", "green", "blue", "circle", "square", "two", "three"]
    ]
    sample(settings, family, artifact, texts)
    before = tiny_training.contents(artifact.folder)
    assert len(before) == 3 + 3 + 3 + 1
    artifact.remove("shard-00001.parquet")
    artifact.remove("shard-00001.latents.safetensors")
    artifact.remove("shard-00001.conditioning.safetensors")
    encoded = []
    encode = family.encode
    monkeypatch.setattr(family, "encode", lambda prompts: encoded.append(prompts) or encode(prompts))
    sample(settings, family, artifact, texts)
    assert [each for each in encoded if each != [""]] == [texts[4:8]]
    assert tiny_training.contents(artifact.folder) == before


def test_evaluation_images_have_no_latents(settings, family, artifact):
    sample(settings, family, artifact, ["a cat"], "images/base", samples=2, keep_latents=False)
    assert artifact.files() == ["images/base/shard-00000.parquet"]
    table = next(read_samples(artifact, "images/base"))
    assert table.column_names == ["prompt_id", "sample", "seed", "image"]


def test_latents_are_stored_in_the_narrowest_lossless_precision():
    values = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    rounded = values.bfloat16().float()
    assert latent_tensors([values], torch.bfloat16)["latents"].dtype == torch.float32
    kept = latent_tensors([rounded[:1], rounded[1:]], torch.bfloat16)["latents"]
    assert kept.dtype == torch.bfloat16
    assert torch.equal(kept.float(), rounded)


def test_latents_that_are_not_finite_are_an_error(settings, family, artifact, monkeypatch):
    monkeypatch.setattr(family, "sample", lambda c, u, noise, s: torch.full_like(noise, torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        sample(settings, family, artifact, ["a cat"])
    assert not artifact.has("shard-00000.parquet")


def test_truncated_prompts_are_counted(tmp_path, sdxl, prepared):
    settings = tiny_training.recipe(tmp_path, sdxl)
    (tmp_path / "prompts.txt").write_text("a cat\n" + "red " * 30 + "\n", encoding="utf-8")
    with Run.open(tmp_path / "other") as run:
        for name, stage in (("prompts", collect), ("samples", make_samples)):
            artifact = run.artifact(name)
            artifact.begin({})
            stage(Job(settings, run, (artifact,)))
        assert run.artifact("samples").summary["truncated_prompts"] == 1


def test_reading_missing_samples_is_an_error(artifact):
    with pytest.raises(WorkspaceError, match="no images"):
        list(read_samples(artifact, "images/tuned"))
