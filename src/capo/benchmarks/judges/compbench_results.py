"""Results of T2I-CompBench's own scripts, read from files: the official numbers where capo has no port.

Export the images in the official layout, run the authors' scripts in the folder of every category, and name
the folder of these folders.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.benchmarks.definition import JudgeImages, Judgment
from capo.prompts import Prompt

if TYPE_CHECKING:
    import torch
    from PIL import Image

IMAGES = 10
"""Images of every prompt, whose results have consecutive numbers."""
RESULT = "vqa_result.json"
ATTRIBUTE = "annotation_blip"
FILES: Mapping[str, Mapping[str, str]] = {
    "color": {"color": ATTRIBUTE},
    "shape": {"shape": ATTRIBUTE},
    "texture": {"texture": ATTRIBUTE},
    "spatial": {"spatial": "labels/annotation_obj_detection_2d"},
    "3d_spatial": {"3D-spatial": "labels/annotation_obj_detection_3d"},
    "numeracy": {"numeracy": "annotation_num"},
    "non_spatial": {"non-spatial": "annotation_clip"},
    "complex": {"complex (BLIP-VQA)": ATTRIBUTE, "complex (3-in-1)": "annotation_3_in_1"},
}
"""Folder of the results of every score, by category and name."""


@dataclass
class OfficialResults:
    """Reads `CATEGORY/…/vqa_result.json` below the folder `results`.

    A judgment has `by_image`: the scores of every image of the prompt by number, of which the summary
    takes that of the row's image.
    """

    results: str

    name = "official results"
    official = True

    @property
    def fingerprint(self) -> str:
        """A digest of all results files that exist."""
        digest = hashlib.blake2b(digest_size=16)
        for category, files in FILES.items():
            for place in files.values():
                path = self._path(category, place)
                if path.is_file():
                    digest.update(f"{category}/{place}\0".encode() + path.read_bytes())
        return f"results {digest.hexdigest()}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` for a category without results, or with too few."""
        for prompt in prompts:
            self._of_prompt(prompt)

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge; the images themselves are not looked at."""
        return partial(_judgments, self)

    def judgment(self, prompt: Prompt) -> Judgment:
        """Return the judgment of every image of a prompt."""
        columns = self._of_prompt(prompt)
        rows = zip(*columns.values(), strict=True)
        return {"by_image": [dict(zip(columns, row, strict=True)) for row in rows]}

    def _of_prompt(self, prompt: Prompt) -> dict[str, list[float]]:
        """Return the scores of the images of a prompt by the name of the score."""
        category, start = str(prompt.category), prompt.metadata["line"] * IMAGES
        columns = {}
        for name, answers in self._answers(category).items():
            ids = range(start, start + IMAGES)
            if missing := [number for number in ids if number not in answers]:
                raise ValueError(
                    f"{self._path(category, FILES[category][name])} has no result {missing[0]} for "
                    f"{prompt.text!r}; it needs {IMAGES} images of every prompt, in the order of the prompts"
                )
            columns[name] = [answers[number] for number in ids]
        return columns

    def _answers(self, category: str) -> dict[str, dict[int, float]]:
        if category not in self._read:
            files = FILES.get(category, {})
            found = {name: self._path(category, place) for name, place in files.items()}
            existing = {name: _read(path) for name, path in found.items() if path.is_file()}
            if not existing:
                expected = next(iter(found.values()), Path(self.results) / category)
                raise ValueError(f"no {expected}; run the official script in the folder {category}")
            self._read[category] = existing
        return self._read[category]

    @cached_property
    def _read(self) -> dict[str, dict[str, dict[int, float]]]:
        return {}

    def _path(self, category: str, place: str) -> Path:
        return Path(self.results) / category / place / RESULT


def _judgments(
    judge: OfficialResults, images: "Sequence[Image.Image]", prompts: Sequence[Prompt]
) -> list[Judgment]:
    return [judge.judgment(prompt) for prompt in prompts]


def _read(path: Path) -> dict[int, float]:
    """Return the answers of a results file by number; raises `ValueError` for any other file."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        answers = {int(row["question_id"]): float(row["answer"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the official format of results: {error!r}") from error
    if len(answers) < len(rows) or not all(map(math.isfinite, answers.values())):
        raise ValueError(f"{path} has a number twice, or an answer that is not finite")
    return answers
