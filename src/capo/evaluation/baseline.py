"""The half of evaluation that no policy has a part in: what the tuned model is compared with.

The models are `base` (the recipe's own, unless it names another) and, to show the size of chance,
`null`: the base again with other seeds.
"""

from capo.evaluation.candidates import against
from capo.evaluation.measuring import Model, measure
from capo.prompts import load_prompts
from capo.recipe import ImagesSection, Recipe
from capo.sampling.collect_prompts import prompt_table
from capo.scoring.judging import check_judgeable
from capo.store.run_directory import Artifact, Run

BASE, NULL = Model("base", "evaluate"), Model("null", "evaluate-null")


def baseline(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """The evaluation prompts, and images, scores and judgements of the base model."""
    prompts = load_prompts(recipe.evaluate.prompts, recipe.seed, "evaluate.prompts")
    check_judgeable(recipe, prompts)
    artifact.write_table("prompts.parquet", prompt_table(prompts))
    contender = against(recipe)
    # Of images that are there, nobody can make others from other seeds.
    given = isinstance(contender.source, ImagesSection)
    models = (BASE, NULL) if recipe.evaluate.null_row and not given else (BASE,)
    measure(recipe, artifact, prompts, models, contender)
    artifact.commit({"prompts": len(prompts), "samples_per_prompt": recipe.evaluate.samples_per_prompt})
