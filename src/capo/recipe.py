"""The recipe: the one configuration object of a run, strict and typed.

A recipe is YAML with the sections `model, prompts, generate, rewards, pairs, train, evaluate,
report, engine` and a `seed`. Unknown keys, wrong types and contradictions are errors, all
reported at once and with the nearest valid name.

    recipe = load_recipe("shapes", ["seed=1", "train.beta=300"])

Fields marked `RUNTIME` decide how fast a result is made, not what it is; changing one makes
no artefact stale.
"""

import difflib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

RUNTIME = "capo:runtime"
"""Annotation of fields that change speed or memory but not results."""

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem found, one a line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def results(self) -> dict[str, Any]:
        """The fields that decide results, as plain JSON values (`RUNTIME` ones left out)."""
        runtime = {n for n, f in type(self).model_fields.items() if RUNTIME in f.metadata}
        return self.model_dump(mode="json", exclude=runtime)


class ModelSection(Section):
    """The base model: what generates the samples, what is tuned, what stays the reference."""

    checkpoint: str = Field(description="`shapes` (the embedded model), a diffusers directory or a Hub id")
    revision: str | None = Field(None, description="Hub revision; pin it to repeat a result")
    variant: str | None = Field(None, description="weight variant of the checkpoint, as `fp16`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the frozen parts and of sampling"
    )


class PromptsSection(Section):
    """Where prompts come from."""

    source: str = Field(
        description="`shapes:train`, `shapes:validation`, `shapes:test`, or a file of one prompt a line"
    )
    count: Positive | None = Field(None, description="how many, drawn by `seed`; all when null")


class GenerateSection(Section):
    """N samples a prompt from the base model."""

    samples_per_prompt: int = Field(16, ge=2, description="N of the paper")
    scheduler: str = Field("DDIMScheduler", description="any diffusers scheduler, by class name")
    num_inference_steps: Positive = 50
    guidance_scale: float = Field(7.5, ge=0)
    height: Positive | None = Field(None, description="pixels; the model's own size when null")
    width: Positive | None = None
    shard_prompts: Positive = Field(16, description="prompts a shard: the unit of resuming")
    batch_size: Annotated[int, RUNTIME] = Field(64, gt=0, description="images a denoiser batch")


class RewardSection(Section):
    """One reward model."""

    name: Name = Field(description="its name in tables and paths; a shipped reward's name loads it")
    source: str | None = Field(
        None, description="shipped reward, or your own as `package.module:function`; `name` when null"
    )
    checkpoint: str | None = Field(None, description="other weights for a shipped architecture")
    use: Literal["train", "evaluate"] = Field(
        "train", description="`evaluate`: held out, never seen by pairs or training"
    )
    comparison: Literal["bradley-terry", "power-ratio", "threshold"] | None = Field(
        None, description="how two scores become a win probability; the reward's own when null"
    )
    temperature: PositiveFloat | None = Field(None, description="of Bradley-Terry")
    exponent: PositiveFloat | None = Field(None, description="of the power ratio")
    weight: PositiveFloat = Field(1.0, description="in the mean over rewards")
    batch_size: Annotated[int, RUNTIME] = Field(64, gt=0)

    @model_validator(mode="after")
    def _parameters_fit(self) -> Self:
        if self.temperature is not None and self.comparison not in (None, "bradley-terry"):
            raise ValueError(f"temperature does not apply to comparison {self.comparison!r}")
        if self.exponent is not None and self.comparison not in (None, "power-ratio"):
            raise ValueError(f"exponent does not apply to comparison {self.comparison!r}")
        return self


class PairsSection(Section):
    """How chosen and rejected samples are picked (Sec. 4.3)."""

    selection: Literal["frontier", "sum", "best-worst"] = "frontier"
    reward: Name | None = Field(None, description="the reward of best-worst")
    min_margin: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="only pairs with a calibrated difference above this; null: 0 for dpo and ipo, "
        "no limit for capo",
    )
    max_skipped: float = Field(
        0.01, ge=0, le=1, description="largest share of samples without a score before it is an error"
    )


class TrainSection(Section):
    """Fine-tuning on the pairs (Sec. 4.2, 4.4, App. B)."""

    objective: Literal["capo", "ipo", "dpo"] = "capo"
    beta: PositiveFloat = Field(
        description="of the margin, with errors averaged over elements; half of the `beta_dpo` of the "
        "Diffusion-DPO scripts, which carry another factor 1/2"
    )
    weighting: Literal["sigmoid", "constant"] = "sigmoid"
    weighting_bias: float = Field(1.5, description="b of the sigmoid weighting")
    noise: Literal["independent", "shared"] = Field(
        "independent", description="of chosen and rejected (App. A.2); Diffusion-DPO shares it"
    )
    adaptation: Literal["lora", "full"] = "lora"
    lora_rank: Positive = 16
    lora_alpha: PositiveFloat | None = Field(None, description="the rank when null")
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), description="module names, as peft matches them"
    )
    steps: Positive = 1000
    global_batch_size: Positive = Field(32, description="pairs an optimizer step")
    per_device_batch_size: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="pairs a forward; the rest is accumulated; the whole batch when null"
    )
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(0, ge=0, description="linear, from 0; constant afterwards")
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    checkpoint_every: Positive = 100
    keep_checkpoints: Positive = Field(2, description="the newest ones; the best is kept besides")
    log_every: Positive = 1
    validate_every: Positive = Field(1000, description="steps between win-rates on a fixed subset")
    validation_prompts: PromptsSection | None = Field(
        None, description="disjoint from training and evaluation; no validation when null"
    )
    validation_samples: Positive = Field(4, description="images a validation prompt and model")
    tensorboard: Annotated[bool, RUNTIME] = False


class EvaluateSection(Section):
    """The tuned model against the base (App. B.2)."""

    prompts: PromptsSection
    samples_per_prompt: Positive = Field(8, description="K images from each model, equal seeds")
    judge: Literal["shapes"] | None = Field(
        None, description="exact judge of prompts that say what must be seen"
    )
    null_row: bool = Field(
        True, description="also the base against itself with other seeds: the size of chance"
    )


class ReportSection(Section):
    """The page."""

    title: str | None = None
    side_by_side: int = Field(24, ge=0, description="prompts shown base against tuned")
    pair_examples: int = Field(6, ge=0, description="prompts shown with their chosen and rejected sets")


class EngineSection(Section):
    """Where the work runs."""

    device: Annotated[str, RUNTIME] = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: Annotated[int | None, RUNTIME] = Field(None, gt=0, description="CPU threads of torch")


class Recipe(Section):
    """Everything a run depends on."""

    name: Name
    seed: int = Field(0, ge=0)
    model: ModelSection
    prompts: PromptsSection
    generate: GenerateSection = GenerateSection()
    rewards: tuple[RewardSection, ...] = Field(min_length=1)
    pairs: PairsSection = PairsSection()
    train: TrainSection
    evaluate: EvaluateSection
    report: ReportSection = ReportSection()
    engine: EngineSection = EngineSection()

    @property
    def training_rewards(self) -> tuple[RewardSection, ...]:
        return tuple(r for r in self.rewards if r.use == "train")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._reward_problems()
        yield from self._training_problems()

    def _reward_problems(self) -> Iterator[str]:
        names = [r.name for r in self.rewards]
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"rewards: {name!r} is there more than once"
        training = [r.name for r in self.training_rewards]
        if not training:
            yield "rewards: at least one needs use: train"
        if self.pairs.selection == "best-worst":
            if self.pairs.reward is None and len(training) > 1:
                yield "pairs.reward: best-worst needs the name of one reward"
            elif self.pairs.reward not in (None, *training):
                yield f"pairs.reward: {self.pairs.reward!r} is no training reward ({', '.join(training)})"
        elif self.pairs.reward is not None:
            yield f"pairs.reward: only best-worst reads it, not {self.pairs.selection}"

    def _training_problems(self) -> Iterator[str]:
        if self.model.dtype == "float16":
            yield "model.dtype: gradients vanish in float16; train in bfloat16 or float32"
        size, step = self.train.global_batch_size, self.train.per_device_batch_size
        if step is not None and size % step:
            yield f"train.per_device_batch_size: {step} does not divide global_batch_size {size}"
        trained_on = self.prompts.source
        measured = {
            "train.validation_prompts": self.train.validation_prompts,
            "evaluate.prompts": self.evaluate.prompts,
        }
        for field, section in measured.items():
            if section is not None and section.source == trained_on and trained_on.startswith("shapes:"):
                yield f"{field}.source: {trained_on} is what the model is trained on; take another split"


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or one from a YAML file, with `a.b=c` overrides.

    The value of an override is YAML (`train.steps=100`, `rewards.0.weight=2`,
    `train.lora_targets=[to_q]`). Raises `RecipeError` naming every field that is wrong.
    """
    path = _find(name_or_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate plain values; `where` (a file name) heads the errors."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError("\n  ".join([f"{where}:", *lines])) from None


def shipped_recipes() -> dict[str, Path]:
    """Name and path of every recipe that comes with the package."""
    folder = Path(str(resources.files("capo") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def dump_recipe(recipe: Recipe) -> str:
    """YAML with every default written out; loading it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    near = _nearest(str(name_or_path), shipped)
    raise RecipeError(
        f"no recipe {str(name_or_path)!r}: neither a file nor one of {', '.join(shipped)}{near}"
    )


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected KEY=VALUE, as train.steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not readable as YAML: {error}") from error
    *parents, last = key.strip().split(".")
    place: Any = values
    try:
        for part in parents:
            if isinstance(place, list):
                place = place[int(part)]
            else:
                if place.get(part) is None:
                    place[part] = {}
                place = place[part]
        place[int(last) if isinstance(place, list) else last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        raise RecipeError(f"--set {override}: the recipe has no place {key!r}") from None


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"{field}: unknown key{_nearest(location[-1], known)}"
    if problem["type"] == "missing":
        return f"{field}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = "" if isinstance(given, dict | list | BaseModel) else f", got {given!r}"
    return message if field == "recipe" else f"{field}: {message}{shown}"


def _fields_at(location: Sequence[str]) -> list[str]:
    """The keys that the section at `location` has."""
    section: Any = Recipe
    for part in location:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
