"""The recipe as a whole, and its sections evaluate, benchmarks, report and engine."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from capo.recipe.consistency import BETWEEN, contradictions
from capo.recipe.fields import RUNTIME, Name, Positive, Section
from capo.recipe.reward_sections import PairsSection, RewardSection
from capo.recipe.sample_sections import (
    GenerateSection,
    ImagesSection,
    ModelSection,
    PromptsSection,
    StartSection,
)
from capo.recipe.train_section import TrainSection

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""A program that shows the measures of runs."""


class EvaluateSection(Section):
    """The comparison of the tuned model with its base (App. B.2)."""

    prompts: PromptsSection = Field(
        description="A section like `prompts`. Use other prompts than in training; the same set of an "
        "installed source is rejected."
    )
    policy: str | None = Field(
        None,
        description="Model to evaluate instead of what this run trained: a run directory, a policy folder, a "
        "LoRA, a diffusers directory, a Hub id, or existing images. `capo evaluate --policy` sets it.",
    )
    against: str | None = Field(
        None,
        description="Model to compare with instead of the recipe's own, in the same notation. "
        "`capo evaluate --against` sets it.",
    )
    samples_per_prompt: Positive = Field(
        8, description="Images per prompt from each model, K in the paper. Both models use the same seeds."
    )
    judge: Name | None = Field(
        None,
        description="Judge, supplied by an installed package, that decides whether an image shows what its "
        "prompt asks for.",
    )
    null_row: bool = Field(
        True,
        description="Also compare the base with itself under other seeds, which shows the size of chance.",
    )
    embedder: str | None = Field(
        None,
        description="Image encoder that measures diversity: a CLIP, SigLIP or DINO directory or a Hub id as "
        "`owner/name@revision`. If null, that of the first CLIP-type reward, held-out ones first.",
    )

    @property
    def models_compared(self) -> int:
        """The number of sets of images that evaluation makes per prompt: base, tuned, and the null row."""
        return 3 if self.null_row else 2


class BenchmarkSection(Section):
    """A benchmark that measures the tuned model and its base after training."""

    name: Name = Field(description="The benchmark; `capo benchmark` without a name lists all.")
    prompts: str | None = Field(
        None,
        description="File or folder with the benchmark's prompts as its authors publish them. Null for a "
        "benchmark that brings its own.",
    )
    count: Positive | None = Field(
        None,
        description="Number of prompts, drawn with `seed`; the benchmark's if null. With fewer, scores must "
        "not be compared with published ones.",
    )
    images: Positive | None = Field(
        None, description="Images per prompt from each model; the benchmark's number if null."
    )
    judge: Name | None = Field(
        None,
        description="Name of the judge. If null, the first that `capo benchmark` lists, which is not the "
        "official judge for every benchmark.",
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="Settings of the judge, such as the location of its weights."
    )
    variant: Name | None = Field(
        None, description="How scores are computed from judgments; the official way if null."
    )
    model: str | None = Field(
        None,
        description="Model to measure instead of `evaluate.policy` or what this run trained, in the same "
        "notation. `capo benchmark --model` sets it.",
    )
    against: str | None = Field(
        None,
        description="Model to compare with instead of `evaluate.against` or the recipe's own, in the same "
        "notation. `capo benchmark --against` sets it.",
    )
    compare: bool = Field(
        True, description="Also measure the other model, with the same prompts and noise. If false, only one."
    )

    export: Literal["official"] | None = Field(
        None, description="`official` also writes the images as files in the layout of the authors' scripts."
    )

    @property
    def field(self) -> str:
        """The section's place in the recipe, for inputs and errors."""
        return f"benchmarks.{self.name}"

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if self.against is not None and not self.compare:
            raise ValueError("against: does not apply with compare: false")
        return self


class ReportSection(Section):
    """The report page."""

    title: str | None = Field(None, description="Title of the page; the name of the run if null.")
    side_by_side: int = Field(
        24, ge=0, description="Evaluation prompts shown with an image of the base and of the tuned model."
    )
    pair_examples: int = Field(
        6, ge=0, description="Training prompts shown with their chosen and rejected samples."
    )


class EngineSection(Section):
    """The processes, the device and the threads that the work runs on. Results do not depend on them."""

    executor: Annotated[Literal["auto", "local", "ranks", "ray"], RUNTIME] = Field(
        "auto",
        description="What makes images and scores: `local`, this process; `ranks`, all processes that "
        "torchrun or accelerate started; `ray`, a Ray cluster, with the package's extra `ray`. `auto` is "
        "`ranks` under a launcher, and otherwise `local`.",
    )
    address: Annotated[str, RUNTIME] = Field(
        "auto",
        description="The Ray cluster: `HOST:6379`, `ray://HOST:10001`, `auto` for the one that this machine "
        "belongs to, or `local` for a new one of this machine alone.",
    )
    workers: Annotated[int | None, RUNTIME] = Field(
        None,
        gt=0,
        description="Ray workers, which may be more than the cluster has room for now; one per GPU if null.",
    )

    device: Annotated[str, RUNTIME] = Field(
        "auto", description="`cpu`, `cuda`, `cuda:1` or `mps`; `auto` picks CUDA, then MPS, then the CPU."
    )
    threads: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="CPU threads of torch; its own default if null."
    )


class Recipe(Section):
    """Everything that a run depends on."""

    name: Name = Field(
        description="Name of the run: letters, digits and `._-`. The run directory is `runs/NAME` by default."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    model: ModelSection
    prompts: PromptsSection
    images: ImagesSection | None = None
    start: StartSection | None = None
    generate: GenerateSection = GenerateSection()
    rewards: tuple[RewardSection, ...] = Field(min_length=1)
    pairs: PairsSection = PairsSection()
    train: TrainSection
    evaluate: EvaluateSection
    benchmarks: tuple[BenchmarkSection, ...] = ()
    report: ReportSection = ReportSection()
    engine: EngineSection = EngineSection()
    trackers: Annotated[tuple[Tracker, ...], RUNTIME] = Field(
        (),
        description="Where to log measures, win-rates and validation images while the run is made; "
        "every tracker needs the extra of its name.",
    )

    _written: str | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Compare the fields, and not what the recipe was read from."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    @property
    def written(self) -> str | None:
        """The text of the user's file that the recipe was read from, if it was, before any override."""
        return self._written

    def with_written(self, text: str) -> Self:
        """Return the recipe with `written`."""
        copy = self.model_copy()
        copy._written = text
        return copy

    @property
    def samples_vary(self) -> bool:
        """True if prompts may differ in their number of samples."""
        return self.images is not None or self.generate.adaptive is not None

    @property
    def training_rewards(self) -> tuple[RewardSection, ...]:
        """The rewards with `use: train`."""
        return tuple(r for r in self.rewards if r.use == "train")

    @property
    def pairing_rewards(self) -> tuple[RewardSection, ...]:
        """The rewards that determine the pairs; none if labels do."""
        return () if self.pairs.selection == "labels" else self.training_rewards

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, values: Any) -> Any:
        """Read `train.tensorboard` of version 0.1, which `trackers` replaces."""
        train = values.get("train") if isinstance(values, dict) else None
        if not isinstance(train, dict) or not isinstance(train.get("tensorboard"), bool):
            return values
        rest = {name: value for name, value in train.items() if name != "tensorboard"}
        added = {"trackers": ["tensorboard"]} if train["tensorboard"] and not values.get("trackers") else {}
        return values | {"train": rest} | added

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(contradictions(self)):
            raise ValueError(BETWEEN.join(problems))
        return self
