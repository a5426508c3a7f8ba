"""Stage `evaluate`: the tuned model against its base on prompts of their own (App. B.2)."""

from typing import Any

from capo.evaluation.baseline import evaluated_model
from capo.recipe import Recipe
from capo.store.step import Job, Step, flatten


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `evaluate`."""
    trained = ("train",) if recipe.evaluate.policy is None else ()
    inputs = evaluated_model(recipe) | _evaluate_inputs(recipe)
    return [Step("evaluate", "evaluate", inputs, (*trained, "baseline"), evaluate)]


def _evaluate_inputs(recipe: Recipe) -> dict[str, Any]:
    from capo.evaluation.candidates import find_candidate
    from capo.prompts import prompts_inputs
    from capo.rewards import reward_inputs
    from capo.rewards.weights.location import weights_identity
    from capo.scoring.judging import judge_inputs

    section = recipe.evaluate
    inputs = flatten("evaluate", section.results()) | judge_inputs(section.judge)
    inputs |= prompts_inputs("evaluate.prompts", section.prompts)
    if section.policy is not None:
        inputs["evaluate.policy.content"] = find_candidate("evaluate.policy", section.policy).identity
    if section.embedder is not None:
        inputs["evaluate.embedder.content"] = weights_identity("evaluate.embedder", section.embedder)
    for reward in recipe.rewards:
        inputs |= flatten(f"rewards.{reward.name}", reward.results()) | reward_inputs(reward)
    return inputs


def evaluate(job: Job) -> None:
    """Write images of the tuned model, scores, judgments, `results.json`, and a page of both models."""
    from capo.evaluation.compare import compare_models

    compare_models(job.recipe, job.run, job.artifact)
