"""Stage `pair`: select the chosen and rejected samples of every prompt."""

from functools import partial
from typing import TYPE_CHECKING, Any

from capo.engine.progress import say
from capo.recipe import Recipe
from capo.store.check import Check
from capo.store.step import Job, Step, flatten

if TYPE_CHECKING:
    import numpy as np

    from capo.store import Run


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `pairs`."""
    scores = tuple(f"scores/{reward.name}" for reward in recipe.pairing_rewards)
    pool = ("pool",) if recipe.start is not None and scores else ()
    return [Step("pairs", "pair", pair_inputs(recipe), (*scores, *pool) or ("samples",), pair)]


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that the scores of every reward that determines pairs can be compared."""
    from capo.rewards.reward_checks import comparison_check

    if recipe.pairs.people is not None:
        return [Check("pairs.people", "pair", partial(_check_people, recipe, run))]
    return [comparison_check(reward, "pair") for reward in recipe.pairing_rewards]


def _check_people(recipe: Recipe, run: "Run") -> None:
    from capo.pairing.simulated_people import check_comparable, load_people
    from capo.prompts.prompt_checks import training_prompts

    assert recipe.pairs.people is not None
    check_comparable(load_people(recipe.pairs.people), recipe, training_prompts(recipe, run))


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
    """Write `pairs.parquet`, one row per prompt, from scores, from labels, or from simulated people.

    Raises `RewardError` for a reward with too many missing scores, with scores that its comparison cannot
    take, or without a comparison, and when no prompt has a pair.
    """
    from capo.engine.memory import return_freed_memory
    from capo.pairing.columns import LABELS, read_columns
    from capo.pairing.label import label_samples
    from capo.pairing.selecting import PairStatistics, pair_samples, selection_rule
    from capo.rewards import RewardError

    recipe, run, artifact = job.recipe, job.run, job.artifact
    rule = selection_rule(recipe.pairs, recipe.training_rewards)
    if recipe.pairs.people is not None:
        names = [LABELS]
        table, labeled = label_samples(recipe, run)
        statistics = PairStatistics(labeled)
    else:
        columns = read_columns(recipe, run)
        names = columns.names
        table, statistics = pair_samples(columns, rule)
        del columns  # what follows needs memory of its own
    if not statistics.pairs:
        raise RewardError(
            f"no prompt has a pair: for all {len(table)} prompts, pairs.selection {recipe.pairs.selection} "
            f"finds no sample better than another by {', '.join(names)}"
        )
    return_freed_memory()
    artifact.write_table("pairs.parquet", table)
    del table
    summary = statistics.summary(names)
    artifact.commit(summary)
    _warn_of_underweighted(summary["calibrated_std"], rule.weights.numpy(), run)


def _warn_of_underweighted(spread: dict[str, float], weights: "np.ndarray", run: "Run") -> None:
    """Say which rewards hardly influence the pairs, by `spread` of every reward and `weights` [L]."""
    import numpy as np

    from capo.pairing.underweighted import underweighted_rewards, underweighted_warning

    names, values = list(spread), np.array(list(spread.values()))
    strongest, weak = underweighted_rewards(values, weights)
    for i in weak:
        observed = underweighted_warning(names[i], values[i], names[strongest], values[strongest])
        say(f"Warning: {observed}; `capo calibration --run {run.path}` says what makes it count more")
