"""Stage `evaluate`, first half: the baseline, which does not depend on training.

The artifact `baseline` holds the evaluation prompts, and images, scores, and judgments of the base model. The
null row is the base model again with other seeds: its win-rates show the size of chance.
"""

from collections.abc import Collection
from typing import Any

from capo.recipe import Recipe
from capo.sampling.generate import sampling_inputs
from capo.store import Run
from capo.store.check import Check
from capo.store.step import Job, Step, flatten


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `baseline`."""
    inputs = evaluated_model_inputs(recipe) | _baseline_inputs(recipe)
    return [Step("baseline", "evaluate", inputs, (), make_baseline, sharded=True, kept_as=kept_as)]


def checks(recipe: Recipe, run: Run) -> list[Check]:
    """Checks that prompts, judge, and both candidates fit, and that every reward can be loaded."""
    from capo.evaluation.evaluation_checks import evaluation_checks

    return evaluation_checks(recipe, run)


def kept_as(file: str, changed: Collection[str]) -> str | None:
    """Return where a file is used again although the inputs `changed` differ."""
    from capo.evaluation import kept_files

    return kept_files.kept_as(file, changed)


def evaluated_model_inputs(recipe: Recipe) -> dict[str, Any]:
    """The part of a fingerprint that says how both sides of an evaluation make images."""
    from capo.diffusion import model_inputs

    return model_inputs(recipe.model) | sampling_inputs(recipe.generate) | {"seed": recipe.seed}


def _baseline_inputs(recipe: Recipe) -> dict[str, Any]:
    from capo.evaluation.candidates import candidate_identity
    from capo.prompts import prompts_inputs
    from capo.rewards import reward_inputs
    from capo.scoring.judging import judge_inputs

    inputs = flatten("evaluate", recipe.evaluate.results()) | judge_inputs(recipe.evaluate.judge)
    for tuned_only in ("evaluate.policy", "evaluate.embedder"):
        del inputs[tuned_only]
    if (against := recipe.evaluate.against) is not None:
        inputs["evaluate.against.content"] = candidate_identity("evaluate.against", against)
    for reward in recipe.rewards:
        inputs |= reward_inputs(reward)
    return inputs | prompts_inputs("evaluate.prompts", recipe.evaluate.prompts)


def make_baseline(job: Job) -> None:
    """Write the evaluation prompts, and images, scores, and judgments of the base model."""
    from capo.evaluation.candidates import against, check_candidates
    from capo.evaluation.model_images import BASE, NULL, measure
    from capo.prompts import load_prompts
    from capo.prompts.table import prompt_table
    from capo.scoring.judging import check_judgeable

    recipe, section, artifact = job.recipe, job.recipe.evaluate, job.artifact
    check_candidates(recipe)
    prompts = load_prompts(section.prompts, recipe.seed, "evaluate.prompts")
    check_judgeable(section, prompts)
    candidate = against(section, recipe.model)
    # Existing images have no other seeds to compare with.
    models = (BASE, NULL) if section.null_row and candidate.existing is None else (BASE,)
    measure(job, prompts, models, candidate)
    artifact.write_table("prompts.parquet", prompt_table(prompts))
    artifact.commit({"prompts": len(prompts), "samples_per_prompt": section.samples_per_prompt})
