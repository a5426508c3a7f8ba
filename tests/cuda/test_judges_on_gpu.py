"""Judges of benchmarks on a GPU: the objects of the CPU, in full precision."""

import numpy as np
import torch
from PIL import Image

import mmdet_network
import tiny_blip_vqa
import tiny_grounding_dino
from capo.benchmarks.judges.blip_vqa import BlipVqa
from capo.benchmarks.judges.grounding_dino import GroundingDino
from capo.benchmarks.judges.mask2former import Mask2Former


def test_objects_on_a_gpu_are_those_of_the_cpu(cuda, tmp_path):
    """In float32, without the TF32 that convolutions use by default."""
    torch.save(mmdet_network.weights(), tmp_path / "mask2former.pth")
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((200, 160), Image.Resampling.BICUBIC)
    allowed = torch.backends.cudnn.allow_tf32
    there, here = (
        Mask2Former(str(tmp_path / "mask2former.pth"), device).detect(image, 0.05) for device in (cuda, "cpu")
    )
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert here
    assert there.keys() == here.keys()
    for label, group in here.items():
        confidences = [[float(item.box[4]) for item in found] for found in (there[label], group)]
        np.testing.assert_allclose(*map(sorted, confidences), atol=1e-4)


def test_answers_and_detections_on_a_gpu_are_those_of_the_cpu(cuda, tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    blip, detector = tmp_path / "blip", tmp_path / "detector"
    file = str(tiny_blip_vqa.blip_vqa(blip) / "model_base_vqa_capfilt_large.pth")
    there, here = (
        BlipVqa(file, device, str(blip)).probabilities([image], ["a red dog?"]) for device in (cuda, "cpu")
    )
    np.testing.assert_allclose(there, here, atol=5e-3)  # convolutions use TF32
    tiny_grounding_dino.grounding_dino(detector)
    there, here = (
        GroundingDino(str(detector), device, 0.0).detect(image, ["dog", "cat"]) for device in (cuda, "cpu")
    )
    scores = [sorted(one.score for one in found) for found in (there, here)]
    np.testing.assert_allclose(*scores, atol=5e-3)
