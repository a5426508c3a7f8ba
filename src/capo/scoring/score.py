"""Stage `score`: score every sample by every reward."""

from typing import TYPE_CHECKING

from capo.recipe import Recipe
from capo.store.check import Check
from capo.store.step import Job, Step

if TYPE_CHECKING:
    from capo.scoring.score_artifact import ScoreArtifact
    from capo.store import Run


def steps(recipe: Recipe) -> list[Step]:
    """One artifact per reward, `scores/NAME`; one pass over the images fills all of them."""
    from capo.rewards import reward_inputs

    return [
        Step(f"scores/{reward.name}", "score", reward_inputs(reward), ("samples",), make_scores, sharded=True)
        for reward in recipe.rewards
    ]


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that every reward can be loaded."""
    from capo.rewards.reward_checks import reward_check
    from capo.store.engine_checks import engine_checks

    found = [reward_check(reward, "score") for reward in recipe.rewards]
    return [*found, *engine_checks(recipe.engine, "score")]


def make_scores(job: Job) -> None:
    """Write a shard of raw scores for every shard of samples, into the artifact of each reward.

    Shards with missing scores are scored again when the stage resumes. Raises `RewardError` as soon as a
    reward has no score for more than `pairs.max_skipped` of all samples.
    """
    from capo.prompts.table import read_prompts
    from capo.scoring.score_shards import image_shards, score_shards

    recipe, samples = job.recipe, job.run.artifact("samples")
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(job.run)}
    destinations = _destinations(job, samples.summary["samples"], len(texts))
    seconds = score_shards(job.executor, image_shards(samples), destinations, texts, recipe.engine, "score")
    job.seconds.update({f"scores/{name}": value for name, value in seconds.items()})


def _destinations(job: Job, samples: int, prompts: int) -> "list[ScoreArtifact]":
    from capo.scoring.score_artifact import ScoreArtifact

    rewards = {f"scores/{reward.name}": reward for reward in job.recipe.rewards}
    limit = job.recipe.pairs.max_skipped
    return [
        ScoreArtifact(rewards[artifact.name], artifact, samples=samples, prompts=prompts, max_missing=limit)
        for artifact in job.artifacts
    ]
