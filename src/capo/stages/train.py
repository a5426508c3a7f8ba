"""The train stage: fine-tune the denoiser on the pairs, and keep the best policy.

A run that is interrupted goes on from its newest checkpoint and ends with the same bytes as one
that was not.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from capo import runtime
from capo.diffusion import checkpoint_identity, load_family
from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.progress import say
from capo.recipe import Recipe
from capo.stages.validation import Validation
from capo.training.batches import Batches
from capo.training.checkpoint import Checkpoints
from capo.training.data import Samples, read_pairs
from capo.training.log import Board, Log, Row, best_row
from capo.training.loop import Loop
from capo.training.step import Trainer
from capo.workspace import Artefact, Run


def train(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Fill `train/`: checkpoints, metrics, validations, and `best/` in diffusers' own format.

    Raises `TrainingDiverged` for a loss or gradient that is not finite.
    """
    section = recipe.train
    family = load_family(recipe.model, runtime.device(recipe.engine))
    prompts, counts = read_pairs(run.artefact("pairs"), least_margin(recipe))
    if counts.dropped:
        say(f"train: {counts.dropped} prompts dropped, whose pairs all have too small a margin")
    policy = Policy(family, section, recipe.seed)
    trainer = Trainer(family, policy, section)
    reference = {
        "checkpoint": checkpoint_identity(recipe.model.checkpoint, recipe.model.revision),
        "weights": policy.reference_digest(),
    }
    checkpoints = Checkpoints(artefact, policy, trainer.optimizer, reference)
    start = checkpoints.restore()
    board = Board(run.path / "tensorboard", start + 1) if section.tensorboard else None
    loop = Loop(
        section=section,
        trainer=trainer,
        batches=Batches(prompts, Samples(run.artefact("samples")), family.process, section, recipe.seed),
        checkpoints=checkpoints,
        metrics=Log(artefact, "metrics.jsonl", board),
        validations=Log(artefact, "validation.jsonl", board),
        validate=_validation(recipe, family, policy, artefact),
    )
    loop.run(start)
    if board is not None:
        board.close()
    record = _export(artefact, loop, policy, reference)
    loop.prune()
    artefact.commit({"steps": section.steps, **record, "prompts": asdict(counts)})


def least_margin(recipe: Recipe) -> float | None:
    """The ΔR that a pair must exceed: DPO and IPO would learn pairs of ΔR <= 0 the wrong way round."""
    if recipe.pairs.min_margin is not None:
        return recipe.pairs.min_margin
    return None if recipe.train.objective == "capo" else 0.0


def _validation(
    recipe: Recipe, family: Family, policy: Policy, artefact: Artefact
) -> Callable[[int], Row] | None:
    prompts = recipe.train.validation_prompts
    return None if prompts is None else Validation(recipe, prompts, family, policy, artefact).run


def _export(artefact: Artefact, loop: Loop, policy: Policy, reference: dict[str, str]) -> dict[str, Any]:
    """Write the best policy to `best/`; returns its step and win-rate (None without validation)."""
    step = loop.best_step()
    if step != loop.section.steps:
        loop.checkpoints.load(step)
    best = best_row(loop.validations.rows)
    record = {"step": step, "win_rate": None if best is None else best["win_rate"]}
    with artefact.write_directory("best") as folder:
        policy.save(folder, {**record, "base": reference["checkpoint"]})
    return {"best_step": record["step"], "best_win_rate": record["win_rate"]}
