"""Aesthetic raters of pyiqa, trained on AVA like VILA: its substitutes in PyTorch. They ignore the prompt.

TOPIQ (Chen et al., 2023), MUSIQ (Ke et al., 2021) and NIMA (Talebi and Milanfar, 2018).
Score: the predicted mean of people's ratings, 1 to 10.
Comparison: Bradley-Terry with temperature 1 on that scale.
pyiqa needs many packages in fixed versions, so it runs in an environment of its own. Its license
forbids commercial use. Its weights are pickles, from which torch reads only tensors.

Not to be confused with `vila`, the paper's reward: report which one you used.
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
    """A no-reference metric of pyiqa, by its name there."""

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
        """Start the program on `device`; pyiqa downloads the weights of the metric from `checkpoint`.

        `timeout` limits the seconds to start and the seconds for a batch.

        Options:
            metric: the name of the metric in pyiqa.
        """
        self.name, self.timeout = name, timeout
        command = ("python", str(PROGRAMS / "pyiqa_rating.py"), metric, str(device))
        self._program = ProgramReward(name, command, REQUIREMENTS, timeout)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return scores, float64 [n]. `prompts` are ignored."""
        return self._program.score(images, prompts)
