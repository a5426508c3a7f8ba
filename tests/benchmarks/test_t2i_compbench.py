"""T2I-CompBench from prompts to scores: files, judges, official results."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import tiny_blip_vqa
import tiny_grounding_dino
import tiny_rewards
from capo.benchmarks.compbench_phrases import Grammar, Word
from capo.benchmarks.compbench_spatial import spatial_score
from capo.benchmarks.definition import FAILED
from capo.benchmarks.judges import compbench_judge
from capo.benchmarks.judges.blip_vqa import BlipVqa
from capo.benchmarks.judges.compbench_judge import CompBenchJudge, in_frame
from capo.benchmarks.judges.grounding_dino import GroundingDino
from capo.benchmarks.t2i_compbench import T2I_COMPBENCH
from capo.prompts import PromptsError, make_prompt
from capo.prompts.benchmark_prompts import read_benchmark
from capo.recipe import RewardSection
from capo.rewards import load_reward

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "prompts" / "t2i_compbench"
TEXTS = {
    "color": ["a green bench and a blue bowl", "a red dog"],
    "spatial": ["a dog on the left of a cat"],
    "numeracy": ["two dogs"],
    "non_spatial": ["two dogs"],
    "complex": ["The red dog was near the bowl.", "Two dogs and a cat."],
}
ADJECTIVES, NOUNS = ("green", "blue", "red"), ("bench", "bowl", "dog", "cat", "dogs")


class WordListParser:
    """Knows the adjectives and nouns of the prompts above; every noun is a phrase."""

    identity = "word list"

    def __init__(self, model):
        pass

    def __call__(self, prompt):
        words = prompt.replace(".", " .").split()
        kinds = ["ADJ" if w in ADJECTIVES else "NOUN" if w in NOUNS else "X" for w in words]
        phrases = tuple(word for word in words if word in NOUNS)
        return Grammar(tuple(map(Word, words, kinds)), phrases)


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.setattr(compbench_judge, "Parser", WordListParser)


@pytest.fixture
def dataset(tmp_path):
    for category, texts in TEXTS.items():
        (tmp_path / f"{category}_val.txt").write_text("\r\n".join(texts), newline="")
    (tmp_path / "new_objects.txt").write_text("dog - dogs\ncat - cats\n")
    (tmp_path / "complex_val_spatial.txt").write_text("the red dog was near the bowl\n")
    (tmp_path / "complex_val_action.txt").write_text("A man eats.\n")
    return tmp_path


def prompts_in(folder):
    rows = read_benchmark("t2i-compbench", Path(folder))
    return [make_prompt(row.text, row.category, row.metadata) for row in rows]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    blip = BlipVqa(
        str(tiny_blip_vqa.blip_vqa(root / "original") / "model_base_vqa_capfilt_large.pth"),
        "cpu",
        str(root / "original"),
    )
    state = {name: tensor.clone() for name, tensor in blip._model.state_dict().items()}
    save_file(state, root / "original" / "model.safetensors", metadata={"format": "pt"})
    clip = tiny_rewards.clip(root / "clip")
    detector = tiny_grounding_dino.grounding_dino(root / "detector")
    return {"blip": str(root / "original"), "clip": str(clip), "detector": str(detector)}


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(2).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_the_lists_beside_the_prompts_become_metadata(dataset):
    by_text = {(p.category, p.text): p.metadata for p in prompts_in(dataset)}
    assert by_text["color", "a red dog"] == {"line": 1}
    assert by_text["numeracy", "two dogs"] == {"line": 0, "plurals": {"dog": "dogs"}}
    assert by_text["complex", "The red dog was near the bowl."]["relations"] == "spatial"
    assert by_text["complex", "Two dogs and a cat."]["relations"] == "both"
    (dataset / "new_objects.txt").write_text("dogs\n")
    with pytest.raises(PromptsError, match=r"new_objects\.txt:1"):
        prompts_in(dataset)


def test_every_category_has_its_own_measure(parser, dataset, weights, images):
    judge = CompBenchJudge(**weights, threshold=0.0)
    prompts = prompts_in(dataset)
    judge.check(prompts)
    rows = judge.load("cpu")([images[0]] * len(prompts), prompts)
    by_text = {(p.category, p.text): row for p, row in zip(prompts, rows, strict=True)}

    blip = BlipVqa(weights["blip"], "cpu")
    first = blip.probabilities(images[:1], ["bench?", "bowl?"])[0]
    color = by_text["color", "a green bench and a blue bowl"]
    assert color["score"] == color["scores"]["color"] == round(first[0] * first[1], 4)
    assert [answer["score"] for answer in color["answers"]] == first

    clip = load_reward(RewardSection(name="clipscore", checkpoint=weights["clip"]), "cpu")
    match = clip.score([images[0]] * 2, ["two dogs", "The dog was near the bowl ."])
    assert by_text["non_spatial", "two dogs"]["scores"] == {"non-spatial": pytest.approx(match[0])}

    detector = GroundingDino(weights["detector"], "cpu", 0.0)
    found = in_frame(detector.detect(images[0], ["dog", "cat"]), images[0].size)
    spatial = by_text["spatial", "a dog on the left of a cat"]
    expected = spatial_score(found, ("dog", "cat"), "on the left of")
    assert spatial["scores"] == {"spatial (Grounding DINO)": pytest.approx(expected)}
    assert len(spatial["boxes"]) == len(found)

    whole = by_text["complex", "The red dog was near the bowl."]
    assert whole["parts"]["action"] == pytest.approx(match[1])  # without adjectives
    mean = (whole["parts"]["attribute"] + whole["parts"]["spatial"]) / 2
    assert whole["scores"]["complex (3-in-1, Grounding DINO)"] == pytest.approx(mean)
    assert whole["scores"]["complex (BLIP-VQA)"] == whole["parts"]["attribute"]
    assert by_text["numeracy", "two dogs"]["scores"].keys() == {"numeracy (Grounding DINO)"}

    numbered = [
        {"prompt": n, "image": 0, "category": p.category, **row}
        for n, (p, row) in enumerate(zip(prompts, rows, strict=True))
    ]
    scores = {score.name: score for score in T2I_COMPBENCH.summarize(numbered, "official").scores}
    assert list(scores)[:2] == ["color", "spatial (Grounding DINO)"]
    assert len(scores["color"].values) == 2
    assert "spatial" not in scores  # another detector never stands beside official numbers


def test_only_the_image_that_fails_is_a_gap(parser, dataset, weights, images, monkeypatch):
    judge = CompBenchJudge(blip=weights["blip"], clip=weights["clip"])
    prompt = prompts_in(dataset)[1]
    answers = BlipVqa.probabilities

    def picky(self, shown, asked):
        if any(np.array_equal(image, images[1]) for image in shown):
            raise ValueError("not finite")
        return answers(self, shown, asked)

    monkeypatch.setattr(BlipVqa, "probabilities", picky)
    first, second, third = judge.load("cpu")([images[0], images[1], images[0]], [prompt] * 3)
    assert second == {FAILED: "not finite"}
    assert first == third
    assert len(first["answers"]) == 1


@pytest.mark.parametrize(
    ("removed", "judge", "message"),
    [
        ("new_objects.txt", "grounding-dino", r"numeracy needs new_objects\.txt"),
        ("complex_val_action.txt", "grounding-dino", "complex needs complex_val_spatial"),
        (None, "blip-clip", "spatial needs a detector"),
    ],
)
def test_what_is_missing_is_known_beforehand(parser, dataset, weights, removed, judge, message):
    if removed:
        (dataset / removed).unlink()
    options = weights if judge == "grounding-dino" else {"blip": weights["blip"], "clip": weights["clip"]}
    with pytest.raises(ValueError, match=message):
        T2I_COMPBENCH.judges[judge](**options).check(prompts_in(dataset))


def test_other_weights_are_named():
    assert T2I_COMPBENCH.judges["blip-clip"]().official
    assert T2I_COMPBENCH.judges["blip-clip"](blip="/x/model_base_vqa_capfilt_large.pth").official
    assert T2I_COMPBENCH.judges["blip-clip"](clip="openai/clip-vit-base-patch32@3d74acf").official
    assert not T2I_COMPBENCH.judges["blip-clip"](clip="someone/clip-vit-base-patch32").official
    other = T2I_COMPBENCH.judges["grounding-dino"](clip="/x/tiny")
    assert not other.official
    assert "/x/tiny" in other.name
    with pytest.raises(ValueError, match="threshold"):
        T2I_COMPBENCH.judges["grounding-dino"](threshold=1.5)


def test_official_results_are_read_by_prompt_and_image(dataset, tmp_path):
    prompts = [p for p in prompts_in(dataset) if p.category in ("color", "complex")]
    results = tmp_path / "results"

    def write(place, answers):
        path = results / place / "vqa_result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"question_id": n, "answer": f"{a:.4f}"} for n, a in answers]))

    write("color/annotation_blip", [(n, n / 100) for n in reversed(range(20))])
    judge = T2I_COMPBENCH.judges["unidet-results"](results=str(results))
    with pytest.raises(ValueError, match="complex"):
        judge.check(prompts)
    write("complex/annotation_3_in_1", [(n, 0.5) for n in range(20)])
    judge = T2I_COMPBENCH.judges["unidet-results"](results=str(results))
    judge.check(prompts)
    rows = [
        {"prompt": n, "image": image, "category": p.category, **judge.judgment(p)}
        for n, p in enumerate(prompts)
        for image in range(10)
    ]
    scores = {s.name: s.values for s in T2I_COMPBENCH.summarize(rows, "official").scores}
    assert scores["color"] == pytest.approx({0: 0.045, 1: 0.145})
    assert scores["complex (3-in-1)"] == pytest.approx({2: 0.5, 3: 0.5})
    before = judge.fingerprint
    write("color/annotation_blip", [(n, n / 100) for n in range(19)])
    judge = T2I_COMPBENCH.judges["unidet-results"](results=str(results))
    assert judge.fingerprint != before
    with pytest.raises(ValueError, match="no result 19"):
        judge.check(prompts)
    with pytest.raises(ValueError, match="10 images"):
        T2I_COMPBENCH.summarize([{**rows[0], "image": 10}], "official")


def test_official_paths_number_images_through_the_category(dataset):
    last = [p for p in prompts_in(dataset) if p.category == "color"][-1]
    assert T2I_COMPBENCH.layout.path(5, last, 3) == "color/samples/a red dog_000013.png"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published prompts are not here")
def test_the_published_files():
    prompts = prompts_in(PUBLISHED)
    assert set(Counter(p.category for p in prompts).values()) == {300}
    relations = Counter(p.metadata.get("relations") for p in prompts if p.category == "complex")
    assert relations == {"spatial": 58, "action": 212, "both": 30}
    assert all(p.metadata["plurals"] for p in prompts if p.category == "numeracy")
    assert [p.metadata["line"] for p in prompts[:300]] == list(range(300))
