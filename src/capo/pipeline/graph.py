"""The graph of a run: the steps that the stages declare, in the order in which they run.

prompts ─► samples ─► scores ─► pairs ─► train ─► evaluate ─► report
                               validation ─┘  baseline ─┘
"""

from capo.evaluation import baseline, evaluate
from capo.pairing import pair, pool
from capo.recipe import Recipe
from capo.reporting import report
from capo.sampling import collect_prompts, generate
from capo.scoring import score
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
)
"""In order: a stage reads only artifacts of earlier stages."""


def steps_of(recipe: Recipe) -> list[Step]:
    """Return all steps of a recipe, each after those it depends on; imports no heavy library."""
    steps = [step for stage in STAGES for step in stage(recipe)]
    return [*steps, report.step(recipe, steps)]
