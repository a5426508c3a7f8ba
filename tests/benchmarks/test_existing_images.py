"""Benchmarks on folders of images: what counts, what is a gap, and what is refused."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import tiny_benchmark
from capo.benchmarks.official_files import OfficialImages
from capo.prompts import make_prompt
from capo.store import Run
from tiny_benchmark import GRID, measure, write_images, write_prompts

REDS = [[255, 255], [255, 0], [0, 0], [128, 255]]


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    tiny_benchmark.install(monkeypatch)


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path, "a cat", "a dog", "a cat", "a cow")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", REDS)


def only(results):
    (row,) = results["scores"]
    return row


def test_a_failed_judgment_is_a_counted_gap_and_repeated_prompts_count_twice(tmp_path, images, prompts):
    results = measure(tmp_path / "run", images, prompts)
    tuned = only(results)["tuned"]
    assert (tuned["value"], tuned["prompts"]) == ((1 + 0.5 + 0 + 1) / 4, 4)
    assert results["missing"] == {"base": 0, "tuned": 1, "reasons": ["no red and no blue"]}
    assert results["details"] == {"tuned": {"rows": 7}}
    assert any("no judgment" in reason for reason in results["not_comparable"])
    assert "1 of 8 images" in results["warnings"][0]
    folder = tmp_path / "run/benchmarks/tiny/results"
    official = (folder / "official/tuned/results.txt").read_text()
    assert official.splitlines()[6] == "3 None"
    page = (folder / "index.html").read_text()
    assert "no red and no blue" in page
    assert "somebody&#39;s model" in page
    assert "must not be compared" in page


def test_two_folders_are_compared_by_prompt(tmp_path, images, prompts):
    better = write_images(tmp_path / "better", [[255, 255], [255, 255], [255, 0], [255, 255]])
    results = measure(tmp_path / "run", better, prompts, against=images)
    change = only(results)["difference"]
    assert change["value"] == pytest.approx((0 + 0.5 + 0.5 + 0) / 4)
    assert (change["sign_test"]["won"], change["sign_test"]["lost"], change["sign_test"]["tied"]) == (2, 0, 2)
    assert results["flips"] == {"gained": 2, "lost": 0, "both_right": 4, "both_wrong": 1}
    assert results["models"] == {"base": images, "tuned": better}


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_gallery_is_filtered_without_scripts(browser, tmp_path, images, prompts, size):
    better = write_images(tmp_path / "better", [[255, 0], [255, 255], [255, 0], [255, 255]])
    measure(tmp_path / "run", better, prompts, against=images)
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.goto((tmp_path / "run/benchmarks/tiny/results/index.html").as_uri())
    cards = "[...document.querySelectorAll('.card')].filter(e => e.checkVisibility()).map(e => e.className)"
    shown = tab.evaluate(cards)
    assert len(shown) == 8
    assert all({"gained", "lost"} & set(names.split()) for names in shown[:3])  # changed verdicts come first
    for kind, count in {"lost": 1, "gained": 2, "right": 3, "wrong": 1, "unknown": 1}.items():
        tab.locator(f"label[for=kind-{kind}]").click()
        shown = tab.evaluate(cards)
        assert (len(shown), all(kind in names.split() for names in shown)) == (count, True), kind
    assert messages == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    tab.close()


def test_a_variant_reads_the_same_judgments_and_another_judge_the_same_images(tmp_path, images, prompts):
    official = measure(tmp_path / "run", images, prompts)

    def made(name):
        return (tmp_path / "run/benchmarks/tiny" / name).stat().st_mtime_ns

    before = made("images/tuned/shard-00000.parquet"), made("judgments/tuned/judgments.jsonl")
    again = {"directory": tmp_path / "run", "images": images, "prompts": prompts}
    with pytest.raises(RuntimeError, match="variant"):
        measure(**again, variant="halved")
    shutil.rmtree(tmp_path / "run/benchmarks/tiny/results")
    (tmp_path / "run/manifests/benchmarks/tiny/results.json").unlink()
    (tmp_path / "run/manifests/benchmarks/tiny/results.inputs.json").unlink()
    halved = measure(**again, variant="halved")
    assert only(halved)["tuned"]["value"] == only(official)["tuned"]["value"] / 2
    assert before == (made("images/tuned/shard-00000.parquet"), made("judgments/tuned/judgments.jsonl"))
    with pytest.raises(RuntimeError, match="judge"):
        measure(**again, variant="halved", judge="other")


def test_a_grid_is_split_into_its_tiles_and_written_again(tmp_path):
    prompts = write_prompts(tmp_path, "a cat", "a dog")
    folder = tmp_path / "grids"
    folder.mkdir()
    for number, reds in enumerate(([255, 0, 255, 255], [0, 0, 0, 255])):
        pixels = np.zeros((16, 16, 3), np.uint8)
        for tile, red in enumerate(reds):
            pixels[tile // 2 * 8 :, tile % 2 * 8 :, 0] = red
        Image.fromarray(pixels).save(folder / f"{number}.png")
    results = measure(tmp_path / "run", str(folder), prompts, "grid", export="official")
    assert only(results)["tuned"]["value"] == (0.75 + 0.25) / 2
    for number in range(2):
        written = Image.open(tmp_path / f"run/benchmarks/grid/official/tuned/{number}.png")
        assert np.array_equal(np.asarray(written), np.asarray(Image.open(folder / f"{number}.png")))
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.new("RGB", (9, 8)).save(odd / "0.png")
    source = OfficialImages(odd, GRID.layout, [make_prompt("a cat")], 4)
    with pytest.raises(ValueError, match="grid"):
        source.read(source.entries[0].images[0])


@pytest.mark.parametrize("bad", tiny_benchmark.BAD)
def test_a_judge_that_misbehaves_is_an_error_and_leaves_no_scores(tmp_path, images, prompts, bad):
    with pytest.raises((ValueError, ZeroDivisionError)) as error:
        measure(tmp_path / "run", images, prompts, options={"bad": bad})
    if bad != "raises":
        assert "redness" in str(error.value)
    run = Run(tmp_path / "run")
    assert run.artifact("benchmarks/tiny/images/tuned").done
    assert not run.artifact("benchmarks/tiny/judgments/tuned").done
    assert not run.artifact("benchmarks/tiny/results").done


def break_image(folder):
    (folder / "1" / "1.png").write_bytes(b"\x89PNG not really")


def outside(folder):
    (folder / "1" / "1.png").unlink()
    (folder / "1" / "1.png").symlink_to("/etc/hostname")


def pipe(folder):
    (folder / "1" / "1.png").unlink()
    os.mkfifo(folder / "1" / "1.png")


def missing(folder):
    (folder / "1" / "1.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_image, r"1/1\.png"),
        (outside, r"1/1\.png.*outside"),
        (pipe, r"1/1\.png.*regular"),
        (missing, r"1 images of prompt 1.*benchmarks\.tiny\.images is 2"),
    ],
)
def test_images_that_cannot_be_read_are_refused_by_name(tmp_path, images, prompts, spoil, message):
    spoil(tmp_path / "images")
    with pytest.raises((ValueError, OSError), match=message):
        measure(tmp_path / "run", images, prompts)
    assert not Run(tmp_path / "run").artifact("benchmarks/tiny/images/tuned").done


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": "no/such/file.txt"}, "no/such/file"),
        ({"judge": "reddness"}, r"benchmarks\.tiny\.judge.*redness"),
        ({"variant": "fixed"}, r"benchmarks\.tiny\.variant.*halved"),
        ({"options": {"bad": "unheard-of"}}, r"benchmarks\.tiny\.options.*unheard-of"),
        ({"options": {"colour": "red"}}, r"benchmarks\.tiny\.options.*colour"),
        ({"count": 9}, r"count is 9"),
        ({"name": "tyni"}, r"no benchmark 'tyni'.*tiny"),
        ({"against": "no-such-model"}, r"benchmarks\.tiny\.against"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path, images, prompts, given, message
):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path / "run", images, **({"prompts": prompts} | given))
    assert not (tmp_path / "run/benchmarks").exists()


def test_prompts_that_the_judge_cannot_judge_are_refused_first(tmp_path, images):
    prompts = write_prompts(tmp_path, "a cat", "an unjudgeable one", "a cat", "a cow")
    with pytest.raises(ValueError, match="unjudgeable"):
        measure(tmp_path / "run", images, prompts)
    assert not (tmp_path / "run/benchmarks").exists()


def test_text_of_prompts_and_judges_is_inert_on_the_page(tmp_path, images):
    hostile = "<script>alert(1)</script>{{ 7 * 7 }}"
    prompts = write_prompts(tmp_path, hostile, "a dog", "a cat", "a cow")
    measure(tmp_path / "run", images, prompts)
    page = (tmp_path / "run/benchmarks/tiny/results/index.html").read_text()
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#|\.\./)", page)
    rows = (tmp_path / "run/benchmarks/tiny/judgments/tuned/judgments.jsonl").read_text().splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
