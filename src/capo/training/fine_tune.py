"""Fine-tune the denoiser on the pairs and save the best policy.

An interrupted run resumes from its newest checkpoint and ends with the same bytes as an uninterrupted one.
With several processes, all run this; only the main process writes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

from capo.diffusion import load_family, model_identity
from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.diffusion.saved import BEST
from capo.engine.device import select_device
from capo.engine.progress import say
from capo.engine.ranks import Group
from capo.images.disk_space import format_bytes
from capo.method.objective_table import OBJECTIVES
from capo.pairing.training_pairs import TrainingPairs, read_pairs
from capo.recipe import ModelSection, Recipe, TrainSection
from capo.scoring.previous_round import PreviousRound, find_previous_round
from capo.store import Artifact, Run
from capo.store.step import Job
from capo.training.batches import Batch, Batches
from capo.training.checkpoint import Checkpoints
from capo.training.log import Records
from capo.training.loop import Loop, Validate
from capo.training.policy_card import Origin, policy_card
from capo.training.sample_files import Samples, expected_shards
from capo.training.spread_policy import SpreadExecutor
from capo.training.trainer import Trainer
from capo.training.validation import Validation


def fine_tune(job: Job) -> None:
    """Fill `train/`: checkpoints, metrics, validations, and `best/` in the layout of diffusers.

    Raises `TrainingDiverged` if the loss or gradient is not finite, and if errors or margins grow out of
    bounds.
    """
    recipe, run, artifact = job.recipe, job.run, job.artifact
    section, group = recipe.train, Group()
    group.barrier()  # the main process has begun the artifact
    previous = _previous_round(recipe)
    family = load_family(recipe.model, select_device(recipe.engine))
    margin = least_margin(recipe.pairs.min_margin, section.objective)
    prompts, counts = read_pairs(run.artifact("pairs"), margin)
    if counts.dropped:
        say(f"train: dropped {counts.dropped} prompts whose pairs all have too small a margin")
    seed = recipe.seed if previous is None else previous.seed(recipe.seed)
    make_batch = _batches(prompts, run, family, recipe, seed)
    trainer = Trainer(family, _policy(family, section, recipe.seed, previous), section)
    reference = _reference(recipe.model, trainer.policy, previous)
    checkpoints = Checkpoints(artifact, trainer, reference)
    first = checkpoints.restore()
    with checkpoints:
        records = Records(artifact)
        validate = _validation(job, family, trainer.policy)
        loop = Loop(section, trainer, make_batch, checkpoints, records, validate)
        group.barrier()  # every process has read what the main process will change from now on
        last = loop.run(first)
    step, validation = loop.load_best(last)
    digests = {name: run.artifact(name).digest for name in ("samples", "pairs")}
    number = None if previous is None else previous.next_round
    plain = family.plain_diffusers(recipe.generate)
    origin = Origin(step, validation, reference, digests, plain, number)
    _save_best(artifact, trainer, recipe, origin)
    loop.prune(over=True)
    if group.is_main:
        ended = {} if loop.ended is None else {"ended": loop.ended}
        summary = {"steps": last, **origin.summary(), "roll_backs": len(records.roll_backs), **ended}
        artifact.commit({**summary, "prompts": asdict(counts), "plain_diffusers": plain})


def least_margin(chosen: float | None, objective: str) -> float | None:
    """Return the ΔR that a pair must exceed: `pairs.min_margin` if set, else the objective's; None: no limit.

    Objectives that ignore ΔR would learn pairs with ΔR <= 0 in reverse, so their limit is 0.
    """
    if chosen is not None:
        return chosen
    return None if OBJECTIVES[objective].uses_delta_reward else 0.0


def _previous_round(recipe: Recipe) -> PreviousRound | None:
    if recipe.start is None:
        return None
    return find_previous_round(recipe.start, recipe.model, recipe.train)


def _batches(
    prompts: TrainingPairs, run: Run, family: Family, recipe: Recipe, seed: int
) -> Callable[[int], Batch]:
    """Return the function from a step to its batch; report how much it reads from disk."""
    section = recipe.train
    samples = Samples(run.artifact("samples"), expected_shards(run, recipe.generate.shard_prompts))
    latents, conditioning = map(format_bytes, samples.forecast(prompts.ids))
    say(f"train: reads {latents} of latents and {conditioning} of conditioning from disk")
    share = Group().share(section.global_batch_size)
    batches = Batches(prompts, samples, family.process, section, seed, share)
    if family.device.type == "cuda":
        return lambda step: batches.batch(step).pinned()
    return batches.batch


def _policy(family: Family, section: TrainSection, seed: int, previous: PreviousRound | None) -> Policy:
    if previous is None:
        return Policy(family, section, seed)
    return Policy(family, section, seed, previous.policy.folder, previous.reference)


def _reference(model: ModelSection, policy: Policy, previous: PreviousRound | None) -> dict[str, str]:
    """Return the identity of the model that the policy is compared with."""
    return {
        "checkpoint": model_identity(model),
        "weights": policy.reference_digest(),
        **({} if previous is None else {"start": previous.policy.identity}),
    }


def _validation(job: Job, family: Family, policy: Policy) -> Validate | None:
    if job.recipe.train.validation_prompts is None:
        return None
    sampling = SpreadExecutor(job.executor) if policy.spread else job.executor
    validation = Validation(job, family, sampling)
    return lambda step, roll_backs: job.executor.in_main(
        lambda: validation.run(step, roll_backs), held=family
    )


def _save_best(artifact: Artifact, trainer: Trainer, recipe: Recipe, origin: Origin) -> None:
    """Write the policy to `best/`: its weights, its record, and its model card.

    All processes call this, since the policy may be spread over them; the main process writes.
    """
    main = Group().is_main
    place: AbstractContextManager[Path | None] = artifact.write_directory(BEST) if main else nullcontext()
    with place as folder:
        with trainer.averaged():
            trainer.policy.save(folder, origin.record(recipe.model))
        if folder is not None:
            (folder / "README.md").write_text(policy_card(recipe, origin), encoding="utf-8")
