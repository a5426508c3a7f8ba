"""The judge of T2I-CompBench: BLIP-VQA, CLIPScore and, for relations and numbers, a detector.

BLIP-VQA and CLIPScore are the official models. The official detector, UniDet, has no port: scores from
another detector name it, and official results are read from files by `compbench_results`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.benchmarks.compbench_numeracy import detector_class, expected_counts, numeracy_score
from capo.benchmarks.compbench_phrases import (
    PARSER,
    Grammar,
    Parser,
    outer_nouns,
    questions,
    related_nouns,
    without_adjectives,
)
from capo.benchmarks.compbench_spatial import FRAME, as_class, find_relation, spatial_score
from capo.benchmarks.definition import JudgeImages, Judgment, failed
from capo.benchmarks.detections import DetectedObject
from capo.benchmarks.judges import blip_vqa, grounding_dino
from capo.prompts import Prompt
from capo.recipe.hub_id import split_revision
from capo.rewards.models.clip_text import clean_text
from capo.rewards.weights.download import check_available
from capo.rewards.weights.location import check_location, weights_identity

if TYPE_CHECKING:
    import torch
    from PIL import Image

CLIP = "openai/clip-vit-base-patch32"
ATTRIBUTES = ("color", "shape", "texture")
DETECTED = ("spatial", "numeracy")
DETECTOR = "Grounding DINO"
OFFICIAL_BLIP = (blip_vqa.WEIGHTS, "model_base_vqa_capfilt_large.pth")
"""The official weights of BLIP: the conversion of its authors, and their original file."""
REWARD = "benchmark t2i-compbench"


@dataclass
class CompBenchJudge:
    """Judges every category by its own model. A judgment has `scores`, by the name of the score."""

    blip: str = blip_vqa.WEIGHTS
    """Location of BLIP's weights for VQA: a folder, a Hub id, or the original `.pth` file."""
    clip: str = CLIP
    """Location of CLIP ViT-B/32."""
    parser: str = PARSER
    """spaCy's model."""
    detector: str | None = None
    """Location of Grounding DINO; None judges no relations and no numbers."""
    threshold: float = grounding_dino.THRESHOLD
    """Confidence above which an object counts."""

    name: str = field(init=False)
    official: bool = field(init=False)

    def __post_init__(self) -> None:
        """Name the models. Raises `ValueError` for a wrong threshold."""
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: {self.threshold} is not in [0, 1)")
        others = {"BLIP-VQA": (self.blip, OFFICIAL_BLIP), "CLIPScore": (self.clip, (CLIP,))}
        parts = [
            model
            if split_revision(location)[0] in official or Path(location).name in official
            else f"{model} ({location})"
            for model, (location, official) in others.items()
        ]
        self.official = parts == list(others)
        self.name = ", ".join([*parts, *([DETECTOR] if self.detector else [])])

    @property
    def fingerprint(self) -> str:
        """The identities of all models, the parser, and the threshold."""
        try:
            parser = Parser(self.parser).identity
        except ImportError as error:
            raise ValueError(str(error)) from error
        identities = [weights_identity(REWARD, location) for location in self._locations]
        threshold = [f"above {self.threshold:g}"] if self.detector else []
        return "; ".join([*identities, parser, *threshold])

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` or `ImportError` for categories, lists or models that are missing."""
        for category in dict.fromkeys(prompt.category for prompt in prompts):
            of_category = [prompt for prompt in prompts if prompt.category == category]
            self._check_category(category, of_category)
        for location in self._locations:
            check_location(REWARD, location)
            check_available(location)
        Parser(self.parser)

    def load(self, device: "torch.device") -> JudgeImages:
        """Return the judge; every model is loaded when a category first needs it."""
        return CompBenchModels(self, device)

    @property
    def _locations(self) -> list[str]:
        return [self.blip, self.clip, *([self.detector] if self.detector else [])]

    def _check_category(self, category: str | None, prompts: Sequence[Prompt]) -> None:
        if category in DETECTED and self.detector is None:
            raise ValueError(
                f"{category} needs a detector: choose the judge grounding-dino, or unidet-results with the "
                "results of the official scripts, or a folder without this category"
            )
        if category not in (*ATTRIBUTES, *DETECTED, "complex", "non_spatial"):
            raise ValueError(
                f"{category} has no judge here; use a folder without {category}_val.txt, or the judge "
                "unidet-results with the results of the official scripts"
            )
        lists = {"numeracy": ("plurals", "new_objects.txt")}
        if self.detector is not None:
            lists["complex"] = ("relations", "complex_val_spatial.txt and complex_val_action.txt")
        if category in lists:
            name, files = lists[category]
            if any(name not in prompt.metadata for prompt in prompts):
                raise ValueError(f"{category} needs {files} in the folder of {category}_val.txt")


class CompBenchModels:
    """The models of a judge on a device."""

    def __init__(self, judge: CompBenchJudge, device: "torch.device") -> None:
        self._settings, self._device = judge, device

    @cached_property
    def _blip(self) -> blip_vqa.BlipVqa:
        return blip_vqa.BlipVqa(self._settings.blip, self._device)

    @cached_property
    def _clip(self) -> Any:
        from capo.rewards.models.clipscore import ClipScore

        return ClipScore("clipscore", self._settings.clip, self._device)

    @cached_property
    def _detector(self) -> grounding_dino.GroundingDino:
        settings = self._settings
        assert settings.detector is not None
        return grounding_dino.GroundingDino(settings.detector, self._device, settings.threshold)

    @cached_property
    def _parse(self) -> Parser:
        return Parser(self._settings.parser)

    def __call__(self, images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> list[Judgment]:
        """Judge images; those of one prompt that follow each other share its questions."""
        judgments: list[Judgment] = []
        for _, group in groupby(range(len(prompts)), key=lambda place: prompts[place].prompt_id):
            places = list(group)
            judgments += self._group([images[place] for place in places], prompts[places[0]])
        return judgments

    def _group(self, images: "list[Image.Image]", prompt: Prompt) -> list[Judgment]:
        """Judge images of one prompt; if that fails, one by one, so that only the faulty one is a gap."""
        try:
            return list(self._judged(images, prompt))
        except ValueError as error:
            if len(images) == 1:
                return [failed(str(error))]
            return [self._group([image], prompt)[0] for image in images]

    def _judged(self, images: "list[Image.Image]", prompt: Prompt) -> "Iterator[Judgment]":
        grammar, category = self._parse(prompt.text), prompt.category
        if category in ATTRIBUTES:
            yield from (_judgment({category: score}, said) for score, said in self._answers(images, grammar))
        elif category == "non_spatial":
            yield from (_judgment({"non-spatial": score}) for score in self._match(images, prompt.text))
        elif category == "complex":
            yield from self._complex(images, prompt, grammar)
        elif category == "spatial":
            for image in images:
                score, seen = self._spatial(image, outer_nouns(grammar), prompt.text)
                yield _judgment({f"spatial ({DETECTOR})": score}, seen)
        else:
            counts = expected_counts([word.text for word in grammar.words], prompt.metadata["plurals"])
            yield from (self._numeracy(image, counts) for image in images)

    def _answers(
        self, images: "list[Image.Image]", grammar: Grammar
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield the product of the answers about an image, and the answers."""
        asked = questions(grammar)
        for row in self._blip.probabilities(images, asked):
            answers = [
                {"question": question, "answer": "P(yes)", "score": share}
                for question, share in zip(asked, row, strict=True)
            ]
            yield blip_vqa.product(row), {"answers": answers}

    def _match(self, images: "list[Image.Image]", text: str) -> list[float]:
        scores: list[float] = self._clip.score(images, [clean_text(text)] * len(images)).tolist()
        return scores

    def _spatial(
        self, image: "Image.Image", nouns: tuple[str, str] | None, text: str
    ) -> tuple[float, dict[str, Any]]:
        found = self._detector.detect(image, [as_class(noun) for noun in nouns or ()])
        return spatial_score(in_frame(found, image.size), nouns, find_relation(text)), {
            "boxes": _boxes(found)
        }

    def _numeracy(self, image: "Image.Image", counts: Sequence[tuple[str, int]]) -> Judgment:
        if not counts:
            raise ValueError("the prompt counts no object of new_objects.txt")
        found = self._detector.detect(image, [detector_class(noun) for noun, _ in counts])
        score = numeracy_score(in_frame(found, image.size), counts)
        wanted = ", ".join(f"{number} {noun}" for noun, number in counts)
        more = {"boxes": _boxes(found), "reason": f"asked: {wanted}"}
        return _judgment({f"numeracy ({DETECTOR})": score}, more)

    def _complex(self, images: "list[Image.Image]", prompt: Prompt, grammar: Grammar) -> Iterator[Judgment]:
        answers = list(self._answers(images, grammar))
        if self._settings.detector is None:
            yield from (_judgment({"complex (BLIP-VQA)": score}, said) for score, said in answers)
            return
        matches = self._match(images, without_adjectives(grammar))
        nouns = related_nouns(grammar)
        for image, match, (attribute, said) in zip(images, matches, answers, strict=True):
            spatial, seen = self._spatial(image, nouns, prompt.text)
            parts = {"attribute": attribute, "spatial": spatial, "action": match}
            score = three_in_one(parts, prompt.metadata["relations"])
            scores = {"complex (BLIP-VQA)": attribute, f"complex (3-in-1, {DETECTOR})": score}
            yield _judgment(scores, {**said, **seen, "parts": parts})


def three_in_one(parts: Mapping[str, float], relations: str) -> float:
    """Return the 3-in-1 score of a complex prompt: the mean of the parts that it has.

    `parts` are `attribute` (BLIP-VQA), `spatial` and `action` (CLIPScore); `relations` is `spatial`, `action`
    or `both`.
    """
    kinds = ("spatial", "action") if relations == "both" else (relations,)
    values = [parts["attribute"], *(parts[kind] for kind in kinds)]
    return sum(values) / len(values)


def in_frame(objects: Sequence[DetectedObject], size: tuple[int, int]) -> list[DetectedObject]:
    """Return objects with boxes as in an image resized like the official detector's input.

    That is the shorter side to 479 pixels, and the longer one to at most 480.
    """
    short, long = sorted(size)
    resized = (FRAME - 1, int((FRAME - 1) * long / short))
    if resized[1] > FRAME:
        resized = (int(FRAME * resized[0] / resized[1]), FRAME)
    width, height = resized if size[0] <= size[1] else resized[::-1]
    x, y = width / size[0], height / size[1]
    return [
        replace(one, box=(one.box[0] * x, one.box[1] * y, one.box[2] * x, one.box[3] * y)) for one in objects
    ]


def _boxes(objects: Sequence[DetectedObject]) -> list[dict[str, Any]]:
    return [
        {"box": [round(side, 1) for side in one.box], "label": f"{one.label} {one.score:.2f}"}
        for one in objects
    ]


def _judgment(scores: Mapping[str, float], more: Mapping[str, Any] | None = None) -> Judgment:
    return {"score": next(iter(scores.values())), "scores": dict(scores), **(more or {})}
