import random

import numpy as np
import pytest

from capo.shapes.drawing import draw
from capo.shapes.grammar import SPLITS, draw_specs, grammar, spec_of
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.perception import perceive
from capo.shapes.simulated_raters import alignment, beauty


def test_perception_reads_the_scene_from_pixels():
    rng = random.Random(0)
    specs = draw_specs("train", 150, 0)
    scenes = [scene_of(corrupt(s, rng) if i % 2 else s, rng) for i, s in enumerate(specs)]
    seen = [perceive(image) for image in draw(scenes).permute(0, 2, 3, 1).numpy()]
    truth, found = ([alignment(s, spec) for s, spec in zip(of, specs, strict=True)] for of in (scenes, seen))
    assert np.mean(np.equal(truth, found)) >= 0.97
    assert len(set(truth)) > 2
    truth, found = ([beauty(scene) for scene in of] for of in (scenes, seen))
    assert np.corrcoef(truth, found)[0, 1] > 0.99
    assert np.abs(np.subtract(truth, found)).mean() < 0.1, "of a rating of 1 to 10"


def test_an_empty_image_has_no_shapes():
    scene = perceive(np.full((32, 32, 3), 51, dtype=np.uint8))
    assert scene.items == ()
    assert scene.background == pytest.approx((0.2, 0.2, 0.2))


def test_other_sizes_are_rejected():
    with pytest.raises(ValueError, match=r"reads uint8 \[32, 32, 3\] images, got uint8 \(64, 64, 3\)"):
        perceive(np.zeros((64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("split", SPLITS)
def test_metadata_describe_a_prompt_except_its_opening(split):
    for specs in grammar(split).values():
        for spec in specs:
            found = spec_of(spec.metadata)
            assert (found.content, found.category, found.metadata) == (
                spec.content,
                spec.category,
                spec.metadata,
            )
