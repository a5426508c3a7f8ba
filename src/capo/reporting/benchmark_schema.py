"""The schema of `benchmarks/NAME/results/results.json`.

Scores are in the benchmark's own values, of which `unit` is one displayed unit: 0.01 for percentages of a
share. A comparison is paired: same prompts, same noise if both models sampled their images.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from capo.reporting.results_schema import PromptsNeeded, SignTestResult


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Level(_Record):
    """The score of one model, with its 95% interval over prompts, None if it cannot be estimated."""

    value: float
    low: float | None
    high: float | None
    prompts: int
    """Prompts with a judgment."""


class PairedScore(_Record):
    """The difference tuned minus base over the prompts that both have judgments on."""

    value: float
    low: float | None
    high: float | None
    p: float
    """Two-sided, by random sign flips of the prompts' differences."""
    sign_test: SignTestResult
    detectable: float | None
    """The smallest difference that these prompts detect with 80% power at the 5% level."""
    prompts_needed: tuple[PromptsNeeded, ...]
    """Prompts that detect a difference of so many points."""
    prompts: int


class ScoreRow(_Record):
    """A row of the table: a category, a skill, or the overall score."""

    name: str
    base: Level | None = None
    """None if no base was measured, or if none of its images has a judgment."""
    tuned: Level | None = None
    difference: PairedScore | None = None


class Flips(_Record):
    """Images with the same number on the same prompt, by which model's is right."""

    gained: int
    """Base wrong, tuned right."""
    lost: int
    """Base right, tuned wrong."""
    both_right: int
    both_wrong: int


class JudgeName(_Record):
    """The judge of all images."""

    name: str
    official: bool
    fingerprint: str


class PublishedRow(_Record):
    """Numbers that others published, in the benchmark's displayed unit."""

    model: str
    scores: dict[str, float]
    source: str

    @property
    def printed(self) -> dict[str, str]:
        """The scores with as many decimals as the publication has."""
        decimals = max((len(repr(score).partition(".")[2]) for score in self.scores.values()), default=0)
        return {name: f"{score:.{decimals}f}" for name, score in self.scores.items()}


class Missing(_Record):
    """Images without a judgment, by model, with the reasons of the first."""

    base: int = 0
    tuned: int = 0
    reasons: tuple[str, ...] = ()


class BenchmarkResults(_Record):
    """The results of one benchmark."""

    benchmark: str
    title: str
    variant: str
    judge: JudgeName
    models: dict[str, str]
    """Name of the measured model by side: `base` and `tuned`, or `tuned` alone."""
    prompts: int
    prompts_source: str
    images_per_prompt: int
    complete: bool
    """True if these are all official prompts, with at least the official number of images."""
    same_noise: bool
    """True if images with the same number start from the same noise in both models."""
    unit: float
    overall: str | None
    """Name of the headline among the scores."""
    scores: tuple[ScoreRow, ...]
    missing: Missing
    flips: Flips | None = None
    """None without two models, or if the judge gives scores rather than verdicts."""
    details: dict[str, dict[str, Any]] = {}
    """Further official numbers, by model."""
    published: tuple[PublishedRow, ...] = ()
    licenses: dict[str, str] = {}
    not_comparable: tuple[str, ...] = ()
    """Why these numbers must not be compared with published ones; empty if they may."""
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> ScoreRow | None:
        """The overall score."""
        return next((row for row in self.scores if row.name == self.overall), None)
