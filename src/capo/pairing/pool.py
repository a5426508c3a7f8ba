"""The pool of a further round: the base model's scores, against which this round is calibrated (Eq. 7).

    pool/REWARD.parquet    one row per sample of the base: prompt_id, sample, score, error, and truncated

The scores are copied from the previous round, so that a round needs no other directory.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from capo.recipe import Recipe, RewardSection
from capo.store.check import Check
from capo.store.manifest import identify
from capo.store.step import Job, StageName, Step

if TYPE_CHECKING:
    from capo.scoring.previous_round import PreviousRound
    from capo.store import Run

_STARTED: tuple[StageName, ...] = ("prompts", "generate", "train")
"""The stages that read the run directory of the previous round."""


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `pool`; none in a first round, and none if labels replace rewards."""
    inputs = _inputs(recipe)
    return [Step("pool", "prompts", inputs, ("prompts",), copy_pool)] if inputs else []


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that the previous round can be continued, and has the scores that this one needs."""
    if recipe.start is None:
        return []
    return [Check("start.run", stage, partial(_check_start, recipe)) for stage in _STARTED]


def _check_start(recipe: Recipe) -> None:
    _previous_round(recipe)
    for reward in recipe.pairing_rewards:
        _identity(recipe, reward)


def _inputs(recipe: Recipe) -> dict[str, Any]:
    """The fingerprint: a pool that was copied stays up to date without the previous round."""
    from capo.rewards import reward_inputs

    inputs: dict[str, Any] = {}
    for reward in recipe.pairing_rewards if recipe.start is not None else ():
        inputs |= reward_inputs(reward)
        inputs[f"start.pool.{reward.name}"] = identify("start.run", partial(_identity, recipe, reward))
    return inputs


def _identity(recipe: Recipe, reward: RewardSection) -> str:
    """A digest of the scores to copy; raises `ValueError` if the previous round does not have them."""
    from capo.rewards import reward_inputs

    return _previous_round(recipe).pool_identity(reward.name, reward_inputs(reward))


def _previous_round(recipe: Recipe) -> "PreviousRound":
    from capo.scoring.previous_round import find_previous_round

    assert recipe.start is not None
    return find_previous_round(recipe.start, recipe.model, recipe.train)


def copy_pool(job: Job) -> None:
    """Fill `pool/`.

    Raises `WorkspaceError` when the previous round lacks a prompt of this one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from capo.prompts.table import read_prompts
    from capo.store import WorkspaceError

    recipe, artifact = job.recipe, job.artifact
    start = _previous_round(recipe)
    known = {prompt.prompt_id: prompt.text for prompt in read_prompts(start.run)}
    prompts = read_prompts(job.run)
    for prompt in prompts:
        if known.get(prompt.prompt_id) != prompt.text:
            raise WorkspaceError(
                f"start.run: {start.run.path} has no samples of the prompt {prompt.text!r}; a further round "
                "can only use prompts of the previous round: use its prompts and seed"
            )
    ids, count = pa.array([prompt.prompt_id for prompt in prompts]), 0
    for reward in recipe.training_rewards:
        scores = start.pool_scores(reward.name)
        scores = scores.filter(pc.is_in(scores["prompt_id"], ids)).combine_chunks()
        artifact.write_table(f"{reward.name}.parquet", scores)
        count = len(scores)
    artifact.commit({"prompts": len(prompts), "samples": count, "round": start.next_round})
