"""Stage `train`: fine-tune the model on the pairs, with validation on prompts of its own.

validation   images of the base model for the validation prompts, and their scores
train        checkpoints, metrics, validations of the policy, and the best policy
"""

from functools import partial
from typing import Any

from capo.engine.launch import processes
from capo.engine.shard_work import MAIN, Executor
from capo.recipe import Recipe
from capo.sampling.generate import sampling_inputs
from capo.store import Run, atomic
from capo.store.check import Check
from capo.store.run_directory import RunAccess
from capo.store.step import Job, Step, flatten


def steps(recipe: Recipe) -> list[Step]:
    """Return the steps of `train` and, if the recipe has validation prompts, of `validation`."""
    from capo.diffusion import model_inputs
    from capo.scoring.previous_round import start_inputs

    model, seed = model_inputs(recipe.model), {"seed": recipe.seed}
    sampling = model | sampling_inputs(recipe.generate) | seed
    inputs = model | flatten("generate", recipe.generate.results()) | seed
    inputs |= start_inputs(recipe.start, recipe.model, recipe.train) | _train_inputs(recipe)
    return [
        *_validation_steps(recipe, sampling),
        Step("train", "train", inputs, ("samples", "pairs"), train),
    ]


def checks(recipe: Recipe, run: Run) -> list[Check]:
    """Return the checks of the launch, the packages, the model, and the inputs of validation."""
    from capo.training.train_checks import training_checks, validation_checks

    return [*training_checks(recipe), *validation_checks(recipe, run)]


def _train_inputs(recipe: Recipe) -> dict[str, Any]:
    inputs = flatten("train", recipe.train.results()) | {"pairs.min_margin": recipe.pairs.min_margin}
    if recipe.start is not None:
        inputs["start.reference"] = recipe.start.reference
    if recipe.train.validation_prompts is not None:
        inputs |= _validated_by(recipe)
        for reward in recipe.rewards:
            inputs[f"rewards.{reward.name}.use"] = reward.use
    return inputs


def _validation_steps(recipe: Recipe, sampling: dict[str, Any]) -> list[Step]:
    section = recipe.train
    if section.validation_prompts is None:
        return []
    inputs = flatten("train.validation_prompts", section.validation_prompts.results()) | _validated_by(recipe)
    inputs["train.validation_samples"] = section.validation_samples
    if recipe.model.dtype != "float32":  # training may widen the weights it samples with
        inputs |= {"train.adaptation": section.adaptation, "train.dtype": section.dtype}
    return [
        Step("validation", "train", sampling | inputs, (), make_validation, sharded=True, needed_by="train")
    ]


def _validated_by(recipe: Recipe) -> dict[str, Any]:
    """The validation prompts and all rewards; the held-out ones are measured too."""
    from capo.prompts import prompts_inputs
    from capo.rewards import reward_inputs

    assert recipe.train.validation_prompts is not None
    inputs = prompts_inputs("train.validation_prompts", recipe.train.validation_prompts)
    for reward in recipe.rewards:
        inputs |= reward_inputs(reward)
    return inputs


def make_validation(job: Job) -> None:
    """Fill `validation/`: the images and scores of the base, which do not depend on training."""
    from capo.training.validation import validate_base

    validate_base(job.recipe, job.artifact, job.executor)


def train(job: Job) -> None:
    """Fill `train/`: checkpoints, metrics, validations, and `best/` in the layout of diffusers.

    All processes of a launch take part; the main one writes. Raises `TrainingDiverged` if the loss or
    gradient is not finite, and if errors or margins grow out of bounds.
    """
    from capo.training.fine_tune import fine_tune

    there = partial(_take_part, job.recipe, job.run.access())
    if job.executor.call_all(there, job.recipe.train.global_batch_size):
        fine_tune(job)


def _take_part(recipe: Recipe, access: RunAccess, executor: Executor, held: Any) -> None:
    """Train in a process other than the one that runs the recipe; rank 0 among these writes."""
    from capo.training.fine_tune import fine_tune

    main = processes().is_main
    opened = access.open(MAIN if main else f"rank-{processes().rank}")
    artifact = opened.artifact("train")
    if main:
        # An earlier start may have been killed while it wrote; the others wait until this one has begun.
        atomic.remove_leftovers(artifact.folder)
    fine_tune(Job(recipe, opened, (artifact,), executor))
