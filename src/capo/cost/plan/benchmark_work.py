"""How many images the benchmarks of a recipe make and judge."""

from collections.abc import Iterator
from dataclasses import dataclass

from capo.benchmarks.artifacts import Side, sides
from capo.benchmarks.benchmark_stage import model_location
from capo.benchmarks.setup import set_up
from capo.evaluation.candidates import find_candidate
from capo.recipe import BenchmarkSection, Recipe


@dataclass(frozen=True)
class BenchmarkCount:
    """The amounts of one benchmark."""

    name: str
    judge: str
    prompts: int
    images: int
    """Per prompt and model."""
    sampled: int
    """Models whose images are sampled; the others have theirs already."""
    judged: int
    """Models whose images are judged."""

    @property
    def sampled_images(self) -> int:
        """Images to sample, of all models."""
        return self.sampled * self.prompts * self.images

    @property
    def judged_images(self) -> int:
        """Images to judge, of all models."""
        return self.judged * self.prompts * self.images


def count_benchmarks(recipe: Recipe) -> tuple[BenchmarkCount, ...]:
    """Count all benchmarks of a recipe, without those whose prompts cannot be read from here."""
    return tuple(_counted(recipe))


def _counted(recipe: Recipe) -> Iterator[BenchmarkCount]:
    for section in recipe.benchmarks:
        try:
            setup = set_up(section)
            prompts = len(setup.load_prompts(recipe.seed))
            judge = setup.judge.name
        except (ValueError, OSError, ImportError):  # `capo check` says what is wrong
            continue
        measured = sides(section)
        sampled = sum(_samples(recipe, section, side) for side in measured)
        yield BenchmarkCount(section.name, judge, prompts, setup.images, sampled, len(measured))


def _samples(recipe: Recipe, section: BenchmarkSection, side: Side) -> bool:
    field, value = model_location(recipe, section, side)
    try:
        return value is None or find_candidate(field, value).existing is None
    except (ValueError, OSError):  # such as a run that does not exist yet
        return True
