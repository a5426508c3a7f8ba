"""The benchmark `shapes`: prompts of the grammar in GenEval's six categories, and the exact judge."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capo.benchmarks.definition import Benchmark, JudgeImages, Judgment, Layout, Row
from capo.benchmarks.summary import Summary, by_category, mean_of_means
from capo.prompts import Prompt

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from capo.shapes.judge import Detection


class ExactShapes:
    """The judge that detects shapes from pixels and applies GenEval's rules to them."""

    name = "exact"
    official = True
    fingerprint = "capo.shapes exact judge 1"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` for a prompt that is not from the grammar."""
        for prompt in prompts:
            if "include" not in prompt.metadata:
                raise ValueError(f"the judge exact needs prompts of shapes, not {prompt.text!r}")

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge; it has no weights."""
        return _judge_images


def _judge_images(images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> list[Judgment]:
    import numpy as np

    return [_judgment(np.asarray(image), prompt) for image, prompt in zip(images, prompts, strict=True)]


def _judgment(image: "np.ndarray", prompt: Prompt) -> Judgment:
    """Judge an image (uint8 `[H, W, 3]`); raises `ValueError` for one of another size."""
    from capo.shapes.judge import check_image, detect, fault_of

    check_image("the judge", image)
    shapes = detect(image)
    reason = fault_of(image, shapes, prompt.metadata)
    return {"correct": not reason, "reason": reason, "boxes": [_box(shape) for shape in shapes]}


def _box(shape: "Detection") -> dict[str, Any]:
    from capo.shapes.drawing import SQUARE_SIDE

    reach = shape.radius * (SQUARE_SIDE if shape.shape == "square" else 1)
    corners = (shape.x - reach, shape.y - reach, shape.x + reach, shape.y + reach)
    return {"box": [round(float(c), 2) for c in corners], "label": f"{shape.color} {shape.shape}"}


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the share of correct images by category, and as `overall` the mean of the categories."""
    categories = by_category(rows, "correct")
    return Summary((*categories, mean_of_means("overall", categories)), "overall")


def _image_path(number: int, prompt: Prompt, image: int) -> str:
    return f"{number:05d}/samples/{image:05d}.png"


def _metadata(prompts: Sequence[Prompt]) -> Mapping[str, str]:
    return {
        f"{number:05d}/metadata.jsonl": json.dumps({**prompt.metadata, "prompt": prompt.text}) + "\n"
        for number, prompt in enumerate(prompts)
    }


SHAPES = Benchmark(
    name="shapes",
    title="Shapes",
    prompts="shapes:test",
    count=96,
    images=4,
    judges={"exact": ExactShapes},
    summarize=summarize,
    layout=Layout(_image_path, companions=_metadata),
)
"""The embedded world's own benchmark, in GenEval's layout. It has no published scores."""
