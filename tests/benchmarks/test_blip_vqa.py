"""BLIP-VQA against the arithmetic of its paper, from a checkpoint in the original layout."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import gelu

import tiny_blip_vqa
from blip_equations import BlipEquations
from capo.benchmarks.judges.blip_vqa import BlipVqa, clean_question, product
from capo.rewards import RewardError
from tiny_blip_vqa import SIZE, WORDS
from tiny_language_rewards import PIXELS

QUESTIONS = ["a green bench?", "a blue bowl and two red dogs?", "bench?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_blip_vqa.blip_vqa(tmp_path_factory.mktemp("blip-vqa"))


@pytest.fixture(scope="module")
def model(folder):
    return BlipVqa(str(folder / "model_base_vqa_capfilt_large.pth"), "cpu", str(folder))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(5).integers(0, 256, (2, PIXELS, PIXELS, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def expected(image, question):
    """The encoder reads [ENC] instead of [CLS]; the decoder, the start token only."""
    equations = BlipEquations(tiny_blip_vqa.vqa_weights())
    words = [WORDS[word] for word in question.replace("?", " ?").split()]
    ids = [SIZE - 1, *words, WORDS["[SEP]"]]
    asked = equations.encode_text("text_encoder", ids, equations.encode_image("visual_encoder", image))
    first = equations.encode_text("text_decoder.bert", [SIZE - 2], asked)
    head = "text_decoder.cls.predictions"
    hidden = equations.norm(
        f"{head}.transform.LayerNorm", gelu(equations.linear(f"{head}.transform.dense", first)), 1e-12
    )
    logits = equations.linear(f"{head}.decoder", hidden)[0]
    whole = logits.softmax(-1)
    yes, no = whole[WORDS["yes"]], whole[WORDS["no"]]
    return float(yes / (yes + no))


def test_an_answer_is_the_probability_of_yes_against_no(model, images):
    rows = [[expected(image, question) for question in QUESTIONS] for image in images]
    assert np.ptp(rows) > 0.01
    # four decimals, of float32 against float64
    np.testing.assert_allclose(model.probabilities(images, QUESTIONS), rows, atol=1.1e-4)


def test_the_layout_of_transformers_gives_the_same(model, folder, images, tmp_path):
    state = {name: tensor.clone() for name, tensor in model._model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = BlipVqa(str(tmp_path), "cpu")
    assert other.probabilities(images, QUESTIONS) == model.probabilities(images, QUESTIONS)


def test_images_of_any_shape_are_squeezed_into_the_square(model, images):
    large = images[0].resize((96, 40))
    square = large.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    assert model.probabilities([large], QUESTIONS) == model.probabilities([square], QUESTIONS)


def test_questions_are_cleaned_and_cut_at_fifty_words():
    assert clean_question('The "Red" bus #1 (old)! *; ') == "the red bus 1 old"
    assert clean_question("word " * 60 + "?") == " ".join(["word"] * 50)


def test_the_score_is_the_product_to_four_decimals():
    assert product([0.9, 0.5, 0.3333]) == 0.15
    assert product([]) == 1


def test_incomplete_weights_are_rejected(folder, tmp_path):
    weights = tiny_blip_vqa.vqa_weights()
    del weights["text_decoder.bert.encoder.layer.1.output.dense.bias"]
    torch.save({"model": weights}, tmp_path / "model.pth")
    with pytest.raises(RewardError, match="lacks weights"):
        BlipVqa(str(tmp_path / "model.pth"), "cpu", str(folder))
    torch.save({"model": {"x": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(RewardError, match="missing weights"):
        BlipVqa(str(tmp_path / "other.pth"), "cpu", str(folder))
