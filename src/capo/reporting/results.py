"""The typed form of `evaluate/results.json`: what the tuned model achieved against its base.

Win-rates and shares are in [0, 1]; means are on a reward's raw scale. What was not measured
(no null row, no judge) is None.
"""

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CategoryRate(_Record):
    """The win-rate over the prompts of one category."""

    win_rate: float
    prompts: int


class RewardResult(_Record):
    """One reward's win-rate of the tuned model over the base, with its 95% interval."""

    name: str
    use: str
    mean_base: float
    mean_tuned: float
    win_rate: float
    low: float
    high: float
    null_win_rate: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    by_category: dict[str, CategoryRate] = {}


class TrainingRate(_Record):
    """The mean win-rate over the training rewards; `null` is the base against itself."""

    value: float
    low: float
    high: float
    null: float | None = None
    null_low: float | None = None
    null_high: float | None = None


class JudgeCategory(_Record):
    """Shares of images the judge accepts in one category."""

    base: float
    tuned: float
    null: float | None = None
    prompts: int


class JudgeResult(_Record):
    """Shares of images the judge accepts; `low` and `high` bound `difference` (tuned less base)."""

    name: str
    base: float
    tuned: float
    null: float | None = None
    difference: float
    low: float
    high: float
    categories: dict[str, JudgeCategory] = {}


class Results(_Record):
    """Everything the evaluation found."""

    prompts: int
    samples_per_prompt: int
    rewards: tuple[RewardResult, ...]
    training_win_rate: TrainingRate
    judge: JudgeResult | None = None
    warnings: tuple[str, ...] = ()

    @property
    def training(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "train")

    @property
    def held_out(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "evaluate")

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category any reward was split by, sorted."""
        return tuple(sorted({name for reward in self.rewards for name in reward.by_category}))

    def prompts_in(self, category: str) -> int:
        """How many prompts a category has."""
        counts = [r.by_category[category].prompts for r in self.rewards if category in r.by_category]
        return max(counts, default=0)
