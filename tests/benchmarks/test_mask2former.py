"""Mask2Former with mmdet's weights, against the network written from mmdet's documentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mmdet_network
from capo.benchmarks.judges import mask2former
from capo.benchmarks.judges.mask2former import Mask2Former, prepare
from capo.benchmarks.judges.mmdet_layout import from_mmdet
from capo.benchmarks.judges.opencv_resize import resize_bilinear
from capo.rewards.protocol import RewardError


@pytest.fixture(scope="module")
def weights():
    return mmdet_network.weights()


@pytest.fixture(scope="module")
def official(tmp_path_factory, weights):
    """A file as mmdet saves it: tensors beside plain values and numbers of numpy."""
    path = tmp_path_factory.mktemp("mmdet") / "mask2former.pth"
    meta = {"mmdet_version": "2.24.1", "CLASSES": ("person",), "seed": np.int64(3), "best": np.float64(0.5)}
    torch.save({"meta": meta, "state_dict": weights}, path)
    return path


@pytest.fixture(scope="module")
def detector(official):
    return Mask2Former(str(official), "cpu")


def picture(width, height, seed=0):
    """Smooth colors with an edge."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (52, 76)])
@torch.inference_mode()
def test_the_converted_network_equals_mmdets(weights, detector, size):
    """Sizes with and without padded windows, shifted windows and odd maps."""
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    classes, masks = mmdet_network.forward(weights, pixels)
    output = detector._model(pixels)
    torch.testing.assert_close(output.class_queries_logits, classes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.masks_queries_logits, masks, atol=1e-4, rtol=1e-4)
    assert masks.std() > 1  # or equality would say little


def test_patches_are_reordered(weights):
    """Channel, row, column in mmdet; column, row, channel in transformers."""
    name = "backbone.stages.0.downsample.reduction.weight"
    target = "model.pixel_level_module.encoder.swin.encoder.layers.0.downsample.reduction.weight"
    before, after, width = weights[name], from_mmdet(weights)[target], mmdet_network.EMBED
    for channel in range(width):
        for row in range(2):
            for column in range(2):
                theirs, ours = 4 * channel + 2 * row + column, width * (2 * column + row) + channel
                assert torch.equal(before[:, theirs], after[:, ours])


def test_files_that_do_not_fit_are_rejected(tmp_path, weights):
    def rejected(table, match):
        torch.save(table, tmp_path / "wrong.pth")
        with pytest.raises(RewardError, match=match):
            Mask2Former(str(tmp_path / "wrong.pth"), "cpu")

    missing = "panoptic_head.query_embed.weight"
    rejected({n: t for n, t in weights.items() if n != missing}, "queries_embedder")
    rejected({**weights, "panoptic_head.extra": torch.zeros(1)}, "extra")
    rejected({"layer.weight": torch.zeros(1)}, "mmdet")
    rejected({"meta": Path("code"), "state_dict": weights}, "could run code")
    head = {n: t[:20] if "cls_embed" in n else t for n, t in weights.items()}
    rejected(head, "19 classes")


def objects_by_formula(weights, image, floor):
    """mmdet's `instance_postprocess` step by step: all pairs, all masks, nothing left out early."""
    pixels, (height, width) = prepare(image)
    with torch.inference_mode():
        classes, masks = mmdet_network.forward(weights, pixels)
    whole = torch.nn.functional.interpolate(masks, pixels.shape[-2:], mode="bilinear", align_corners=False)
    size = (image.height, image.width)
    whole = torch.nn.functional.interpolate(
        whole[..., :height, :width], size, mode="bilinear", align_corners=False
    )[0]
    found = []
    probabilities = classes[0].softmax(-1)
    pairs = [(float(probabilities[q, c]), q, c) for q in range(len(whole)) for c in range(80)]
    for probability, query, label in sorted(pairs, reverse=True)[:100]:
        inside = whole[query] > 0
        if not inside.any():
            continue
        score = probability * float(whole[query][inside].sigmoid().mean())
        if score > floor:
            y, x = (place.tolist() for place in torch.where(inside))
            found.append((label, [min(x), min(y), max(x) + 1, max(y) + 1], score, inside.numpy()))
    return found


def test_objects_are_read_off_as_mmdet_does(weights, detector, small):
    """Boxes in the image's pixels, confidence from class and mask, the padding cut off."""
    for image in (picture(60, 60), picture(100, 40), picture(30, 70)):
        for floor in (0.02, 0.05):
            expected = objects_by_formula(weights, image, floor)
            found = [(label, o) for label, group in detector.detect(image, floor).items() for o in group]
            assert expected
            assert len(found) == len(expected)
            for label, box, score, mask in expected:
                near = [o for other, o in found if other == label and abs(o.box[4] - score) < 1e-4]
                assert any(o.box[:4].tolist() == box and np.array_equal(o.mask, mask) for o in near)
    assert detector.detect(picture(60, 60), 1.0) == {}


@pytest.fixture
def small(monkeypatch):
    """A tenth of the official size."""
    assert (mask2former.SHORT_SIDE, mask2former.LONG_SIDE) == (800, 1333)
    monkeypatch.setattr(mask2former, "SHORT_SIDE", 80)
    monkeypatch.setattr(mask2former, "LONG_SIDE", 133)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((51, 51), (80, 80)), ((122, 83), (80, 118)), ((200, 50), (33, 133)), ((80, 80), (80, 80))],
)
def test_images_are_prepared_as_mmdet_does(small, size, resized):
    """Sides by mmcv's formula, and gray 128 up to a multiple of 32."""
    pixels, found = prepare(picture(*size))
    assert found == resized
    assert [side % 32 for side in pixels.shape[-2:]] == [0, 0]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    colors = (pixels[0].permute(1, 2, 0) * std + mean).numpy()
    outside = np.ones(colors.shape[:2], dtype=bool)
    outside[: resized[0], : resized[1]] = False
    np.testing.assert_allclose(colors[outside], 128, atol=1e-3)
    expected = resize_bilinear(np.asarray(picture(*size)), *resized)
    np.testing.assert_allclose(colors[: resized[0], : resized[1]], expected, atol=1e-3)


@pytest.mark.parametrize(
    "shapes", [((40, 50), (64, 80)), ((90, 60), (40, 27)), ((33, 70), (80, 9)), ((9, 90), (133, 7))]
)
def test_resizing_equals_opencvs(shapes):
    cv2 = pytest.importorskip("cv2")
    (height, width), target = shapes
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_bilinear(image, *target), theirs)


def test_output_that_is_not_finite_is_an_error(detector, small, monkeypatch):
    def broken(pixels):
        output = type("Output", (), {})()
        output.class_queries_logits = torch.full((1, 2, 81), torch.nan)
        output.masks_queries_logits = torch.zeros(1, 2, 4, 4)
        return output

    broken.device = "cpu"
    monkeypatch.setattr(detector, "_model", broken)
    with pytest.raises(ValueError, match="not finite"):
        detector.detect(picture(64, 64), 0.3)


def test_checkpoints_of_the_hub_are_read_too(tmp_path, detector, small):
    """As transformers 4 saved them: without a norm that nothing reads, with a constant that is computed."""
    detector._model.save_pretrained(tmp_path)  # under the names of transformers 4
    file = tmp_path / "model.safetensors"
    stored = {name: tensor for name, tensor in load_file(file).items() if "encoder.layernorm." not in name}
    tables = [name for name in stored if name.endswith("relative_position_bias_table")]
    index = mmdet_network.position_index()
    stored |= {name.replace("bias_table", "index"): index.clone() for name in tables}
    save_file(stored, file, metadata={"format": "pt"})
    image = picture(64, 64)
    theirs, ours = (d.detect(image, 0.02) for d in (Mask2Former(str(tmp_path), "cpu"), detector))
    assert ours
    assert theirs.keys() == ours.keys()
    for label, group in ours.items():
        np.testing.assert_allclose([o.box for o in theirs[label]], [o.box for o in group], rtol=1e-5)
    del stored["class_predictor.bias"]
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(RewardError, match="class_predictor"):
        Mask2Former(str(tmp_path), "cpu")
