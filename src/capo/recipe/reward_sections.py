"""The sections that turn samples into pairs: rewards and pairs."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from capo.recipe.fields import RUNTIME, Name, PositiveFloat, Section


class RewardSection(Section):
    """One reward model."""

    name: Name = Field(
        description="Name in tables and paths. The name of a shipped reward loads that reward. It must not "
        "end in `.inputs`."
    )
    source: str | None = Field(
        None, description="A shipped reward, or a function as `package.module:function`; `name` if null."
    )
    checkpoint: str | None = Field(
        None,
        description="Other weights for a shipped reward: a directory, or a Hub id as `owner/name@revision`.",
    )
    options: dict[str, JsonValue] = Field(
        {},
        description="Options of the architecture, such as `template` of vqascore; `capo rewards show NAME` "
        "lists them.",
    )
    command: tuple[str, ...] = Field(
        (), description="A program that scores, with its arguments, instead of `source`."
    )
    requirements: tuple[str, ...] = Field(
        (), description="Packages to install into a separate environment for the program or function."
    )
    url: str | None = Field(None, pattern=r"^https?://", description="Address of a server that scores.")
    timeout: Annotated[PositiveFloat, RUNTIME] = Field(
        600.0, description="Seconds to wait for the scores of a batch from a program or server."
    )
    use: Literal["train", "evaluate"] = Field(
        "train",
        description="`train`, or `evaluate` for a held-out reward, which affects neither pairs nor training "
        "nor the choice of the best step.",
    )
    comparison: Literal["bradley-terry", "power-ratio", "threshold"] | None = Field(
        None, description="How two scores become a win probability; that of the reward if null."
    )
    temperature: PositiveFloat | None = Field(
        None,
        description="Temperature of Bradley-Terry: the difference that wins with probability 73%. That of "
        "the reward if null.",
    )
    exponent: PositiveFloat | None = Field(
        None, description="Exponent of the power ratio; that of the reward if null."
    )
    weight: PositiveFloat = Field(1.0, description="Weight in the mean over rewards, which defines ΔR.")
    batch_size: Annotated[int, RUNTIME] = Field(64, gt=0, description="Images per scoring batch.")
    resources: Annotated[dict[str, PositiveFloat], RUNTIME] = Field(
        {},
        description="With `engine.executor: ray`, what a worker that computes this reward takes of the "
        "cluster, such as `{GPU: 2}` or `{CPU: 4, big_memory: 1}`; one GPU if empty.",
    )
    cache: Annotated[bool | None, RUNTIME] = Field(
        None,
        description="Store scores for other runs and use theirs. If null, only for shipped rewards that run "
        "in this process.",
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
        """The command of a program says everything about it, and a server has its own environment."""
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
    """The selection of chosen and rejected samples (Sec. 4.3)."""

    selection: Literal["frontier", "sum", "best-worst", "labels"] = Field(
        "frontier",
        description="`frontier`: the upper and the lower Pareto frontier. `sum`: the best and the worst by "
        "the mean over rewards. `best-worst`: the best and the worst by one reward, which alone defines ΔR. "
        "`labels`: preferences that come with `images`, or from `people`.",
    )
    reward: Name | None = Field(
        None, description="Reward of `best-worst`. Optional with a single training reward."
    )
    people: Name | None = Field(
        None,
        description="With `labels`: simulated people, supplied by an installed package, who compare the "
        "model's own samples.",
    )
    min_margin: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Train only on pairs whose ΔR exceeds this. If null, there is no limit for objectives "
        "that use ΔR (`capo`), and 0 for the others, which would learn the pairs below in reverse.",
    )
    max_skipped: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Largest share of samples without a score. Above it, the stage stops with an error.",
    )
