import math
import random

import pytest
import torch

from capo.shapes.drawing import CROSS_ARM, SQUARE_SIDE, draw
from capo.shapes.grammar import draw_specs
from capo.shapes.layout import scene_of
from capo.shapes.scenes import SHAPES, SIZE, Item, Scene

BLACK, WHITE = (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)  # RGB; hue, saturation, value


def white(shape, x=16.0, y=16.0, radius=9.0):
    return Scene((Item(shape, "red", WHITE, x, y, radius),), BLACK)


def coverage(scene):
    """Coverage in [0, 1]: a white shape on black."""
    return draw([scene])[0, 0] / 255


def test_an_empty_scene_is_its_background():
    image = draw([Scene((), (0.2, 0.4, 1.0))])
    assert image.shape == (1, 3, SIZE, SIZE)
    assert image.dtype == torch.uint8
    assert image[0].flatten(1).unique(dim=1).T.tolist() == [[51, 102, 255]]


@pytest.mark.parametrize("shape", SHAPES)
def test_colors_are_exact_inside_and_outside(shape):
    item = Item(shape, "green", (120.0, 1.0, 0.8), 16.5, 16.5, 8.0)
    image = draw([Scene((item,), (0.2, 0.2, 0.2))])[0]
    assert image[:, 16, 16].tolist() == [0, 204, 0]
    assert image[:, 2, 2].tolist() == image[:, 16, 30].tolist() == [51, 51, 51]


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("square", 4 * SQUARE_SIDE**2),
        ("triangle", 2),
        ("cross", 8 * CROSS_ARM - 4 * CROSS_ARM**2),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5])
def test_anti_aliased_edges_preserve_areas(shape, area, offset):
    drawn = coverage(white(shape, 16 + offset, 16 - offset))
    assert drawn.sum().item() == pytest.approx(area * 81, rel=0.03)
    assert ((drawn > 0.05) & (drawn < 0.95)).any()


def test_a_pixel_on_an_edge_is_covered_in_part():
    # The right edge is at 16 + 0.88 * 10 = 24.8: pixel 24 is covered by 0.8.
    row = coverage(white("square", radius=10.0))[16]
    assert row[23:26].tolist() == pytest.approx([1, 0.8, 0], abs=0.003)


def test_shapes_have_the_right_orientation():
    triangle, cross = coverage(white("triangle")), coverage(white("cross"))
    assert triangle[9].sum() < 3 < 14 < triangle[23].sum()  # apex above, base below
    assert cross[16, 8] == cross[8, 16] == 1
    assert cross[9, 9] == 0


def test_a_later_shape_covers_an_earlier_one():
    below = Item("square", "red", (0.0, 1.0, 1.0), 16.0, 16.0, 9.0)
    above = Item("circle", "blue", (240.0, 1.0, 1.0), 16.0, 16.0, 4.0)
    image = draw([Scene((below, above), BLACK)])[0]
    assert image[:, 16, 16].tolist() == [0, 0, 255]
    assert image[:, 16, 22].tolist() == [255, 0, 0]


def test_a_batch_equals_scenes_drawn_one_by_one():
    rng = random.Random(0)
    scenes = [scene_of(spec, rng) for spec in draw_specs("test", 48, 0)]
    assert torch.equal(draw(scenes), torch.cat([draw([scene]) for scene in scenes]))
