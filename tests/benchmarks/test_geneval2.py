"""GenEval 2: Soft-TIFA on a tiny Qwen3-VL, its means, and its official files."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny_language_rewards
from capo.benchmarks.geneval2 import GENEVAL2
from capo.benchmarks.judges.soft_tifa import SoftTifa, check_attention, geometric_mean, spellings
from capo.pretrained.model_loading import quiet
from capo.prompts.prompt import make_prompt


def prompt(text, *questions):
    vqa = [[question, answer] for question, answer, _ in questions]
    metadata = {"atom_count": 3, "vqa_list": vqa, "skills": [skill for *_, skill in questions]}
    return make_prompt(text, "3 atoms", metadata)


PROMPTS = [
    prompt(
        "two red circle",
        ("How many red circle is this ?", "two", "count"),
        ("Is this red ?", "Yes", "attribute"),
    ),
    prompt("a blue square", ("Does this show a blue square ?", "Yes", "object")),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with quiet():
        return tiny_language_rewards.qwen3_vl(tmp_path_factory.mktemp("qwen3-vl"))


@pytest.fixture(scope="module")
def direct(checkpoint):
    """The tokenizer, and a function that returns the probabilities of the whole vocabulary, without capo."""
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint).eval()

    def next_token(image, question):
        vision = processor(images=[image], return_tensors="pt")
        pad = "<|image_pad|> " * (int(vision.image_grid_thw.prod()) // 4)
        text = f"<|vision_start|>{pad}<|vision_end|>{question} Answer in one word.<|im_end|>  ASSISTANT\n"
        ids = tokenizer(text, return_tensors="pt").input_ids
        kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
        with torch.inference_mode():
            output = model(input_ids=ids, mm_token_type_ids=kinds, **vision)
        return output.logits[0, -1].softmax(-1)

    return tokenizer, next_token


def test_answers_are_sums_of_probabilities_of_first_tokens(checkpoint, direct):
    tokenizer, next_token = direct
    image = Image.new("RGB", (64, 64), "red")
    judge = SoftTifa(str(checkpoint))
    judge.check(PROMPTS)
    rows = judge.load(torch.device("cpu"))([image, image], PROMPTS)
    for row, asked in zip(rows, PROMPTS, strict=True):
        assert [a["skill"] for a in row["answers"]] == asked.metadata["skills"]
        for answer in row["answers"]:
            probabilities = next_token(image, answer["question"])
            texts = spellings(answer["question"], answer["answer"])
            ids = [tokenizer.encode(text, add_special_tokens=False)[0] for text in texts]
            assert answer["score"] == pytest.approx(sum(float(probabilities[i]) for i in ids), rel=1e-4)
            once = sum(float(probabilities[i]) for i in set(ids))
            assert answer["deduplicated"] == pytest.approx(once, rel=1e-4)
            assert answer["deduplicated"] < answer["score"]  # spaces and capitals share tokens here
            assert answer["said"] == tokenizer.decode(int(probabilities.argmax()))
        product = math.prod(answer["score"] for answer in row["answers"])
        assert row["score"] == pytest.approx(product ** (1 / len(row["answers"])))
    json.dumps(rows)


def test_spellings():
    assert spellings("Is it red?", "Yes") == ["Yes", "yes", " yes", " Yes"]
    seven = ["seven", "Seven", " seven", " Seven", "7", " 7"]
    assert spellings("How many cats are in the image?", "seven") == seven


@pytest.mark.parametrize(
    ("answer", "ignored"),
    [
        (lambda image, question: 0.4, "questions"),
        (lambda image, question: 0.1 if image.getpixel((224, 224)) == (255, 0, 0) else 0.2, "questions"),
        (lambda image, question: 0.1 if "red" in question else 0.2, "images"),
    ],
)
def test_a_model_that_ignores_what_it_is_asked_is_rejected(answer, ignored):
    with pytest.raises(ValueError, match=f"ignores the {ignored}"):
        check_attention(lambda image, question, _: {"score": answer(image, question)}, "model")


def test_a_model_with_dead_weights_is_rejected_when_it_is_loaded(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    (head,) = (name for name in weights if name.startswith("lm_head"))
    save_file(
        weights | {head: torch.zeros_like(weights[head])}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match="ignores the questions"):
        SoftTifa(str(tmp_path)).load(torch.device("cpu"))


def test_only_qwen3_vl_8b_is_official(checkpoint):
    official = GENEVAL2.judges["qwen3-vl"]()
    assert (official.official, official.name) == (True, "Soft-TIFA")
    other = SoftTifa(str(checkpoint))
    assert not other.official
    assert str(checkpoint) in other.name
    assert other.fingerprint != official.fingerprint


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "vqa_list"),
        ({"vqa_list": [["How many cats?", "some"]], "skills": ["count"]}, "one to ten"),
        ({"vqa_list": [["Is it?", "Yes"]], "skills": ["mood"]}, "mood"),
        ({"vqa_list": [["Is it?", "Yes"]], "skills": []}, "0 skills"),
        ({"vqa_list": ["Is it?"], "skills": ["object"]}, "pairs"),
    ],
)
def test_prompts_without_questions_are_rejected(checkpoint, metadata, named):
    with pytest.raises(ValueError, match=named):
        SoftTifa(str(checkpoint)).check([make_prompt("a cat", "3 atoms", metadata)])


def row(number, category, *answers):
    keys = ("skill", "score", "deduplicated")
    return {"prompt": number, "image": 0, "category": category,
            "answers": [dict(zip(keys, answer, strict=True)) for answer in answers]}  # fmt: skip


ROWS = [
    row(0, "3 atoms", ("object", 0.9, 0.8), ("count", 0.4, 0.4)),
    row(1, "4 atoms", ("object", 0.5, 0.5), ("object", 0.1, 0.1), ("verb", 0.0, 0.0)),
]


def test_means_over_prompts_questions_and_atoms():
    """Soft-TIFA's formulas, with numbers small enough to check by hand."""
    scores = {score.name: score.value for score in GENEVAL2.summarize(ROWS, "official").scores}
    assert scores == {
        "GM": pytest.approx((math.sqrt(0.9 * 0.4) + 0) / 2),
        "AM": pytest.approx((1.3 / 2 + 0.6 / 3) / 2),
        "object": pytest.approx(1.5 / 3),
        "count": 0.4,
        "verb": 0.0,
        "3 atoms": pytest.approx(0.6),
        "4 atoms": 0.0,
    }
    once = {score.name: score.value for score in GENEVAL2.summarize(ROWS, "deduplicated").scores}
    assert once["GM"] == pytest.approx(math.sqrt(0.8 * 0.4) / 2)
    assert once["object"] == pytest.approx(1.4 / 3)
    assert GENEVAL2.summarize([], "official").scores[0].value is None


def test_geometric_means_equal_scipys():
    from scipy.stats import gmean

    for values in ([0.5], [0.1, 0.9, 0.3], [1e-12, 1.0], [0.2, 0.0]):
        assert geometric_mean(values) == pytest.approx(float(gmean(values)), rel=1e-12)


def test_official_files():
    layout = GENEVAL2.layout
    paths = json.loads(layout.companions(PROMPTS)["image_paths.json"])
    assert paths == {"two red circle": "images/00000.png", "a blue square": "images/00001.png"}
    assert [layout.path(n, p, 0) for n, p in enumerate(PROMPTS)] == list(paths.values())
    lists = json.loads(layout.results(PROMPTS, ROWS)["score_lists.json"])
    assert lists == [[0.9, 0.4], [0.5, 0.1, 0.0]]
    assert layout.results(PROMPTS, ROWS[:1]) == {}  # a line less would shift all that follow
