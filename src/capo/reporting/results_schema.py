"""The typed form of `evaluate/results.json`: what the tuned model achieved against its base.

Win-rates and shares are in [0, 1]; means are on a reward's raw scale. What was not measured
(no null row, no judge) is None.
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
    """A mean difference, tuned less base, paired by prompt, with its 95% interval and p-value."""

    value: float
    low: float
    high: float
    p: float


class SignTest(_Record):
    """Prompts won, lost and tied, and how often a fair coin is so uneven."""

    won: int
    lost: int
    tied: int
    p: float


class PromptsNeeded(_Record):
    """How many prompts show a win-rate that is `points` percentage points off one half."""

    points: int
    prompts: int


class Power(_Record):
    """What these prompts can show, at a power of 80% and a level of 5%."""

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
    sign_test: SignTest
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


class JudgeCategory(_Record):
    """Shares of images the judge accepts in one category; `low` and `high` bound their difference."""

    base: float
    tuned: float
    low: float
    high: float
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


class DiversityResult(_Record):
    """The mean distance between images of a prompt, by the features of `embedder`."""

    embedder: str
    base: float
    tuned: float
    null: float | None = None
    difference: Difference


class ModelNames(_Record):
    """What the two models are."""

    base: str
    tuned: str


class Results(_Record):
    """Everything the evaluation found."""

    models: ModelNames
    prompts: int
    samples_per_prompt: int
    rewards: tuple[RewardResult, ...]
    training_win_rate: TrainingRate
    judge: JudgeResult | None = None
    diversity: DiversityResult | None = None
    warnings: tuple[str, ...] = ()

    @property
    def training(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "train")

    @property
    def held_out(self) -> tuple[RewardResult, ...]:
        return tuple(r for r in self.rewards if r.use == "evaluate")

    @property
    def same_noise(self) -> bool:
        """Whether images that share their noise were compared by themselves."""
        return any(reward.same_seed is not None for reward in self.rewards)

    @property
    def planned_points(self) -> tuple[int, ...]:
        """The differences of win-rates whose prompts needed are told."""
        known = [reward.power for reward in self.rewards if reward.power is not None]
        return tuple(each.points for each in known[0].prompts_needed) if known else ()

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category any reward was split by, sorted."""
        return tuple(sorted({name for reward in self.rewards for name in reward.by_category}))

    def prompts_in(self, category: str) -> int:
        """How many prompts a category has."""
        counts = [r.by_category[category].prompts for r in self.rewards if category in r.by_category]
        return max(counts, default=0)
