"""The images of a run as files and as contact sheets, by the command."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from capo.cli import app
from capo.images import open_images
from capo.images.contact_sheet import SheetRow, contact_sheet
from capo.recipe import ImagesSection
from capo.reporting import run_sheet
from capo.store import Run
from synthetic_run import Options, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    options = Options(prompts=3, samples=4, evaluation_prompts=2, evaluation_samples=2, steps=5, missing=1)
    return make_run(tmp_path_factory.mktemp("images") / "run", options)[1].path


def capo(*arguments, code=0):
    result = CliRunner().invoke(app, ["images", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_every_image_becomes_a_file_with_its_prompt_and_scores(folder, tmp_path):
    for purpose, count in (("samples", 12), ("evaluation", 12)):
        printed = json.loads(
            capo("export", folder, "--of", purpose, "--to", tmp_path / purpose, "--json").stdout
        )
        assert printed["images"] == {purpose: count}
        place = tmp_path / purpose / purpose
        rows = [json.loads(line) for line in (place / "metadata.jsonl").read_text().splitlines()]
        files = {path.relative_to(place).as_posix() for path in place.rglob("*.png")}
        assert {row["file_name"] for row in rows} == files
        assert len(rows) == count
        assert len({frozenset(row) for row in rows}) == 1  # `datasets` wants the same columns everywhere
        source = open_images(ImagesSection(source=str(place)))
        assert sum(len(entry.images) for entry in source.entries) == count


def test_files_and_scores_are_those_of_the_run(folder, tmp_path):
    capo("export", folder, "--of", "evaluation", "--to", tmp_path / "out")
    rows = (tmp_path / "out/evaluation/metadata.jsonl").read_text().splitlines()
    rows = {(row["model"], row["prompt_id"], row["sample"]): row for row in map(json.loads, rows)}
    artifact = Run(folder).artifact("evaluate")
    for stored in artifact.read_table("images/tuned/shard-00000.parquet").to_pylist():
        row = rows["tuned", stored["prompt_id"], stored["sample"]]
        assert (tmp_path / "out/evaluation" / row["file_name"]).read_bytes() == stored["image"]["bytes"]
    for scored in artifact.read_table("scores/tuned/vqa.parquet").to_pylist():
        assert rows["tuned", scored["prompt_id"], scored["sample"]]["score_vqa"] == scored["score"]


def test_a_contact_sheet_shows_the_last_images_there_are(folder, tmp_path):
    shown = json.loads(capo("show", folder, "--to", tmp_path / "sheet.png", "--json").stdout)
    assert shown["of"] == "evaluation"
    data = Run(folder).artifact("evaluate").read_table("images/tuned/shard-00000.parquet")["image"][0].as_py()
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(io.BytesIO(data["bytes"])) as tuned:
        assert sheet.size == (shown["width"], shown["height"])
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 20)}
        assert {color for _, color in tuned.convert("RGB").getcolors(1 << 20)} <= colors
    assert "Contact sheet" in capo("show", folder, "--of", "samples", "--to", tmp_path / "s.png").stdout


def test_columns_are_headed_in_words(folder, monkeypatch):
    monkeypatch.setattr(run_sheet, "contact_sheet", lambda _, headings: headings)
    assert run_sheet.run_sheet(Run(folder), "evaluation", 1) == ["base", "tuned", "base, other seeds"]


def test_images_that_are_not_made_are_named(folder, tmp_path):
    missing = capo("export", folder, "--of", "validation", "--to", tmp_path / "out", code=1).stderr
    assert "capo train" in missing
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    assert "exists already" in capo("export", folder, "--to", tmp_path / "mine", code=1).stderr
    assert "recipe.yaml" in capo("show", tmp_path, code=2).stderr


def test_images_of_a_sheet_keep_their_shape_and_order():
    red, wide = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (400, 100), "blue")
    sheet = np.asarray(contact_sheet([SheetRow("a long caption " * 9, (red, wide))], ("base", "tuned"), 100))
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (100, 100)
    blue_rows, blue_columns = np.nonzero((sheet == (0, 0, 255)).all(axis=-1))
    assert (np.ptp(blue_rows) + 1, np.ptp(blue_columns) + 1) == (25, 100)
    assert blue_columns.min() > columns.max()
