"""The sections of a recipe and what each field may hold.

Fields marked `RUNTIME` decide how fast a result is made, not what it is; changing one makes
no artifact stale.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from capo.method.objective_table import OBJECTIVES
from capo.recipe.consistency import contradictions
from capo.recipe.hints import nearest

RUNTIME = "capo:runtime"
"""Annotation of fields that change speed or memory but not results."""

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Condition = tuple[str, Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"], JsonValue]


def _known_objective(name: str) -> str:
    if name not in OBJECTIVES:
        raise ValueError(f"no such objective; choose from {', '.join(OBJECTIVES)}{nearest(name, OBJECTIVES)}")
    return name


Objective = Annotated[str, AfterValidator(_known_objective)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def results(self) -> dict[str, Any]:
        """The fields that decide results, as plain JSON values (`RUNTIME` ones left out)."""
        runtime = {n for n, f in type(self).model_fields.items() if RUNTIME in f.metadata}
        return self.model_dump(mode="json", exclude=runtime)


class ModelSection(Section):
    """The base model: what generates the samples, what is tuned, what stays the reference."""

    checkpoint: str = Field(description="a diffusers directory, a Hub id, or an installed checkpoint")
    revision: str | None = Field(None, description="Hub revision; pin it to repeat a result")
    variant: str | None = Field(None, description="weight variant of the checkpoint, as `fp16`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the frozen parts and of sampling"
    )
    max_sequence_length: int | None = Field(
        None,
        ge=0,
        description="tokens of a prompt for T5 or Gemma (SD3, FLUX, Sana); the pipeline's own when null",
    )
    compile: Annotated[bool, RUNTIME] = Field(False, description="torch.compile the denoiser")
    channels_last: Annotated[bool, RUNTIME] = Field(
        False, description="memory layout of a UNet: often faster on GPUs in half precision"
    )
    attention: Annotated[str | None, RUNTIME] = Field(
        None,
        description="a diffusers attention backend by name, as `flash`; the default when null",
    )


class PromptsSection(Section):
    """Where prompts come from."""

    source: str = Field(
        description="a file; `hub:owner/name`; a benchmark's files, as `geneval:PATH`; or an installed "
        "source, as `KIND:NAME`"
    )
    count: Positive | None = Field(None, description="how many, drawn by `seed`; all when null")
    column: str | None = Field(
        None, description="with the prompts; `text`, `prompt` or `caption`, whichever is there, when null"
    )
    where: tuple[Condition, ...] | None = Field(
        None, description="only rows for which all of these hold, each as `[column, comparison, value]`"
    )
    split: str | None = Field(None, description="of a Hub data set; `train` when null")
    revision: str | None = Field(None, description="of a Hub data set; pin it to repeat a result")

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        for column, comparison, value in self.where or ():
            several = comparison in ("in", "not in")
            if isinstance(value, list) != several or isinstance(value, dict) or value is None:
                wanted = "a list" if several else "a text or a number"
                raise ValueError(f"where: {column} {comparison} needs {wanted}, got {value!r}")
        return self


class ImagesSection(Section):
    """Images that are there already, in the place of samples from the model."""

    source: str = Field(
        description="a folder, a Parquet file or a folder of them, or a Hub data set as `hub:owner/name`"
    )
    split: str | None = Field(None, description="of a Hub data set; `train` when null")
    revision: str | None = Field(None, description="of a Hub data set; pin it to repeat a result")
    column: str | None = Field(
        None, description="of the captions; `caption`, `prompt` or `text`, whichever is there, when null"
    )


class AdaptiveSection(Section):
    """Fewer samples of prompts whose pairs are clear before they have all."""

    first: int = Field(4, ge=2, description="samples of every prompt")
    step: Positive = Field(4, description="more samples at a time, of prompts that are not settled")
    margin: float = Field(
        0.2, gt=0, le=1, description="mean difference of a prompt's pairs from which it is settled"
    )


class GenerateSection(Section):
    """N samples a prompt from the base model."""

    samples_per_prompt: int = Field(16, ge=2, description="N of the paper; the most, where it is adaptive")
    adaptive: AdaptiveSection | None = Field(
        None, description="fewer samples where fewer do; `samples_per_prompt` of each when null"
    )
    scheduler: str = Field("DDIMScheduler", description="any diffusers scheduler, by class name")
    num_inference_steps: Positive = 50
    guidance_scale: float = Field(7.5, ge=0)
    shift: PositiveFloat | None = Field(
        None, description="of the sampling times of a flow model; the checkpoint's own when null"
    )
    height: Positive | None = Field(None, description="pixels; the model's own size when null")
    width: Positive | None = None
    shard_prompts: Positive = Field(16, description="prompts a shard: the unit of resuming")
    batch_size: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="images a denoiser batch; as many as fit into memory when null"
    )
    image_format: Literal["png", "webp", "jpeg"] = Field(
        "png", description="of the images kept; png loses nothing, the others are smaller (quality 95)"
    )


class RewardSection(Section):
    """One reward model."""

    name: Name = Field(description="its name in tables and paths; a shipped reward's name loads it")
    source: str | None = Field(
        None, description="shipped reward, or your own as `package.module:function`; `name` when null"
    )
    checkpoint: str | None = Field(None, description="other weights for a shipped architecture")
    options: dict[str, JsonValue] = Field(
        {}, description="of its architecture, as `template` of vqascore; `capo rewards show NAME` lists them"
    )
    command: tuple[str, ...] = Field(
        (), description="a program that scores, with its arguments, in the place of `source`"
    )
    requirements: tuple[str, ...] = Field(
        (), description="packages for an environment of the program's, or your function's, own"
    )
    url: str | None = Field(None, pattern=r"^https?://", description="a server that scores: its address")
    timeout: Annotated[PositiveFloat, RUNTIME] = Field(
        600.0, description="seconds to wait for a batch from a program or server"
    )
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
    cache: Annotated[bool | None, RUNTIME] = Field(
        None, description="keep its scores for other runs; only of shipped rewards that run here when null"
    )

    @model_validator(mode="after")
    def _parameters_fit(self) -> Self:
        if self.temperature is not None and self.comparison not in (None, "bradley-terry"):
            raise ValueError(f"temperature does not apply to comparison {self.comparison!r}")
        if self.exponent is not None and self.comparison not in (None, "power-ratio"):
            raise ValueError(f"exponent does not apply to comparison {self.comparison!r}")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        """Of a program, everything is in its command; a server has its environment already."""
        excluded = {
            "command": ("source", "checkpoint", "options", "url"),
            "url": ("requirements",),
        }
        for field, others in excluded.items():
            for other in others:
                if getattr(self, field) and getattr(self, other):
                    raise ValueError(f"{other} does not apply to a reward with a {field}")
        return self


class PairsSection(Section):
    """How chosen and rejected samples are picked (Sec. 4.3)."""

    selection: Literal["frontier", "sum", "best-worst", "labels"] = Field(
        "frontier", description="`labels`: what people preferred, as the data set of `images` or `people` say"
    )
    reward: Name | None = Field(None, description="the reward of best-worst")
    people: Name | None = Field(
        None, description="of labels: simulated people who compare the model's own samples"
    )
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

    objective: Objective = Field("capo", description="the loss on a pair's margin")
    beta: PositiveFloat = Field(
        description="of the margin, with errors averaged over elements; half of the `beta_dpo` of the "
        "Diffusion-DPO scripts, which carry another factor 1/2"
    )
    weighting: Literal["sigmoid", "constant"] = "sigmoid"
    weighting_bias: float = Field(1.5, description="b of the sigmoid weighting")
    time_sampling: Literal["uniform", "uniform-logsnr", "logit-normal"] | None = Field(
        None,
        description="of training times; null: as the paper, `uniform` for a DDPM schedule (which knows no "
        "other) and `uniform-logsnr` for a flow",
    )
    timesteps: tuple[int, ...] | None = Field(
        None,
        description="only these timesteps of a DDPM schedule, as a distilled model's four; all when null",
    )
    noise: Literal["independent", "shared", "prior"] = Field(
        "independent",
        description="of chosen and rejected (App. A.2); Diffusion-DPO shares it; `prior` is what each sample "
        "was made from",
    )
    adaptation: Literal["lora", "full"] = "lora"
    lora_rank: Positive = 16
    lora_alpha: PositiveFloat | None = Field(None, description="the rank when null")
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), description="module names, as peft matches them"
    )
    lora_dora: bool = Field(False, description="DoRA: magnitude and direction apart")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="of the forward passes in training; that of the model when null"
    )
    reference_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the frozen copy in full fine-tuning; bfloat16 halves it, and fits dtype bfloat16",
    )
    reference_offload: Annotated[bool, RUNTIME] = Field(
        False, description="keep the frozen copy of full fine-tuning in main memory between its passes"
    )
    steps: Positive = 1000
    global_batch_size: Positive = Field(32, description="pairs an optimizer step")
    per_device_batch_size: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="pairs a forward; the rest is accumulated; the whole batch when null"
    )
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(0, ge=0, description="linear, from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="after the warm-up; the others fall to 0 over the steps that remain"
    )
    optimizer: Annotated[Literal["adamw", "adamw-8bit"], Field(description="8-bit needs bitsandbytes")] = (
        "adamw"
    )
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="validate and keep an exponential moving average of the weights"
    )
    gradient_checkpointing: Annotated[bool, RUNTIME] = Field(
        False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    sharding: Annotated[Literal["ddp", "fsdp"], RUNTIME] = Field(
        "ddp", description="with several processes: a whole model in each, or FSDP2"
    )
    checkpoint_every: Positive = 100
    keep_checkpoints: Positive = Field(2, description="the newest ones; the best is kept besides")
    log_every: Positive = 1
    validate_every: Positive = Field(1000, description="steps between win-rates on a fixed subset")
    validation_prompts: PromptsSection | None = Field(
        None, description="disjoint from training and evaluation; no validation when null"
    )
    validation_samples: Positive = Field(4, description="images a validation prompt and model")
    patience: Positive | None = Field(
        None, description="stop after so many validations without a better one; never when null"
    )
    on_overoptimization: Literal["warn", "stop"] = Field(
        "warn", description="when the training rewards rise while the held-out ones fall"
    )
    on_divergence: Literal["warn", "stop", "roll-back"] = Field(
        "stop",
        description="when errors or margins run away; warn goes on, roll-back from a healthy checkpoint "
        "at half the learning rate",
    )
    max_error_growth: PositiveFloat = Field(
        1.0,
        description="growth of the denoising error on chosen samples over the reference's, averaged over "
        "some steps, from which training counts as diverging; 1 is twice the error",
    )
    tensorboard: Annotated[bool, RUNTIME] = False


class EvaluateSection(Section):
    """The tuned model against the base (App. B.2)."""

    prompts: PromptsSection
    policy: str | None = Field(
        None,
        description="what is evaluated: a run or policy folder, a LoRA, a diffusers directory or Hub id, or "
        "images; what this run trained when null",
    )
    against: str | None = Field(
        None, description="what it is compared with, named likewise; the recipe's model when null"
    )
    samples_per_prompt: Positive = Field(8, description="K images from each model, equal seeds")
    judge: Name | None = Field(None, description="exact judge of prompts that say what must be seen")
    null_row: bool = Field(
        True, description="also the base against itself with other seeds: the size of chance"
    )
    embedder: str | None = Field(
        None,
        description="image encoder that diversity is measured with: a CLIP, SigLIP or DINO directory or Hub "
        "id; that of the first CLIP-type reward, held-out ones first, when null",
    )


class ReportSection(Section):
    """The page."""

    title: str | None = None
    side_by_side: int = Field(24, ge=0, description="prompts shown base against tuned")
    pair_examples: int = Field(6, ge=0, description="prompts shown with their chosen and rejected sets")


class StartSection(Section):
    """Makes the run a further round: it starts from the policy of the round before (the paper's outlook)."""

    run: str = Field(description="the round before: its run directory, trained to the end")
    reference: Literal["base", "start"] = Field(
        "base", description="what the policy is measured against: the base model, or what it starts from"
    )


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
    images: ImagesSection | None = None
    start: StartSection | None = None
    generate: GenerateSection = GenerateSection()
    rewards: tuple[RewardSection, ...] = Field(min_length=1)
    pairs: PairsSection = PairsSection()
    train: TrainSection
    evaluate: EvaluateSection
    report: ReportSection = ReportSection()
    engine: EngineSection = EngineSection()

    @property
    def samples_vary(self) -> bool:
        """Whether one prompt may have more samples than another."""
        return self.images is not None or self.generate.adaptive is not None

    @property
    def training_rewards(self) -> tuple[RewardSection, ...]:
        return tuple(r for r in self.rewards if r.use == "train")

    @property
    def pairing_rewards(self) -> tuple[RewardSection, ...]:
        """The rewards that decide the pairs: none where labels do."""
        return () if self.pairs.selection == "labels" else self.training_rewards

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(contradictions(self)):
            raise ValueError("; ".join(problems))
        return self
