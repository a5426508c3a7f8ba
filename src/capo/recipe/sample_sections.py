"""The sections that determine the samples: model, prompts, images, start and generate."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from capo.recipe.fields import RUNTIME, Condition, Positive, PositiveFloat, Section
from capo.recipe.hub_id import HUB_ID


class LoraSection(Section):
    """A LoRA that belongs to the base model."""

    path: str = Field(
        description="A `.safetensors` file, a folder with one, or a Hub id as `owner/name@revision`."
    )
    file: str | None = Field(
        None, description="The file in a folder or a repository; null if it has only one LoRA."
    )
    weight: float = Field(1.0, description="Factor of its update.")

    @property
    def on_hub(self) -> bool:
        """True if `path` is a Hub id, and neither an existing path nor the name of a file."""
        local = self.path.endswith(".safetensors") or Path(self.path).exists()
        return not local and HUB_ID.fullmatch(self.path) is not None

    def results(self) -> dict[str, Any]:
        """Return the fields that determine results, without `file` if it is not set."""
        return {name: value for name, value in super().results().items() if value is not None}


class ModelSection(Section):
    """The base model: it generates the samples, it is fine-tuned, and it is the reference."""

    checkpoint: str = Field(
        description="A diffusers directory, a Hub id, one `.safetensors` file in the original layout, or a "
        "checkpoint that an installed package supplies, such as the embedded model. Its weights must be "
        "safetensors."
    )
    config: str | None = Field(
        None,
        description="For a single file: a diffusers directory, or a Hub id as `owner/name@revision`, with "
        "the configurations and tokenizers of its architecture. If null, those of the published base model.",
    )
    loras: tuple[LoraSection, ...] = Field(
        (),
        description="LoRAs that are merged into the base model, as `[{path: FILE, weight: 1.0}]`. All stages "
        "then start from the merged model.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit of a Hub id. Give a commit to make the run repeatable."
    )
    variant: str | None = Field(None, description="Weight variant of the checkpoint, such as `fp16`.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Precision of sampling and of the frozen weights. Trained weights are kept in float32. "
        "With `float16`, set `train.dtype` to another precision.",
    )
    max_sequence_length: int | None = Field(
        None,
        ge=0,
        description="Number of prompt tokens for a text encoder that reads any number, such as T5 or a "
        "language model; the default of the pipeline if null. Without T5, SD3 uses this many zeros instead.",
    )
    compile: Annotated[bool, RUNTIME] = Field(
        False, description="Compile the denoiser with `torch.compile`: slower to start, then faster."
    )
    channels_last: Annotated[bool, RUNTIME] = Field(
        False, description="Memory layout of a UNet, often faster on GPUs in half precision."
    )
    attention: Annotated[str | None, RUNTIME] = Field(
        None, description="Attention backend of diffusers, such as `flash`; the default backend if null."
    )

    def results(self) -> dict[str, Any]:
        """Return the fields that determine results, without `config` and `loras` if they are not set.

        What was made before these fields existed thus stays up to date.
        """
        later = ("config", "loras")
        values = super().results() | {"loras": [lora.results() for lora in self.loras]}
        return {name: value for name, value in values.items() if value or name not in later}


class PromptsSection(Section):
    """The source of prompts."""

    source: str = Field(
        description="A file, a folder of images with captions beside them, a Hub data set as "
        "`hub:owner/name`, the files of a benchmark as `geneval:PATH`, a source that an installed package "
        "supplies as `KIND:NAME`, or `images` for the captions of the section `images`."
    )
    count: Positive | None = Field(
        None, description="Number of prompts, drawn with `seed`; all prompts if null."
    )
    skip: Positive | None = Field(
        None,
        description="Number of drawn prompts to leave out. With one source and `seed`, the prompts of "
        "`count: 200` and those of `skip: 200` are disjoint. Does not apply to the sets of an installed "
        "package, such as `shapes:train`.",
    )
    column: str | None = Field(
        None, description="Column of a table that holds the prompts; `text`, `prompt` or `caption` if null."
    )
    where: tuple[Condition, ...] | None = Field(
        None,
        description="Use only rows of a table that meet all of these conditions, each written as "
        "`[column, comparison, value]`.",
    )
    split: str | None = Field(None, description="Split of a Hub data set; `train` if null.")
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a Hub data set. Give a commit to make the run repeatable.",
    )

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        for column, comparison, value in self.where or ():
            several = comparison in ("in", "not in")
            if isinstance(value, list) != several or isinstance(value, dict) or value is None:
                wanted = "a list" if several else "a text or a number"
                raise ValueError(f"where: {column} {comparison} needs {wanted}, got {value!r}")
        return self


class ImagesSection(Section):
    """Existing images that replace samples from the model. `prompts.source` must then be `images`."""

    source: str = Field(
        description="A folder of images, a Parquet file, a folder of Parquet files, or a Hub data set as "
        "`hub:owner/name`."
    )
    split: str | None = Field(None, description="Split of a Hub data set; `train` if null.")
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a Hub data set. Give a commit to make the run repeatable.",
    )
    column: str | None = Field(
        None, description="Column that holds the captions; `caption`, `prompt` or `text` if null."
    )


class StartSection(Section):
    """Makes the run a further round, which starts from the policy of an earlier run."""

    run: str = Field(description="Run directory of the previous round, which must have finished training.")
    reference: Literal["base", "start"] = Field(
        "base",
        description="Frozen model of the objective: `base`, the base model, or `start`, the policy that the "
        "round starts from.",
    )


class AdaptiveSection(Section):
    """Samples in steps until the pairs of a prompt are clear."""

    first: int = Field(4, ge=2, description="Number of samples that every prompt gets first.")
    step: Positive = Field(4, description="Number of samples added to prompts whose pairs are not clear yet.")
    margin: float = Field(
        0.2, gt=0, le=1, description="Mean ΔR over the pairs of a prompt from which they count as clear."
    )


_ADAPTIVE = AdaptiveSection()


class GenerateSection(Section):
    """Samples from the base model. Validation and evaluation use the same settings."""

    samples_per_prompt: int = Field(
        16, ge=2, description="Number of samples per prompt, N in the paper. The maximum with `adaptive`."
    )
    adaptive: AdaptiveSection | None = Field(
        None,
        description=f"Fewer samples for prompts with clear pairs. Every prompt gets `first` "
        f"({_ADAPTIVE.first}) samples, then `step` ({_ADAPTIVE.step}) more at a time until the mean ΔR of "
        f"its pairs reaches `margin` ({_ADAPTIVE.margin}). Every prompt gets `samples_per_prompt` if null.",
    )
    scheduler: str | None = Field(
        None,
        description="Class name of a diffusers scheduler, which uses the noise schedule of the checkpoint. "
        "It must not draw noise while sampling. If null, the paper's: `DDIMScheduler` for a DDPM schedule, "
        "`DPMSolverMultistepScheduler` for a flow, or the only one that the pipeline accepts.",
    )
    num_inference_steps: Positive = Field(50, description="Number of denoising steps.")
    guidance_scale: float = Field(
        7.5, ge=0, description="Scale of classifier-free guidance; values up to 1 turn it off."
    )
    shift: PositiveFloat | None = Field(
        None, description="Shift of a flow model's sampling times; that of the checkpoint if null."
    )
    height: Positive | None = Field(None, description="Height in pixels; that of the model if null.")
    width: Positive | None = Field(None, description="Width in pixels; that of the model if null.")
    shard_prompts: Positive = Field(
        16, description="Prompts per shard. An interrupted run loses at most the shard in progress."
    )
    batch_size: Annotated[int | None, RUNTIME] = Field(
        None, gt=0, description="Images per denoiser batch; as many as fit into memory if null."
    )
    image_format: Literal["png", "webp", "jpeg"] = Field(
        "png",
        description="Format of stored images. `png` is lossless; `webp` and `jpeg` (quality 95) take about a "
        "quarter of the space.",
    )

    def results(self) -> dict[str, Any]:
        """Return the fields that determine results; the earlier default, DDIM, stands for the default."""
        values = super().results()
        return values | {"scheduler": values["scheduler"] or "DDIMScheduler"}
