"""Text rendering: whether the words that a prompt quotes are in the image, as OCR reads it.

What the prompt has in quotation marks is compared with all that RapidOCR reads, in reading order:
1 − edit distance / length of the longer, "1 − N.E.D." of the ICDAR 2019 robust reading challenges.
So text that was not asked for costs, too. A prompt that quotes nothing asks for no text: every
image scores 1, which tells no two of them apart. Runs on the CPU, with as many threads as torch.
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
    # Single ones only around whole words: not the apostrophes of "don't" and "the dogs' house".
    r"|(?<!\w)'((?:[^']|(?<=\w)'(?=\w))+)'(?!\w)|(?<!\w)‘((?:[^‘’]|(?<=\w)’(?=\w))+)’(?!\w)"
)

LONGEST, SMALLEST = 8, 32
"""Width to height, or height to width, at most; pixels of a side at least."""


class TextRendering:
    """RapidOCR's detector and recognizer, whose weights come with its package.

    `unit` is what the edit distance counts: `characters` (white space left out) or `words`. Neither
    case nor the width of letters counts.
    """

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
        """`checkpoint` is the package; `device` is not used."""
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise RewardError(
                f"reward {name!r} needs RapidOCR: pip install 'capo-diffusion[ocr]' ({error})"
            ) from error
        self.name = name
        self._unit = unit
        threads = {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
        self._read = RapidOCR(params={"Global.log_level": "critical", **threads})

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in [0, 1], one image after another."""
        return np.array([self._score(i, p) for i, p in zip(images, prompts, strict=True)], dtype=np.float64)

    def _score(self, image: "Image.Image", prompt: str) -> float:
        from rapidfuzz.distance import Levenshtein

        wanted = self._units(" ".join(quoted(prompt)))
        if not wanted:
            return 1.0
        blue_green_red = np.asarray(_roomy(as_rgb(image)))[..., ::-1]
        lines = self._read(blue_green_red).txts or ()
        return Levenshtein.normalized_similarity(wanted, self._units(" ".join(lines)))

    def _units(self, text: str) -> list[str]:
        words = unicodedata.normalize("NFKC", text).casefold().split()
        return words if self._unit == "words" else list("".join(words))


def _roomy(image: "Image.Image") -> "Image.Image":
    """The image, on white where it is tiny or a mere line, which RapidOCR would blow up without bounds."""
    from PIL import Image

    width = max(image.width, image.height // LONGEST, SMALLEST)
    height = max(image.height, image.width // LONGEST, SMALLEST)
    if (width, height) == image.size:
        return image
    room = Image.new("RGB", (width, height), "white")
    room.paste(image)
    return room


def quoted(prompt: str) -> list[str]:
    """What stands in quotation marks of any kind, in order."""
    return [next(filter(None, groups)) for groups in QUOTED.findall(prompt)]
