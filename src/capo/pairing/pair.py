"""Stage `pair`: the chosen and rejected samples of every prompt."""

from typing import Any

from capo.recipe import Recipe
from capo.store.step import Job, Step, flatten


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `pairs`."""
    scores = tuple(f"scores/{reward.name}" for reward in recipe.pairing_rewards)
    pool = ("pool",) if recipe.start is not None and scores else ()
    return [Step("pairs", "pair", pair_inputs(recipe), (*scores, *pool) or ("samples",), pair)]


def pair_inputs(recipe: Recipe) -> dict[str, Any]:
    """The part of a fingerprint that says how scores become pairs."""
    from capo.pairing.simulated_people import people_inputs

    inputs = flatten("pairs", recipe.pairs.results())
    inputs["rewards"] = [reward.name for reward in recipe.pairing_rewards]
    if recipe.pairs.people is not None:  # who compares which images is drawn at random
        inputs |= {"seed": recipe.seed} | people_inputs(recipe.pairs.people)
    compared = {"comparison", "temperature", "exponent", "weight"}
    for reward in recipe.pairing_rewards:
        inputs |= flatten(f"rewards.{reward.name}", reward.model_dump(mode="json", include=compared))
    return inputs


def pair(job: Job) -> None:
    """Write `pairs.parquet`, a row a prompt, from scores, from labels, or from simulated people.

    Raises `RewardError` for a reward with too many missing scores, with scores that its comparison cannot
    take, or without a comparison, and when no prompt has a pair.
    """
    from capo.pairing.columns import LABELS, read_columns
    from capo.pairing.label import label_samples
    from capo.pairing.selecting import choice, pair_samples, pairs_summary
    from capo.rewards import RewardError

    recipe, run, artifact = job.recipe, job.run, job.artifact
    if recipe.pairs.people is not None:
        table, labelled = label_samples(recipe, run)
        artifact.write_table("pairs.parquet", table)
        artifact.commit(pairs_summary(labelled, [LABELS]))
        return
    columns = read_columns(recipe, run)
    table, groups = pair_samples(columns, *choice(recipe))
    if not any(pairs.chosen.any() for pairs in groups):
        raise RewardError(
            f"no prompt has a pair: for all {len(table)} prompts, no sample is better than another by "
            f"pairs.selection = {recipe.pairs.selection} of {', '.join(columns.names)}"
        )
    artifact.write_table("pairs.parquet", table)
    artifact.commit(pairs_summary(groups, columns.names))
