"""Stage `score`: every sample scored by every reward."""

from capo.recipe import Recipe
from capo.store.step import Job, Step


def steps(recipe: Recipe) -> list[Step]:
    """One artifact per reward, `scores/NAME`; one pass over the images fills all of them."""
    from capo.rewards import reward_inputs

    return [
        Step(f"scores/{reward.name}", "score", reward_inputs(reward), ("samples",), make_scores)
        for reward in recipe.rewards
    ]


def make_scores(job: Job) -> None:
    """Write a shard of raw scores for every shard of samples, into the artifact of each reward."""
    from capo.scoring.passes import score_samples

    rewards = {f"scores/{reward.name}": reward for reward in job.recipe.rewards}
    work = [(artifact, rewards[artifact.name]) for artifact in job.artifacts]
    for artifact, seconds in zip(job.artifacts, score_samples(job.recipe, job.run, work), strict=True):
        job.seconds[artifact.name] = seconds
