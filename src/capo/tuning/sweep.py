"""The values that a sweep tries, in which order, and the recipe of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capo.prompts import load_prompts
from capo.recipe import Recipe, RecipeError
from capo.store.run_directory import SWEEP
from capo.tuning.choice import choose
from capo.tuning.value_trial import Trial

FACTOR = 2.0
"""Between neighboring values, if the user names none."""
MOST_FURTHER = 3
"""How often a sweep takes a step beyond its first values."""


@dataclass(frozen=True)
class Sweep:
    """The values of `train.beta` to try with a recipe."""

    recipe: Recipe
    """The recipe to tune, with all its steps."""
    named: tuple[float, ...] | None = None
    """The values, if the user names them; else the recipe's, and on either side as many as needed."""
    steps: int | None = None
    """Training steps of every value; the recipe's if None."""

    @property
    def first(self) -> tuple[float, ...]:
        """The values to begin with, the recipe's own first, since others are compared with it early."""
        beta = self.recipe.train.beta
        if self.named is not None:
            return tuple(sorted(self.named, key=lambda value: (value != beta, -value)))
        return (beta, beta * FACTOR, beta / FACTOR)

    @property
    def last_step(self) -> int:
        """The last training step of every value."""
        return self.steps or self.recipe.train.steps

    def further(self, trials: Sequence[Trial]) -> float | None:
        """Return the value to try next, beyond the best if that is at an edge; None if there is none."""
        if self.named is not None or len(trials) >= len(self.first) + MOST_FURTHER:
            return None
        choice = choose(trials)
        if choice.best is None or choice.edge is None:
            return None
        return choice.best / FACTOR if choice.edge == "low" else choice.best * FACTOR

    def of(self, beta: float) -> Recipe:
        """Return the recipe that trains one value."""
        train = self.recipe.train.model_copy(update={"beta": beta, "steps": self.last_step})
        return self.recipe.model_copy(update={"train": train})

    def tuned(self, beta: float) -> Recipe:
        """Return the recipe to tune with another β, and all its steps."""
        train = self.recipe.train.model_copy(update={"beta": beta})
        return self.recipe.model_copy(update={"train": train})

    def check(self) -> None:
        """Raise `RecipeError` if no sweep is possible; reads the prompts of validation and evaluation."""
        self.check_settings()
        if shared := self._shared_prompts():
            raise RecipeError(
                f"train.validation_prompts: {shared} of them are evaluation prompts too; choose others, "
                "since an evaluation on prompts that β was chosen by flatters the result"
            )

    def check_settings(self) -> None:
        """Raise `RecipeError` if no sweep is possible, whatever the prompts are."""
        train, values, problems = self.recipe.train, self.first, []
        if train.validation_prompts is None:
            problems.append("train.validation_prompts: missing; a sweep compares values on them")
        if len(set(values)) < max(2, len(values)):
            problems.append("--values: name at least two different values")
        if self.steps is not None and self.steps <= train.warmup_steps:
            problems.append(
                f"--steps: {self.steps} do not exceed the {train.warmup_steps} of train.warmup_steps"
            )
        if problems:
            raise RecipeError("\n  ".join(["this recipe cannot be tuned:", *problems]))

    def _shared_prompts(self) -> int:
        recipe = self.recipe
        assert recipe.train.validation_prompts is not None
        validation, evaluation = (
            {prompt.prompt_id for prompt in load_prompts(section, recipe.seed, field)}
            for section, field in (
                (recipe.train.validation_prompts, "train.validation_prompts"),
                (recipe.evaluate.prompts, "evaluate.prompts"),
            )
        )
        return len(validation & evaluation)


def value_folder(directory: Path, beta: float) -> Path:
    """Return the run directory of a value, in the run directory of the sweep."""
    return directory / SWEEP / f"beta-{beta:.12g}"
