"""A benchmark with the choices of a recipe's section: judge, variant, prompts, and images per prompt."""

from dataclasses import dataclass
from functools import cached_property

from capo.benchmarks.definition import Benchmark, ImageJudge
from capo.benchmarks.registry import load_benchmark
from capo.prompts import Prompt, load_rows
from capo.recipe import BenchmarkSection, PromptsSection
from capo.recipe.hints import nearest


@dataclass(frozen=True)
class Setup:
    """A benchmark as a recipe uses it."""

    section: BenchmarkSection
    benchmark: Benchmark

    @property
    def field(self) -> str:
        """The recipe field, for errors."""
        return self.section.field

    @property
    def images(self) -> int:
        """Images per prompt."""
        return self.section.images or self.benchmark.images

    @property
    def variant(self) -> str:
        """How scores are computed."""
        return self.section.variant or self.benchmark.variants[0]

    @property
    def prompts(self) -> PromptsSection:
        """The source of the prompts. Raises `ValueError` if the path is missing, or is not needed."""
        name, path = self.benchmark.prompts, self.section.prompts
        if ":" in name:
            if path is not None:
                raise ValueError(
                    f"{self.field}.prompts: {self.section.name} brings its own prompts; remove it"
                )
            source = name
        elif path is None:
            raise ValueError(
                f"{self.field}.prompts: missing; name the file or folder with the prompts of "
                f"{self.benchmark.title} as its authors publish them (see docs/benchmarks.md)"
            )
        else:
            source = f"{name}:{path}"
        return PromptsSection(source=source, count=self.section.count or self.benchmark.count)

    @cached_property
    def judge(self) -> ImageJudge:
        """The judge, without its weights. Raises `ValueError` for an unknown name or wrong options."""
        judges, name = self.benchmark.judges, self.section.judge
        chosen = name or next(iter(judges))
        if chosen not in judges:
            raise ValueError(
                f"{self.field}.judge: {self.section.name} has no judge {chosen!r}; choose from "
                f"{', '.join(judges)}{nearest(chosen, judges)}"
            )
        try:
            return judges[chosen](**self.section.options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.field}.options: {error}") from error

    def load_prompts(self, seed: int) -> list[Prompt]:
        """Return the prompts, in the benchmark's order; `seed` draws `count` of them."""
        return load_rows(self.prompts, seed, f"{self.field}.prompts")

    def is_complete(self) -> bool:
        """Report whether these are all official prompts, with the official number of images or more."""
        return self.section.count is None and self.images >= self.benchmark.images


def set_up(section: BenchmarkSection) -> Setup:
    """Return the benchmark that a section names.

    Raises `ValueError`, which names the field, for an unknown benchmark or variant.
    """
    setup = Setup(section, load_benchmark(section.name, section.field))
    variants = setup.benchmark.variants
    if setup.variant not in variants:
        raise ValueError(f"{section.field}.variant: {setup.variant!r} is none of {', '.join(variants)}")
    return setup
