"""Runs on existing images, and pairs that are exported and imported again."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tiny_training
from capo.cli import app
from capo.diffusion import load_family
from capo.images import ImagesError, open_images
from capo.pairing.calibration_report import calibration_report
from capo.pairing.export import export
from capo.pairing.training_pairs import read_pairs
from capo.pipeline import run, status
from capo.pipeline.graph import steps_of
from capo.recipe import ImagesSection, RecipeError, dump_recipe, parse_recipe
from capo.store import Artifact, Run
from capo.training.sample_files import Samples

COUNTS = {"a red circle": 3, "a blue cat": 1, "a green cat": 4, "two dogs": 2}
"""Images of each prompt: N differs."""


def picture(seed, size=(40, 30), form="PNG"):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size).save(buffer, form)
    return buffer.getvalue()


def image_folder(folder):
    """Write a folder for each prompt; return the files by caption."""
    files = {}
    for p, (caption, count) in enumerate(COUNTS.items()):
        (folder / caption).mkdir(parents=True)
        files[caption] = [picture(10 * p + n) for n in range(count)]
        for n, data in enumerate(files[caption]):
            (folder / caption / f"{n}.png").write_bytes(data)
    return files


def write_preferences(folder, rows):
    """Write Pick-a-Pic's columns; rows are a caption, the seeds of two images and the first one's label."""
    import pyarrow as pa

    folder.mkdir()
    table = [
        {"caption": caption, "jpg_0": picture(a), "jpg_1": picture(b), "label_0": label, "label_1": 1 - label}
        for caption, a, b, label in rows
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / "train.parquet")


def recipe(folder, sdxl, source, **sections):
    values = tiny_training.recipe(folder, sdxl).model_dump(mode="json")
    values["prompts"] = {"source": "images"}
    values["images"] = {"source": str(source)}
    for name, section in sections.items():
        values[name] = values[name] | section
    return parse_recipe(values)


def run_stages(settings, folder, *stages):
    """Return the run after these stages."""
    for stage in stages:
        run(settings, folder, stage=stage)
    return Run(folder)


def samples_of(opened):
    """Return the rows of all samples, without latents."""
    artifact = opened.artifact("samples")
    names = [name for name in artifact.files() if name.endswith(".parquet")]
    columns = ["prompt_id", "sample", "origin", "label", "image"]
    return [row for name in names for row in artifact.read_table(name, columns).to_pylist()]


def captions(opened):
    rows = opened.artifact("prompts").read_table("prompts.parquet").to_pylist()
    return {row["prompt_id"]: row["text"] for row in rows}


def test_a_run_on_an_image_folder(tmp_path, sdxl):
    files = image_folder(tmp_path / "images")
    settings = recipe(tmp_path, sdxl, tmp_path / "images", generate={"shard_prompts": 3}, train={"steps": 2})
    opened = run_stages(settings, tmp_path / "run", "prompts", "generate", "score", "pair", "train")

    rows, texts = samples_of(opened), captions(opened)
    assert [(texts[row["prompt_id"]], row["sample"]) for row in rows] == [
        (caption, n) for caption in sorted(COUNTS) for n in range(COUNTS[caption])
    ]
    for row in rows:
        caption = texts[row["prompt_id"]]
        assert row["image"]["bytes"] == files[caption][row["sample"]]  # unchanged, not encoded again
        assert row["origin"] == f"{caption}/{row['sample']}.png"

    # Calibrated and paired among the N of each prompt: recomputed from the formulas.
    for row in opened.artifact("pairs").read_table("pairs.parquet").to_pylist():
        images = files[texts[row["prompt_id"]]]
        pixels = [np.asarray(Image.open(io.BytesIO(data)), dtype=float) for data in images]
        raw = np.array([[p[..., 0].mean() / 8, p[..., 2].mean() / 8] for p in pixels])
        if len(images) == 1:
            assert row["combined"] == [None]
            assert row["chosen"] == row["rejected"] == []
            continue
        wins = 1 / (1 + np.exp(-(raw[:, None] - raw[None])))
        expected = (wins.sum(axis=1) - 0.5) / (len(images) - 1)
        np.testing.assert_allclose(row["calibrated"], expected, atol=1e-9)
        upper = {n for n in range(len(raw)) if not any(_dominates(raw[m], raw[n]) for m in range(len(raw)))}
        lower = {n for n in range(len(raw)) if not any(_dominates(raw[n], raw[m]) for m in range(len(raw)))}
        assert set(row["chosen"]) == upper - lower
        assert set(row["rejected"]) == (lower if upper - lower else set())
    assert opened.artifact("pairs").summary["dropped"] == 1

    assert opened.artifact("train").summary["steps"] == 2
    metrics = opened.artifact("train").read_json_lines("metrics.jsonl")
    assert metrics[0]["rewards/margins"] == 0  # the policy still equals the reference


def _dominates(a, b):
    return bool((a >= b).all() and (a > b).any())


def test_latents_are_the_vae_encoding_of_the_cropped_image(tmp_path, sdxl):
    image_folder(tmp_path / "images")
    settings = recipe(tmp_path, sdxl, tmp_path / "images")
    opened = run_stages(settings, tmp_path / "run", "prompts", "generate")
    samples = Samples(opened.artifact("samples"))
    family = load_family(settings.model, torch.device("cpu"))
    encoded = family.encode(list(captions(opened).values()))
    for place, (prompt_id, caption) in enumerate(captions(opened).items()):
        conditioning = samples.conditioning(prompt_id)
        assert all(torch.equal(conditioning[name], encoded[name][place]) for name in encoded)
        for n in range(COUNTS[caption]):
            image = Image.open(tmp_path / "images" / caption / f"{n}.png")
            # 40 × 30 covers 32 × 32 when enlarged to 43 × 32; 5 columns are cut off on each side.
            fitted = image.resize((32, 32), Image.Resampling.LANCZOS, box=(5, 0, 35, 30))
            pixels = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                mean = family.vae.encode(pixels).latent_dist.mean
            expected = mean[0] * family.vae.config.scaling_factor
            torch.testing.assert_close(samples.latent(prompt_id, n), expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(IndexError):  # not the first one of the next prompt
            samples.latent(prompt_id, COUNTS[caption])


@pytest.mark.parametrize("name", ["sd15", "sd3", "flux-dev", "sana"])
def test_decode_inverts_encode_like_the_vae(name, checkpoint):
    """The normalizations of encoding and decoding are inverse in every family."""
    from diffusion_cases import family_of

    family = family_of(checkpoint(name))
    settings = tiny_settings()
    image = Image.open(io.BytesIO(picture(5, (32, 32))))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        encoded = family.vae.encode(pixels)
        raw = encoded.latent if name == "sana" else encoded.latent_dist.mode()
        restored = family.vae.decode(raw).sample[0]
    latents = family.encode_images([image], settings)
    assert latents.shape[1:] == family.latent_shape(settings)
    (decoded,) = family.decode(latents)
    expected = ((restored / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(np.asarray(decoded, dtype=float), expected, atol=1.0)


def tiny_settings():
    from capo.recipe import GenerateSection

    return GenerateSection(height=32, width=32)


HUMAN = [
    ("a red circle", 0, 1, 1.0),
    ("a red circle", 1, 2, 0.0),
    ("two dogs", 3, 4, 0.5),
    ("a blue cat", 5, 6, 0.0),
]


def test_human_preferences_train_diffusion_dpo(tmp_path, sdxl):
    write_preferences(tmp_path / "people", HUMAN)
    settings = recipe(
        tmp_path,
        sdxl,
        tmp_path / "people",
        pairs={"selection": "labels"},
        train={"objective": "dpo", "noise": "shared", "weighting": "constant", "steps": 2},
        evaluate={"samples_per_prompt": 2},
    )
    # These pairs need no scores.
    assert next(step for step in steps_of(settings) if step.artifact == "pairs").upstream == ("samples",)
    opened = run_stages(settings, tmp_path / "run", "prompts", "generate", "pair", "train")
    assert not opened.artifact("scores/red").done
    texts = captions(opened)
    rows = opened.artifact("pairs").read_table("pairs.parquet").to_pylist()
    expected = [([0], [1]), ([1], [0]), ([], []), ([1], [0])]
    assert [texts[row["prompt_id"]] for row in rows] == [caption for caption, *_ in HUMAN]
    assert [(row["chosen"], row["rejected"]) for row in rows] == expected
    assert [row["combined"] for row in rows] == [[label, 1 - label] for *_, label in HUMAN]
    prompts, counts = read_pairs(opened.artifact("pairs"), 0.0)
    assert (counts.used, counts.no_pair) == (3, 1)  # a tie has no gradient
    assert all(pairs.delta_reward(*pairs.allowed[0].tolist()) == 1 for pairs in prompts)
    first = opened.artifact("train").read_json_lines("metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(np.log(2))
    page = run(settings, tmp_path / "run").report.read_text()
    assert "Existing images of" in page

    # How often the redder image is the preferred one, the tie left out.
    def redness(seed):
        return np.asarray(Image.open(io.BytesIO(picture(seed))), dtype=float)[..., 0].mean()

    agreed = [(redness(a) > redness(b)) == (label > 0.5) for _, a, b, label in HUMAN if label != 0.5]
    report = calibration_report(settings, Run(tmp_path / "run"))
    assert report.agreement["red"] == pytest.approx(np.mean(agreed))
    assert report.rewards[0].name == "labels"
    assert report.rewards[0].ties == 0.25


def test_unreadable_images_are_skipped_and_counted(tmp_path, sdxl, capsys, monkeypatch):
    image_folder(tmp_path / "images")
    (tmp_path / "images" / "a green cat" / "1.png").write_bytes(picture(0, form="GIF"))
    (tmp_path / "images" / "a blue cat" / "0.png").write_bytes(picture(0, (400, 300)))
    settings = recipe(tmp_path, sdxl, tmp_path / "images")
    with pytest.raises(
        ImagesError,
        match=r"1 of 10 images cannot be read(.|\n)*a green cat/1.png: .* it is a GIF",
    ):
        run_stages(settings, tmp_path / "strict", "prompts", "generate")
    lenient = recipe(tmp_path, sdxl, tmp_path / "images", pairs={"max_skipped": 0.2})
    monkeypatch.setenv("CAPO_QUIET", "0")
    opened = run_stages(lenient, tmp_path / "run", "prompts", "generate", "score", "pair")
    assert opened.artifact("samples").summary == {
        "prompts": 4, "samples": 9, "unreadable": 1, "enlarged": 8,
    }  # fmt: skip
    assert "a green cat/1.png: not a readable image: it is a GIF" in capsys.readouterr().err
    names = [row["origin"] for row in samples_of(opened) if row["origin"].startswith("a green")]
    assert names == [f"a green cat/{n}.png" for n in (0, 2, 3)]


def test_an_interrupted_import_resumes(tmp_path, sdxl, monkeypatch):
    image_folder(tmp_path / "images")
    settings = recipe(tmp_path, sdxl, tmp_path / "images", generate={"shard_prompts": 1})
    whole = run_stages(settings, tmp_path / "whole", "prompts", "generate").artifact("samples").digest
    run_stages(settings, tmp_path / "run", "prompts")
    write, calls = Artifact.write_table, []

    def stop(self, relative, table):
        calls.append(relative)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, relative, table)

    with monkeypatch.context() as patched:
        patched.setattr(Artifact, "write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stages(settings, tmp_path / "run", "generate")
    written = (tmp_path / "run" / "samples").glob("*.parquet")
    assert sorted(path.name for path in written) == calls[:2]
    needed = []
    monkeypatch.setattr(
        "capo.images.sample_import.check_space", lambda space, folder: needed.append(space.images)
    )
    with monkeypatch.context() as patched:  # an earlier version began it
        patched.setattr(Artifact, "write_table", lambda *a: write(*a[:2], _as_before(*a[1:])))
        other = run_stages(settings, tmp_path / "other", "prompts", "generate")
    assert other.artifact("samples").summary["enlarged"] == 10
    assert run_stages(settings, tmp_path / "run", "generate").artifact("samples").digest == whole
    assert needed[1] < needed[0], "imported shards need no space"


def _as_before(relative, table):
    """The table of the first shard without the column that earlier versions did not write."""
    return table.drop_columns(["enlarged"]) if relative == "shard-00000.parquet" else table


def test_changed_images_make_the_run_stale(tmp_path, sdxl):
    image_folder(tmp_path / "images")
    settings = recipe(tmp_path, sdxl, tmp_path / "images", prompts={"count": 2})
    run_stages(settings, tmp_path / "run", "prompts")
    assert len(captions(Run(tmp_path / "run"))) == 2
    (tmp_path / "images" / "two dogs" / "9.png").write_bytes(picture(99))
    (prompts, *_) = status(settings, tmp_path / "run")
    assert prompts.state == "stale"
    assert list(prompts.changes) == ["images.content"]


@pytest.mark.parametrize("layout", ["pick-a-pic", "folder"])
def test_exported_pairs_are_imported_unchanged(layout, prepared, tmp_path, sdxl):
    settings = tiny_training.recipe(tmp_path, sdxl)
    written = export(settings, Run(prepared), tmp_path / "out", layout)
    before = all_pairs(Run(prepared))
    assert written["pairs"] == len(before) > 10

    again = recipe(tmp_path, sdxl, tmp_path / "out", pairs={"selection": "labels"})
    opened = run_stages(again, tmp_path / "run", "prompts", "generate", "pair")
    after = all_pairs(opened)
    assert [each[:3] for each in after] == [each[:3] for each in before]
    assert [each[3] for each in after] == pytest.approx([each[3] for each in before], abs=1e-12)
    with pytest.raises(ValueError, match="exists already"):
        export(settings, Run(prepared), tmp_path / "out", layout)


def test_export_and_show_commands(prepared, tmp_path, sdxl):
    settings = tmp_path / "tiny.yaml"
    settings.write_text(dump_recipe(tiny_training.recipe(tmp_path, sdxl)))
    out = tmp_path / "out"
    written = CliRunner().invoke(
        app, ["data", "export", str(settings), "--run", str(prepared), "--to", str(out), "--per-prompt", "2"]
    )
    assert written.exit_code == 0, written.output
    shown = CliRunner().invoke(app, ["data", "show", str(out), "--json"])
    counts = json.loads(shown.stdout)
    assert f"{counts['with_label']} pairs of {counts['prompts']} prompts" in written.output
    assert counts["images"] == 2 * counts["with_label"] <= 4 * counts["prompts"]
    assert counts["ties"] == 0
    missing = CliRunner().invoke(app, ["data", "show", str(tmp_path / "nowhere")])
    assert missing.exit_code == 1
    assert "does not exist" in missing.output


def all_pairs(opened):
    """Return caption, both image files and ΔR of all pairs that may be trained on, sorted."""
    rows, texts = {}, captions(opened)
    artifact = opened.artifact("samples")
    for name in artifact.files():
        if name.endswith(".parquet"):
            for row in artifact.read_table(name, ["prompt_id", "sample", "image"]).to_pylist():
                rows[row["prompt_id"], row["sample"]] = row["image"]["bytes"]
    prompts, _ = read_pairs(opened.artifact("pairs"), 0.0)
    return sorted(
        (texts[p.prompt_id], rows[p.prompt_id, a], rows[p.prompt_id, b], p.delta_reward(a, b))
        for p in prompts
        for a, b in p.allowed.tolist()
    )


def test_exported_columns_are_those_of_pick_a_pic(prepared, tmp_path, sdxl):
    """The scripts of Diffusion-DPO read the bytes of two images and a label that is 0 or 1."""
    settings = tiny_training.recipe(tmp_path, sdxl)
    written = export(settings, Run(prepared), tmp_path / "out", "pick-a-pic", per_prompt=1)
    files = sorted((tmp_path / "out").rglob("*"))
    assert [file.name for file in files] == [
        "data",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    rows = [row for file in files[1:] for row in pq.read_table(file).to_pylist()]
    assert len(rows) == written["pairs"] == written["prompts"]
    assert all(pq.ParquetFile(file).num_row_groups == 1 for file in files[1:])
    allowed = all_pairs(Run(prepared))
    for row in rows:
        assert (row["label_0"], row["label_1"]) in ((1.0, 0.0), (0.0, 1.0))
        chosen, rejected = ("jpg_0", "jpg_1") if row["label_0"] else ("jpg_1", "jpg_0")
        assert (row["caption"], row[chosen], row[rejected], row["delta_reward"]) in allowed
        assert Image.open(io.BytesIO(row[chosen])).size == (32, 32)
        assert row["best_image_uid"] == row["image_0_uid" if row["label_0"] else "image_1_uid"]
    assert {row["label_0"] for row in rows} == {0.0, 1.0}  # the order is arbitrary


def test_an_exported_folder_is_also_an_image_folder(prepared, tmp_path, sdxl):
    export(tiny_training.recipe(tmp_path, sdxl), Run(prepared), tmp_path / "out", "folder")
    (tmp_path / "out" / "pairs.jsonl").unlink()
    source = open_images(ImagesSection(source=str(tmp_path / "out")))
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    assert sum(len(entry.images) for entry in source.entries) == len(lines) == len(set(lines))
    assert {entry.prompt.text for entry in source.entries} == {json.loads(line)["text"] for line in lines}


def test_contradictions_between_images_and_prompts(tmp_path, sdxl):
    def problem(**sections):
        values = tiny_training.recipe(tmp_path, sdxl).model_dump(mode="json")
        with pytest.raises(RecipeError) as raised:
            parse_recipe(values | sections)
        return str(raised.value)

    images, captioned = {"source": "x"}, {"source": "images"}
    assert "prompts.source" in problem(images=images)
    assert "images: missing" in problem(prompts=captioned)
    assert "labels need the section images" in problem(pairs={"selection": "labels"})
    both = {"images": images, "prompts": captioned}
    assert "prompts.where: does not apply to the captions" in problem(
        **both | {"prompts": captioned | {"where": [["a", "==", 1]]}}
    )
    assert "evaluate.prompts.source: the model is trained on the images" in problem(
        **both, evaluate={"prompts": captioned}
    )
