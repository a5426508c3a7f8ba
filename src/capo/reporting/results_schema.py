"""The schema of `evaluate/results.json`.

Win-rates and shares are in [0, 1]; means are on the raw scale of a reward. Values that were not measured
(no null row, no judge) are None.
"""

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Rate(_Record):
    """A win-rate with its 95% interval."""

    win_rate: float
    low: float
    high: float


class CategoryRate(Rate):
    """The win-rate over the prompts of one category."""

    prompts: int


class Difference(_Record):
    """A mean difference (tuned minus base), paired by prompt, with its 95% interval and p-value.

    The interval is unknown if all differences are equal.
    """

    value: float
    low: float | None
    high: float | None
    p: float


class SignTestResult(_Record):
    """Prompts won, lost and tied, and the p-value of this split under equal models."""

    won: int
    lost: int
    tied: int
    p: float


class PromptsNeeded(_Record):
    """The number of prompts that detects a win-rate `points` percentage points away from 50%."""

    points: int
    prompts: int


class Power(_Record):
    """The difference these prompts can detect, with 80% power at the 5% level."""

    detectable: float
    prompts_needed: tuple[PromptsNeeded, ...]


class RewardResult(_Record):
    """One reward's win-rate of the tuned model over the base, with its 95% interval."""

    name: str
    use: str
    mean_base: float
    mean_tuned: float
    mean_difference: Difference
    win_rate: float
    low: float
    high: float
    sign_test: SignTestResult
    power: Power | None = None
    same_seed: Rate | None = None
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


class JointRate(_Record):
    """A share of images with its 95% interval; `null` is the base against itself."""

    rate: float
    low: float
    high: float
    null: float | None = None
    null_low: float | None = None
    null_high: float | None = None


class JointResult(_Record):
    """Images that dominate those of the other model by all `rewards`, and prompts won or lost by all."""

    rewards: tuple[str, ...]
    domination: JointRate
    collapse: JointRate
    prompts: int
    won_by_all: int
    lost_by_all: int


class JudgeCategory(_Record):
    """Shares of accepted images in one category; `low` and `high` bound their difference."""

    base: float
    tuned: float
    low: float
    high: float
    null: float | None = None
    prompts: int


class JudgeResult(_Record):
    """Shares of accepted images; `low` and `high` bound `difference` (tuned minus base)."""

    name: str
    base: float
    tuned: float
    null: float | None = None
    difference: float
    low: float
    high: float
    categories: dict[str, JudgeCategory] = {}


class DiversityResult(_Record):
    """The mean distance between images of the same prompt, in the features of `embedder`."""

    embedder: str
    base: float
    tuned: float
    null: float | None = None
    difference: Difference


class ModelNames(_Record):
    """The names of the two models."""

    base: str
    tuned: str


class Results(_Record):
    """All results of an evaluation."""

    models: ModelNames
    prompts: int
    samples_per_prompt: int
    rewards: tuple[RewardResult, ...]
    training_win_rate: TrainingRate
    joint: JointResult | None = None
    judge: JudgeResult | None = None
    diversity: DiversityResult | None = None
    truncated_prompts: int = 0
    """Prompts longer than the text encoders of the recipe's model read."""
    warnings: tuple[str, ...] = ()

    @property
    def training(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "train")

    @property
    def held_out(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "evaluate")

    @property
    def chance_differs(self) -> bool:
        """True if the base's images with other seeds win or lose against its own by more than chance."""
        rate = self.training_win_rate
        if rate.null_low is None or rate.null_high is None:
            return False
        return not rate.null_low <= 0.5 <= rate.null_high

    @property
    def same_noise(self) -> bool:
        """True if images with the same noise were also compared on their own."""
        return any(reward.same_seed is not None for reward in self.rewards)

    @property
    def planned_points(self) -> tuple[int, ...]:
        """The differences, in points, for which the number of prompts needed is known."""
        known = [reward.power for reward in self.rewards if reward.power is not None]
        return tuple(needed.points for needed in known[0].prompts_needed) if known else ()

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories, sorted."""
        return tuple(sorted({name for reward in self.rewards for name in reward.by_category}))

    def prompts_in(self, category: str) -> int:
        """Return the number of prompts in a category."""
        counts = [r.by_category[category].prompts for r in self.rewards if category in r.by_category]
        return max(counts, default=0)
