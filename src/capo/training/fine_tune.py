"""Fine-tune the denoiser on the pairs, and keep the best policy.

A run that is interrupted goes on from its newest checkpoint and ends with the same bytes as one
that was not.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capo.diffusion import checkpoint_identity, load_family
from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.engine.device import select_device
from capo.engine.progress import say
from capo.engine.ranks import Group
from capo.images.disk_space import format_bytes
from capo.method.objective_table import OBJECTIVES
from capo.pairing.training_pairs import PromptPairs, read_pairs
from capo.recipe import Recipe
from capo.scoring.previous_round import PreviousRound, find_previous_round
from capo.store import Artifact, Run
from capo.training.batches import Batch, Batches
from capo.training.checkpoint import Checkpoints
from capo.training.log import Board, Log, best_row
from capo.training.loop import Loop
from capo.training.policy_card import model_card
from capo.training.rollback import RollBacks
from capo.training.sample_files import Samples
from capo.training.trainer import Trainer
from capo.training.validation import Validation


def fine_tune(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Fill `train/`: checkpoints, metrics, validations, and `best/` in diffusers' own format.

    Raises `TrainingDiverged` for a loss or gradient that is not finite, and when errors or margins
    run away.
    """
    section, group = recipe.train, Group()
    group.barrier()  # for the leading process to have begun the artifact
    family = load_family(recipe.model, select_device(recipe.engine))
    prompts, counts = read_pairs(run.artifact("pairs"), least_margin(recipe))
    if counts.dropped:
        say(f"train: {counts.dropped} prompts dropped, whose pairs all have too small a margin")
    before = _previous_round(recipe)
    make_batch = _batches(recipe, run, family, prompts, before)
    policy = _policy(recipe, family, before)
    trainer = Trainer(family, policy, section)
    reference = {
        "checkpoint": checkpoint_identity(recipe.model.checkpoint, recipe.model.revision),
        "weights": policy.reference_digest(),
        **({} if before is None else {"start": before.policy.identity}),
    }
    checkpoints = Checkpoints(artifact, trainer, reference)
    start = checkpoints.restore()
    board = Board(run.path / "tensorboard", start + 1) if section.tensorboard and group.is_main else None
    loop = Loop(
        section=section,
        trainer=trainer,
        make_batch=make_batch,
        checkpoints=checkpoints,
        metrics=Log(artifact, "metrics.jsonl", board),
        validations=Log(artifact, "validation.jsonl", board),
        roll_backs=RollBacks(artifact),
        validate=None
        if section.validation_prompts is None
        else Validation(recipe, run, family, artifact).run,
    )
    group.barrier()  # until all have read what the leading process will now change
    with nullcontext() if board is None else closing(board):
        last = loop.run(start)
    told = {} if before is None else {"round": before.next_round}
    best = _export(recipe, run, artifact, loop, last, reference, family.left_out, told)
    loop.prune(over=True)
    ended = {} if loop.ended is None else {"ended": loop.ended}
    summary = {"steps": last, **best, **told, "roll_backs": len(loop.roll_backs), **ended}
    plain = {"left_out": family.left_out, "sampler": family.process.sampler_changes(recipe.generate)}
    artifact.commit({**summary, "prompts": asdict(counts), "plain_diffusers": plain})


def least_margin(recipe: Recipe) -> float | None:
    """The ΔR that a pair must exceed; None for no limit.

    Objectives that ignore ΔR would learn pairs with ΔR <= 0 in reverse, so their default limit is 0.
    """
    if recipe.pairs.min_margin is not None:
        return recipe.pairs.min_margin
    return None if OBJECTIVES[recipe.train.objective].uses_delta_reward else 0.0


def _previous_round(recipe: Recipe) -> PreviousRound | None:
    if recipe.start is None:
        return None
    return find_previous_round(recipe.start, recipe.model, recipe.train)


def _policy(recipe: Recipe, family: Family, before: PreviousRound | None) -> Policy:
    if before is None:
        return Policy(family, recipe.train, recipe.seed)
    return Policy(family, recipe.train, recipe.seed, before.policy.folder, before.reference)


def _batches(
    recipe: Recipe, run: Run, family: Family, prompts: list[PromptPairs], before: PreviousRound | None
) -> Callable[[int], Batch]:
    """From a step to its batch; says what that reads."""
    samples = Samples(run.artifact("samples"))
    latents, conditioning = map(format_bytes, samples.forecast(prompt.prompt_id for prompt in prompts))
    say(f"train: reads {latents} of latents and {conditioning} of conditioning from disk")
    share = Group().share(recipe.train.global_batch_size)
    seed = recipe.seed if before is None else before.seed(recipe.seed)
    batches = Batches(prompts, samples, family.process, recipe.train, seed, share)
    if family.device.type == "cuda":
        return lambda step: batches.batch(step).pinned()
    return batches.batch


def _export(
    recipe: Recipe,
    run: Run,
    artifact: Artifact,
    loop: Loop,
    last: int,
    reference: dict[str, str],
    left_out: list[str],
    told: dict[str, int],
) -> dict[str, Any]:
    """Write the best policy to `best/`; returns its step and win-rate (None without validation)."""
    step = loop.best_step(last)
    if step != last:
        loop.checkpoints.load(step)
    best = best_row(loop.validations.rows)
    record = {
        "step": step,
        "win_rate": None if best is None else best["win_rate"],
        "base": reference["checkpoint"],
        "model": recipe.model.results(),
        **({"left_out": left_out} if left_out else {}),
        **told,
    }
    data = {name: run.artifact(name).digest for name in ("samples", "pairs")}
    # All take part where the policy is spread over them; one writes.
    leads = Group().is_main
    place: AbstractContextManager[Path | None] = artifact.write_directory("best") if leads else nullcontext()
    with place as folder:
        with loop.trainer.averaged():
            loop.trainer.policy.save(folder, record)
        if folder is not None:
            card = model_card(recipe, step, best, reference, data, left_out)
            (folder / "README.md").write_text(card, encoding="utf-8")
    return {"best_step": record["step"], "best_win_rate": record["win_rate"]}
