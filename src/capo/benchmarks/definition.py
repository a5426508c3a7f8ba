"""What a benchmark is made of: prompts, images of every prompt, judges, scores, and the official layout.

A judgment is one JSON object per image. The framework adds `prompt` and `image`, their numbers from 0, and
`category`, that of the prompt; the rest is the judge's. A judge that fails on an image returns
`failed("why")` for it: the image is then a counted gap, neither a 0 nor silently left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from capo.benchmarks.summary import Summary
from capo.prompts import Prompt

if TYPE_CHECKING:
    import torch
    from PIL import Image

Judgment = Mapping[str, Any]
"""What a judge says about one image: JSON values. For the page, it may have `correct` (bool), `score`
(number, better if larger), `reason` (text), `boxes` ([{"box": [left, top, right, bottom] in pixels, "label":
text, "outline": [[x, y], ...] of a mask, optional}]) and `answers` ([{"question": text, "answer": text,
"score": number}])."""

Row = Mapping[str, Any]
"""A judgment with `prompt`, `image` and `category`."""

FAILED = "failed"

JudgeImages = Callable[["Sequence[Image.Image]", Sequence[Prompt]], Sequence[Judgment]]
"""Judges RGB images, each with the prompt at its place; returns one judgment per image, in order."""


def failed(why: str) -> Judgment:
    """Return the judgment of an image that could not be judged."""
    return {FAILED: why}


class ImageJudge(Protocol):
    """A judge. Cheap to create; its weights are loaded by `load`."""

    @property
    def name(self) -> str:
        """As tables show it. A judge that is not the official one says so in its name."""
        ...

    @property
    def official(self) -> bool:
        """True if its numbers may stand beside those that the authors of the benchmark publish."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights, rules, and options that judgments depend on, apart from image and prompt.

        An option that it leaves out makes no judgment stale.

        Raises `ValueError` or `OSError` if the weights cannot be identified.
        """
        ...

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` or `ImportError` for what would stop it later; loads no weights.

        Examples are prompts without the metadata that it needs, missing files, and a missing package.
        """
        ...

    def load(self, device: "torch.device") -> JudgeImages:
        """Load the weights onto a device."""
        ...


def _no_files(prompts: Sequence[Prompt]) -> Mapping[str, str]:
    return {}


def _no_results(prompts: Sequence[Prompt], rows: Sequence[Row]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Layout:
    """The files that the authors' own scripts read. Paths are relative, with `/`, in any official format."""

    path: Callable[[int, Prompt, int], str]
    """Path of an image: number of the prompt from 0, prompt, number of the image from 0."""
    tiles: int = 1
    """Images in one file, as a square grid in reading order: 4 for two by two. `path` then gets 0."""
    companions: Callable[[Sequence[Prompt]], Mapping[str, str]] = _no_files
    """Text files beside the images, by path."""
    results: Callable[[Sequence[Prompt], Sequence[Row]], Mapping[str, str]] = _no_results
    """Text files in the official results format, by path. Rows include failed ones."""


@dataclass(frozen=True)
class Published:
    """Numbers of another publication, shown beside ours and never mixed with them."""

    model: str
    scores: Mapping[str, float]
    """By `Score.name`, in the benchmark's unit."""
    source: str
    """Where they are published: paper and table, or address."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark, as one file of this room or an installed package defines it."""

    name: str
    """As in `capo benchmark NAME`: lower-case letters, digits and `-`."""
    title: str
    prompts: str
    """`geneval` for official files that `prompts.benchmark_prompts` reads from the user's path; a source
    with a colon, such as `shapes:test`, that needs no path."""
    images: int
    """Official number of images per prompt."""
    judges: Mapping[str, Callable[..., ImageJudge]]
    """Makes a judge by name, the official or usual one first. The user's `options` are keyword arguments: a
    judge rejects wrong ones by a `ValueError`."""
    summarize: Callable[[Sequence[Row], str], Summary]
    """Turns the judged rows of one model, without failed ones, and the variant into scores. Pure."""
    layout: Layout
    variants: tuple[str, ...] = ("official",)
    """Ways to compute the scores, the official one first. Changing it judges nothing again."""
    count: int | None = None
    """Number of prompts by default; None for all, as for every public benchmark."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """The range of a prompt's value; None if it has none."""
    unit: float = 1.0
    """Scores are shown as multiples of this: 0.01 for a benchmark that publishes percentages of a share."""
    point: float = 0.01
    """The difference in a value that counts as one point when results say how many prompts it takes."""
    published: tuple[Published, ...] = ()
    licenses: Mapping[str, str] = field(default_factory=dict)
    """Licenses of the prompts (`prompts`) and of every judge's weights, by judge."""
