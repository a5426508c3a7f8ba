"""The graph of a run: the steps that the stages declare, in the order in which they run.

prompts ─► samples ─► scores ─► pairs ─► train ─► evaluate ─► benchmarks ─► report
                               validation ─┘  baseline ─┘
"""

from capo.benchmarks import benchmark_stage
from capo.evaluation import baseline, evaluate
from capo.pairing import pair, pool
from capo.pipeline import trackers
from capo.recipe import Recipe
from capo.reporting import report
from capo.sampling import collect_prompts, generate
from capo.scoring import score
from capo.store import Run
from capo.store.check import Check
from capo.store.step import Step
from capo.training import train

STAGES = (
    collect_prompts.steps,
    pool.steps,
    generate.steps,
    score.steps,
    pair.steps,
    train.steps,
    baseline.steps,
    evaluate.steps,
    benchmark_stage.steps,
)
"""In order: a stage reads only artifacts of earlier stages."""

CHECKS = (
    collect_prompts.checks,
    pool.checks,
    generate.checks,
    score.checks,
    pair.checks,
    train.checks,
    baseline.checks,
    benchmark_stage.checks,
    trackers.checks,
)
"""What the stages need, to be checked before any of them runs."""


def steps_of(recipe: Recipe) -> list[Step]:
    """Return all steps of a recipe, each after those it depends on; imports no heavy library."""
    steps = [step for stage in STAGES for step in stage(recipe)]
    return [*steps, report.step(recipe, steps)]


def checks_of(recipe: Recipe, run: Run) -> list[Check]:
    """Return the checks of all stages, in their order; `run` is only read."""
    return [check for checks in CHECKS for check in checks(recipe, run)]
