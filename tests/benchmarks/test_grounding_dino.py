"""Grounding DINO: which objects a network's output means."""

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, GroundingDinoForObjectDetection
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)

import tiny_grounding_dino
from capo.benchmarks.judges.grounding_dino import GroundingDino

CLASSES = ["rabbit", "Tennis ball", "dog", "rabbit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_grounding_dino.grounding_dino(tmp_path_factory.mktemp("grounding-dino"))


@pytest.fixture(scope="module")
def image():
    return Image.effect_noise((80, 60), 90).convert("RGB")


def test_objects_are_queries_with_their_most_probable_class(folder, image):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    tokens = tokenizer("rabbit. tennis ball. dog.", return_tensors="pt")
    assert len(tokens.input_ids[0]) == 9  # [CLS] rabbit . tennis ball . dog . [SEP]
    places = {"rabbit": [1], "tennis ball": [3, 4], "dog": [6]}
    pixels = GroundingDinoImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    with torch.inference_mode():
        output = model(**pixels, **tokens)
    expected = []
    for logits, (x, y, w, h) in zip(output.logits[0], output.pred_boxes[0].tolist(), strict=True):
        share = {name: max(1 / (1 + (-logits[p]).exp()).item() for p in at) for name, at in places.items()}
        label = max(share, key=share.get)
        box = (80 * (x - w / 2), 60 * (y - h / 2), 80 * (x + w / 2), 60 * (y + h / 2))
        expected.append((label, share[label], box))
    expected.sort(key=lambda one: -one[1])
    threshold = (expected[4][1] + expected[5][1]) / 2
    found = GroundingDino(str(folder), "cpu", threshold).detect(image, CLASSES)
    assert len(found) == 5
    for one, (label, score, box) in zip(found, expected, strict=False):
        assert one.label == label
        assert one.score == pytest.approx(score, abs=1e-5)
        assert one.box == pytest.approx(box, abs=1e-3)


def test_without_classes_or_above_all_scores_there_is_nothing(folder, image):
    assert GroundingDino(str(folder), "cpu", 0.0).detect(image, []) == []
    assert GroundingDino(str(folder), "cpu", 1.0).detect(image, CLASSES) == []
