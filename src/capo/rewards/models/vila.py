"""VILA-R: how people rate a photograph; the paper's aesthetic reward. Ignores the prompt.

Ke et al., "VILA: Learning Image Aesthetics from User Comments with Vision-Language Pretraining" (2023).
It was released for TensorFlow only and has no port, so the release runs in a process and an environment
of its own.
Score: ten times the mean opinion in [0, 1] of the release, which is the scale of the paper's tables.
Comparison: Bradley-Terry with temperature 1 on that scale.
Not tested with the released weights; the tests use a SavedModel with the documented signature.

Not to be confused with `pyiqa`, whose raters were trained on the same ratings (AVA).
"""

from typing import TYPE_CHECKING, Any

from capo.method.calibration import BradleyTerry
from capo.rewards.transports.child_program import PROGRAMS
from capo.rewards.transports.program import ProgramReward

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

REQUIREMENTS = ("tensorflow>=2.16", "tensorflow-hub>=0.16", "pillow")


class VilaRating:
    """The released TensorFlow model, or a SavedModel folder with its signature."""

    comparison = BradleyTerry(temperature=1.0)
    range = (0.0, 10.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        timeout: float = 600.0,
    ) -> None:
        """Start the program, which loads `checkpoint` and runs on the CPU; `device` is ignored.

        `timeout` limits the seconds to start and the seconds for a batch.
        """
        self.name, self.timeout = name, timeout
        command = ("python", str(PROGRAMS / "vila_rating.py"), checkpoint)
        self._program = ProgramReward(name, command, REQUIREMENTS, timeout)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return scores, float64 [n] in [0, 10]. `prompts` are ignored."""
        return self._program.score(images, prompts)
