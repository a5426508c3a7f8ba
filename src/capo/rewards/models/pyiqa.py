"""Aesthetic raters of pyiqa that were trained on AVA, as VILA was: its substitutes in PyTorch.

TOPIQ (Chen et al., 2023), MUSIQ (Ke et al., 2021) and NIMA (Talebi and Milanfar, 2018). All
predict the mean of people's ratings from 1 to 10, blind to the prompt. pyiqa may not be used
commercially, brings many packages and pins some: it runs in an environment of its own. Its weights
are pickles, of which torch reads the tensors only.
"""

from typing import TYPE_CHECKING, Any

from capo.method.calibration import BradleyTerry
from capo.rewards.transports.child_program import PROGRAMS
from capo.rewards.transports.program import ProgramReward

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

REQUIREMENTS = ("pyiqa==0.1.16", "pillow")


class PyiqaRating:
    """A no-reference metric of pyiqa by its name there; its scores go from 1 to 10, higher is better."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        timeout: float = 600.0,
        *,
        metric: str = "topiq_iaa",
    ) -> None:
        """Starts the program on `device`; pyiqa itself fetches the metric's weights from `checkpoint`.

        `timeout`: seconds that it may take to start, and for a batch.
        """
        self.name, self.timeout = name, timeout
        command = ("python", str(PROGRAMS / "pyiqa_rating.py"), metric, str(device))
        self._program = ProgramReward(name, command, REQUIREMENTS, timeout)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """float64 [n]; `prompts` are not looked at."""
        return self._program.score(images, prompts)
