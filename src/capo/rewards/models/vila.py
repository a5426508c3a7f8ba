"""VILA-R: how good people find a photograph, blind to its prompt; the paper's aesthetic reward.

Ke et al., "VILA: Learning Image Aesthetics from User Comments with Vision-Language Pretraining"
(2023). It was released for TensorFlow only, and nobody has ported it, so it runs in a process and
an environment of its own, on the release as it is. It has never been run on the released weights,
only on a SavedModel of the signature that the release documents. The release gives a mean opinion
in [0, 1]; the score is ten times that, the scale of the paper's tables.
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
    """The released TensorFlow model, or one with its signature (`checkpoint`: a SavedModel's folder)."""

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
        """Starts the program, which loads `checkpoint`; `device` is not used: it runs on the CPU.

        `timeout`: seconds that it may take to start, and for a batch.
        """
        self.name, self.timeout = name, timeout
        command = ("python", str(PROGRAMS / "vila_rating.py"), checkpoint)
        self._program = ProgramReward(name, command, REQUIREMENTS, timeout)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """float64 [n] in [0, 10]; `prompts` are not looked at."""
        return self._program.score(images, prompts)
