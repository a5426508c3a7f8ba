"""Text rendering: how closely the text in the image matches the text that the prompt quotes.

RapidOCR reads the image. Everything it reads, in reading order, is compared with everything the prompt
has in quotation marks.
Score: 1 - edit distance / length of the longer text, in [0, 1]; "1 - N.E.D." of the ICDAR 2019 robust
reading challenges. Text that the prompt does not ask for lowers the score. For a prompt that quotes
nothing every image scores 1, which prefers none.
Comparison: Bradley-Terry with temperature 0.1.

Not to be confused with a test of whether the quoted words occur, which ignores additional text. Runs
on the CPU with as many threads as torch.
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb

if TYPE_CHECKING:
    from PIL import Image

QUOTED = re.compile(
    r"\"([^\"]+)\"|“([^“”]+)”|«([^«»]+)»|„([^„“”]+)[“”]|「([^「」]+)」"
    # Single quotes only around whole words, to skip the apostrophes of "don't" and "the dogs' house".
    r"|(?<!\w)'((?:[^']|(?<=\w)'(?=\w))+)'(?!\w)|(?<!\w)‘((?:[^‘’]|(?<=\w)’(?=\w))+)’(?!\w)"
)

MAX_ASPECT, MIN_SIDE = 8, 32
"""Largest ratio of the sides, and least pixels of a side, of an image that RapidOCR receives."""


class TextRendering:
    """RapidOCR's detector and recognizer, whose weights come with its package."""

    comparison = BradleyTerry(temperature=0.1)
    range = (0.0, 1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        unit: Literal["characters", "words"] = "characters",
    ) -> None:
        """Load RapidOCR. `checkpoint` is the package; `device` is ignored.

        Options:
            unit: what the edit distance counts: `characters` (without white space) or `words`. Case
                and the width of letters do not count.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise RewardError(
                f"reward {name!r} needs RapidOCR; run: pip install 'capo-diffusion[ocr]' ({error})"
            ) from error
        self.name = name
        self._unit = unit
        threads = {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
        self._read = RapidOCR(params={"Global.log_level": "critical", **threads})

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1], one image after another."""
        return np.array([self._score(i, p) for i, p in zip(images, prompts, strict=True)], dtype=np.float64)

    def _score(self, image: "Image.Image", prompt: str) -> float:
        from rapidfuzz.distance import Levenshtein

        wanted = self._units(" ".join(quoted(prompt)))
        if not wanted:
            return 1.0
        blue_green_red = np.asarray(_padded(as_rgb(image)))[..., ::-1]
        lines = self._read(blue_green_red).txts or ()
        return Levenshtein.normalized_similarity(wanted, self._units(" ".join(lines)))

    def _units(self, text: str) -> list[str]:
        words = unicodedata.normalize("NFKC", text).casefold().split()
        return words if self._unit == "words" else list("".join(words))


def _padded(image: "Image.Image") -> "Image.Image":
    """Pad tiny images and thin strips with white, because RapidOCR would enlarge them without bounds."""
    from PIL import Image

    width = max(image.width, image.height // MAX_ASPECT, MIN_SIDE)
    height = max(image.height, image.width // MAX_ASPECT, MIN_SIDE)
    if (width, height) == image.size:
        return image
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image)
    return canvas


def quoted(prompt: str) -> list[str]:
    """Return the texts in quotation marks of any kind, in order."""
    return [next(filter(None, groups)) for groups in QUOTED.findall(prompt)]
