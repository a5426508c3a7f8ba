"""The section `train`."""

import math
from typing import Annotated, Literal

from pydantic import Field

from capo.method.objective_table import OBJECTIVES
from capo.recipe.fields import RUNTIME, Objective, Positive, PositiveFloat, Section
from capo.recipe.sample_sections import PromptsSection

_FORMULAS = ", ".join(f"`{name}`: {objective.formula}" for name, objective in OBJECTIVES.items())

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per number."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSection(Section):
    """Fine-tuning on the pairs (Sec. 4.2, 4.4, App. B). Every epoch draws one new pair per prompt."""

    objective: Objective = Field(
        "capo", description=f"Loss of a pair with margin u. Choose from {_FORMULAS}."
    )
    beta: PositiveFloat = Field(
        description="Factor of the margin, for errors averaged over elements: half the `beta_dpo` of the "
        "Diffusion-DPO scripts."
    )
    weighting: Literal["sigmoid", "constant"] = Field(
        "sigmoid", description="Weight of the denoising error over time."
    )
    weighting_bias: float = Field(1.5, description="Bias b of the sigmoid weighting.")
    time_sampling: Literal["uniform", "uniform-logsnr", "logit-normal"] | None = Field(
        None,
        description="Distribution of training times. If null, as in the paper: `uniform` for a DDPM "
        "schedule, which supports no other, and `uniform-logsnr` for a flow.",
    )
    timesteps: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(
        None,
        description="Train only on these timesteps of a DDPM schedule, such as the four of a distilled "
        "model; on all if null.",
    )
    noise: Literal["independent", "shared", "prior"] = Field(
        "independent",
        description="Noise of the chosen and the rejected sample: `independent` (App. A.2), `shared` as in "
        "Diffusion-DPO, or `prior`, the noise that each sample was generated from.",
    )
    adaptation: Literal["lora", "full"] = Field(
        "lora",
        description="`lora`, or `full` for all weights of the denoiser, with a frozen copy as the reference.",
    )
    lora_rank: Positive = Field(16, description="Rank of the LoRA updates.")
    lora_alpha: PositiveFloat | None = Field(
        None, description="Scale of the LoRA updates, divided by the rank; the rank if null."
    )
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), description="Module names, matched as in peft."
    )
    lora_dora: bool = Field(False, description="Use DoRA, which learns magnitude and direction separately.")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="Precision of the forward passes in training; that of the model if null. `float16` is "
        "not available because gradients vanish in it.",
    )
    reference_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the frozen copy in full fine-tuning. `bfloat16` halves its memory and "
        "requires forward passes in bfloat16.",
    )
    reference_offload: Annotated[bool, RUNTIME] = Field(
        False, description="Keep the frozen copy of full fine-tuning in main memory between its passes."
    )
    steps: Positive = Field(1000, description="Number of optimizer steps.")
    global_batch_size: Positive = Field(32, description="Pairs per optimizer step.")
    per_device_batch_size: Annotated[int | None, RUNTIME] = Field(
        None,
        gt=0,
        description="Pairs per forward pass, a divisor of `global_batch_size`. Gradients accumulate over the "
        "rest. The whole batch if null.",
    )
    learning_rate: PositiveFloat = Field(1e-5, description="Learning rate after the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from 0.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Learning rate after the warm-up: `constant`, or `linear` or `cosine` decay to 0 over "
        "the remaining steps.",
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="`adamw`, or `adamw-8bit`, which needs the extra `8bit`."
    )
    adam_betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Betas of AdamW.")
    adam_epsilon: PositiveFloat = Field(1e-8, description="Epsilon of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Norm to which gradients are clipped.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, which is then validated and "
        "kept; no average if null.",
    )
    gradient_checkpointing: Annotated[bool, RUNTIME] = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    sharding: Annotated[Literal["ddp", "fsdp"], RUNTIME] = Field(
        "ddp",
        description="With several processes: `ddp` keeps the whole model in each, `fsdp` shards it (FSDP2).",
    )
    checkpoint_every: Positive = Field(
        100, description="Steps between checkpoints. Every validation and the last step also write one."
    )
    keep_checkpoints: Positive = Field(
        2, description="Number of recent checkpoints to keep, in addition to the best one."
    )
    log_every: Positive = Field(
        1, description="Steps between lines of `metrics.jsonl`. The last step always has one."
    )
    validate_every: Positive = Field(
        1000, description="Steps between validations. The first and the last step are always validated."
    )
    validation_prompts: PromptsSection | None = Field(
        None,
        description="A section like `prompts`, on which the best step is chosen. Use other prompts than in "
        "training and evaluation. If null, there is no validation and the last step is the best.",
    )
    validation_samples: Positive = Field(4, description="Images per validation prompt and model.")
    patience: Positive | None = Field(
        None, description="Stop after this many validations without a new best; never if null."
    )
    on_overoptimization: Literal["warn", "stop"] = Field(
        "warn", description="Reaction when the training rewards rise while the held-out ones fall."
    )
    on_divergence: Literal["warn", "stop", "roll-back"] = Field(
        "stop",
        description="Reaction to diverging errors or margins: `warn` and continue, `stop`, or `roll-back` to "
        "a healthy checkpoint and continue with half the learning rate.",
    )
    max_error_growth: PositiveFloat = Field(
        1.0,
        description="Relative growth of the denoising error on chosen samples over the reference's, averaged "
        "over several steps, from which training counts as diverging. 1 means twice the error.",
    )
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="Precision of all weights in `best/`. If null, that of the model (`model.dtype`) for a "
        "full policy, as evaluation loads it, and float32 for an adapter, which is small. With `float32`, "
        "further rounds and soups start from a full policy without rounding.",
    )

    @property
    def moment_bytes(self) -> int:
        """Bytes of optimizer state per trained parameter."""
        return 8 if self.optimizer == "adamw" else 2

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes per trained parameter of all checkpoints that are on disk at the same time."""
        average = 0 if self.ema_decay is None else 4
        written = math.ceil(self.steps / self.checkpoint_every) + self.steps // self.validate_every
        # Also the best one, and the next one, which is written before an old one is deleted.
        kept = min(self.keep_checkpoints + 2, written)
        return kept * (4 + self.moment_bytes + average)

    def policy_bytes(self, trained: int, parameters: int, dtype: str) -> int:
        """Bytes of the weights in `best/`: those of an adapter, or of a whole model.

        `trained` is the number of trained parameters, `parameters` that of all networks of the model, which
        is in `dtype`.
        """
        if self.adaptation == "full":
            return parameters * SIZES[self.save_dtype or dtype]
        # Most adapters are also in kohya's format, in float32.
        return trained * (SIZES[self.save_dtype or "float32"] + SIZES["float32"])

    @property
    def validations(self) -> int:
        """How often validation makes images: once for the base, then every `validate_every` steps."""
        return 1 + math.ceil(self.steps / self.validate_every)
