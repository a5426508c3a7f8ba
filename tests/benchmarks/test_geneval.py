"""GenEval's judge on tiny networks, its scores, and its official files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmdet_network
import tiny_rewards
from capo.benchmarks.geneval import GENEVAL
from capo.benchmarks.geneval_rules import CLASSES, COLORS, SegmentedObject
from capo.benchmarks.judges import mask2former
from capo.benchmarks.judges.color_classifier import ColorClassifier, cut_out
from capo.benchmarks.judges.geneval_judge import GenEvalJudge, outline
from capo.benchmarks.registry import load_benchmark
from capo.pretrained.model_loading import quiet
from capo.prompts.prompt import make_prompt

RESULT_FIELDS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
"""Columns of the official results, which the official summary reads."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    with quiet():
        return tiny_rewards.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Weights that find bears and books everywhere, but are not certain."""
    weights = mmdet_network.weights()
    head = weights["panoptic_head.cls_embed.bias"]
    head[[CLASSES.index(name) for name in ("bear", "book")]] += torch.tensor([9.0, 8.0])
    path = tmp_path_factory.mktemp("mmdet") / "mask2former.pth"
    torch.save({"state_dict": weights}, path)
    return path


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(mask2former, "SHORT_SIDE", 64)


def prompt(text, tag, *include, **more):
    return make_prompt(text, tag, {"tag": tag, "include": list(include), **more})


def clause(name, count=1, **more):
    return {"class": name, "count": count, **more}


PROMPTS = [
    prompt("a photo of a bear", "single_object", clause("bear")),
    prompt("a photo of a cow", "single_object", clause("cow")),
    prompt("a photo of a red bear", "colors", clause("bear", color="red")),
    prompt("a photo of two books", "counting", clause("book", 2), exclude=[clause("book", 3)]),
]


def picture(seed=0, size=(64, 64)):
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def test_images_are_judged_by_the_rules_over_what_the_networks_see(detector, clip, small):
    judge = GenEvalJudge(str(detector), str(clip))
    judge.check(PROMPTS)
    images = [picture(seed) for seed in range(4)]
    rows = judge.load(torch.device("cpu"))(images, PROMPTS)
    bear, cow, red, books = rows
    assert bear["correct"]
    assert bear["reason"] == ""
    assert {box["class"] for box in bear["boxes"]} <= {"bear", "book"}
    assert (cow["correct"], cow["reason"]) == (False, "expected cow>=1, found 0")
    best = next(box for box in red["boxes"] if box["class"] == "bear")
    color = next(c for c in COLORS if best["label"].startswith(f"{c} bear"))
    assert red["correct"] == (color == "red")
    assert not any(box["label"].startswith(COLORS) for box in bear["boxes"])  # no color was asked for
    assert any(box["class"] == "book" for box in bear["boxes"])
    assert books["reason"] == "expected book>=2, found 0"  # counting asks for 0.9
    assert books["boxes"] == []
    assert all(0 <= x <= 64 for box in bear["boxes"] for point in box["outline"] for x in point)
    assert judge.load(torch.device("cpu"))(images[2:3], PROMPTS[2:3]) == [red]  # whatever its neighbors
    json.dumps(rows)


def test_only_the_official_weights_are_official(detector, clip, tmp_path, monkeypatch):
    judge = GenEvalJudge(str(detector), str(clip))
    assert not judge.official
    assert "mask2former.pth" in judge.name
    conversion = GENEVAL.judges["hf-mask2former"]()
    assert (conversion.official, conversion.name) == (False, "GenEval (HF Mask2Former)")
    monkeypatch.setattr("capo.benchmarks.judges.geneval_judge._sha256", lambda *_: "743b7d99" + "0" * 56)
    official = GenEvalJudge(str(detector))
    assert (official.official, official.name) == (True, "GenEval")
    assert not GenEvalJudge(str(detector), str(clip)).official  # other colors
    first = judge.fingerprint
    Path(detector).touch()
    assert GenEvalJudge(str(detector), str(clip)).fingerprint == first
    (tmp_path / "other.pth").write_bytes(detector.read_bytes()[:-1])
    assert GenEvalJudge(str(tmp_path / "other.pth"), str(clip)).fingerprint != first


def test_wrong_judges_and_prompts_are_rejected_before_anything_is_loaded(detector, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"curl -LO https://download\.openmmlab\.com/.*743b7d99\.pth"):
        GENEVAL.judges["mask2former"]()
    with pytest.raises(ValueError, match="neither a file"):
        GenEvalJudge(str(tmp_path / "absent.pth"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hf download owner/detector"):
        GenEvalJudge("owner/detector").check(PROMPTS)
    with pytest.raises(ValueError, match=r"'a zebu'.*zebu"):
        GenEvalJudge(str(detector)).check([prompt("a zebu", "single_object", clause("zebu"))])


def test_an_image_that_cannot_be_judged_is_a_gap(detector, clip, small):
    weights = torch.load(detector)["state_dict"]
    weights["panoptic_head.cls_embed.bias"][0] = 1e38
    weights["panoptic_head.cls_embed.weight"][0] = 3e38
    torch.save({"state_dict": weights}, detector.with_name("broken.pth"))
    judge = GenEvalJudge(str(detector.with_name("broken.pth")), str(clip)).load(torch.device("cpu"))
    ((field, why),) = judge([picture()], PROMPTS[:1])[0].items()
    assert field == "failed"
    assert "not finite" in why


def test_colors_follow_the_official_classifier(clip):
    """Templates averaged as unit vectors, the crop on gray, against CLIP used directly."""
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip import CLIPImageProcessorPil

    image, mask = picture(3, (40, 30)), np.zeros((30, 40), dtype=bool)
    mask[5:20, 8:31] = True
    mask[5:9, 8:12] = False
    item = SegmentedObject(np.array([8, 5, 31, 20, 0.9], np.float32), mask)
    crop = np.asarray(cut_out(image, item))
    assert crop.shape == (15, 23, 3)
    assert (crop[:4, :4] == 0x99).all()
    assert np.array_equal(crop[4:, 4:], np.asarray(image)[9:20, 12:31])
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    scores = []
    for color in COLORS:
        texts = [
            f"a photo of a {color} dog",
            f"a photo of a {color}-colored dog",
            f"a photo of a {color} object",
        ]
        vectors = []
        for text in texts:
            tokens = tokenizer([text], return_tensors="pt", truncation=True, max_length=16)
            vector = model.get_text_features(**tokens).pooler_output[0].detach()
            vectors.append(vector / vector.norm())
        scores.append(torch.stack(vectors).mean(0))
    processor = CLIPImageProcessorPil.from_pretrained(clip)
    pixels = processor(Image.fromarray(crop), return_tensors="pt").pixel_values
    feature = model.get_image_features(pixels).pooler_output[0].detach()
    cosines = [float(vector @ feature / vector.norm()) for vector in scores]
    classifier = ColorClassifier(str(clip), "cpu")
    ours = torch.stack([classifier._prepare(cut_out(image, item))])
    torch.testing.assert_close(ours, pixels)  # 15 x 23 leaves an even remainder, where both crop alike
    assert classifier.colors(image, [item] * 20, "dog") == [COLORS[int(np.argmax(cosines))]] * 20


def test_an_outline_goes_around_the_mask():
    mask = np.zeros((50, 60), dtype=bool)
    mask[10:40, 20:30] = True
    points = outline(mask)
    assert ([20, 10] in points, [30, 39] in points) == (True, True)
    assert {x for x, _ in points} == {20, 30}
    assert outline(np.zeros((3, 3), dtype=bool)) == []


def row(number, image, correct, boxes=()):
    category = PROMPTS[number].category
    reason = "" if correct else "expected"
    return {"prompt": number, "image": image, "category": category, "correct": correct, "reason": reason,
            "boxes": list(boxes)}  # fmt: skip


def test_scores_are_means_of_images_in_a_category_and_of_categories():
    outcomes = {(0, 0): 1, (0, 1): 1, (1, 0): 0, (1, 1): 1, (2, 0): 0, (2, 1): 0, (3, 0): 1, (3, 1): 1}
    rows = [row(*place, bool(correct)) for place, correct in outcomes.items()]
    summary = GENEVAL.summarize(rows, "official")
    values = {score.name: score.value for score in summary.scores}
    assert values == {"overall": pytest.approx(7 / 12), "single_object": 0.75, "colors": 0, "counting": 1}
    assert summary.overall == "overall"
    assert summary.details == {"images": 8, "prompts": 4, "correct_images": 5 / 8, "correct_prompts": 3 / 4}
    assert GENEVAL.summarize([], "official").scores[0].value is None


def test_official_files():
    box = {"box": [1.0, 2.0, 3.0, 4.0], "class": "bear", "confidence": 0.5, "label": "bear 0.50"}
    rows = [row(0, 1, True, [box, {**box, "class": "book"}, box]), {"prompt": 1, "image": 0, "failed": "why"}]
    layout = GENEVAL.layout
    assert layout.path(7, PROMPTS[0], 3) == "00007/samples/00003.png"
    companions = layout.companions(PROMPTS)
    line = '{"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"}'
    assert companions["00001/metadata.jsonl"] == line  # byte for byte as in the official prompts
    ((name, text),) = layout.results(PROMPTS, rows).items()
    (result,) = map(json.loads, text.splitlines())
    assert (name, list(result)) == ("results.jsonl", RESULT_FIELDS)
    assert result["filename"] == "00000/samples/00001.png"
    assert json.loads(result["metadata"])["prompt"] == "a photo of a bear"
    assert json.loads(result["details"]) == {"bear": [[1, 2, 3, 4, 0.5]] * 2, "book": [[1, 2, 3, 4, 0.5]]}
    assert result["correct"] is True


def test_published_overall_scores_are_means_of_their_categories():
    assert load_benchmark("geneval", "x") is GENEVAL
    for published in GENEVAL.published:
        (*categories,) = (value for name, value in published.scores.items() if name != "overall")
        assert len(categories) == 6
        assert published.scores["overall"] == pytest.approx(sum(categories) / 6, abs=0.011), published.model
    assert set(GENEVAL.licenses) == {"prompts", *GENEVAL.judges}
