"""Drawing scenes: batched torch arithmetic on signed distances (negative inside), so it runs on any device.

Edges are anti-aliased over one pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from capo.shapes.scenes import MAX_ITEMS, SHAPES, SIZE, Scene

CROSS_ARM = 0.36
"""Half the width of a cross's arm, in radii."""
SQUARE_SIDE = 0.88
"""Half the side of a square, in radii, so that the areas of the four shapes are comparable."""


def signed_distance(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Compute the signed distance in pixels of points relative to the center; `shape` indexes `SHAPES`.

    The bounding boxes of all four shapes are centered at the origin. Outside the corners of square,
    triangle and cross, the result is the larger of the edge distances, which is only a bound.
    """
    if shape == 0:
        return torch.hypot(x, y) - radius
    if shape == 1:
        return torch.maximum(x.abs(), y.abs()) - SQUARE_SIDE * radius
    if shape == 2:
        # Upright, twice as wide at the base as half its height: apex (0, -r), base corners (±r, r).
        side = (2 * x.abs() - (y + radius)) / 5**0.5
        return torch.maximum(side, y - radius)
    arm = CROSS_ARM * radius
    across = torch.maximum(x.abs() - radius, y.abs() - arm)
    down = torch.maximum(x.abs() - arm, y.abs() - radius)
    return torch.minimum(across, down)


def draw(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Tensor:
    """Draw scenes as uint8 `[n, 3, SIZE, SIZE]` on `device`."""
    background, packed, rgb = (part.to(device) for part in _pack(scenes))
    center = torch.arange(SIZE, device=device) + 0.5
    canvas = background[:, :, None, None].expand(-1, 3, SIZE, SIZE)
    for slot in range(MAX_ITEMS):
        shape, x0, y0, radius = packed[:, slot].unbind(1)
        x = (center[None, None, :] - x0[:, None, None]).expand(-1, SIZE, -1)
        y = (center[None, :, None] - y0[:, None, None]).expand(-1, -1, SIZE)
        coverage = torch.zeros_like(x)
        for kind in range(len(SHAPES)):
            distance = signed_distance(kind, x, y, radius[:, None, None])
            inside = (0.5 - distance).clamp(0, 1)
            coverage = torch.where((shape == kind)[:, None, None], inside, coverage)
        canvas = torch.lerp(canvas, rgb[:, slot, :, None, None], coverage[:, None])
    return (canvas * 255).round().to(torch.uint8)


def _pack(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Backgrounds `[n, 3]`, items `[n, MAX_ITEMS, 4]` (shape or -1, x, y, radius) and their colors."""
    absent = (-1.0, 0.0, 0.0, 1.0)
    items, colors = [], []
    for scene in scenes:
        spare = MAX_ITEMS - len(scene.items)
        items.append([(SHAPES.index(i.shape), i.x, i.y, i.radius) for i in scene.items] + [absent] * spare)
        colors.append([i.rgb for i in scene.items] + [(0.0, 0.0, 0.0)] * spare)
    return torch.tensor([s.background for s in scenes]), torch.tensor(items), torch.tensor(colors)
