"""The calibration report of a scored run: how much every reward counts in the pairs, and what to change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capo.recipe import Recipe, RewardSection

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from capo.pairing.calibration_statistics import CalibrationReport
    from capo.pairing.columns import Columns
    from capo.pairing.pair_table import PairTable
    from capo.store import Run


def calibration_report(recipe: Recipe, run: "Run") -> "CalibrationReport":
    """Calibrate the scores in `run` as `recipe` says, whether or not its pairs exist yet.

    Writes nothing, so it can try temperatures and weights before `capo pair`. Raises `WorkspaceError` when
    scores are missing.
    """
    from capo.pairing.calibration_statistics import summarize_calibration
    from capo.pairing.pair_table import PairTable
    from capo.pairing.selecting import selection_rule

    _check_scored(recipe, run)
    rule = selection_rule(recipe.pairs, recipe.training_rewards)
    columns, table = _pair(recipe, run)
    pairs = PairTable.from_arrow(table)
    agreements = (
        _agreements(recipe.rewards, run, columns, pairs) if recipe.pairs.selection == "labels" else {}
    )
    return summarize_calibration(pairs, columns.scores, columns.comparisons, rule.weights.numpy(), agreements)


def _check_scored(recipe: Recipe, run: "Run") -> None:
    from capo.store import WorkspaceError

    rewards = recipe.rewards if recipe.pairs.selection == "labels" else recipe.training_rewards
    for reward in rewards:
        if not run.artifact(f"scores/{reward.name}").done:
            raise WorkspaceError(f"{run.path}: scores/{reward.name} is not complete; run `capo score` first")


def _pair(recipe: Recipe, run: "Run") -> "tuple[Columns, pa.Table]":
    """The scores or labels, and the rows of `pairs.parquet` that they give."""
    from capo.pairing.columns import read_columns
    from capo.pairing.label import label_columns, label_samples
    from capo.pairing.selecting import pair_samples, selection_rule

    if recipe.pairs.people is None:
        columns = read_columns(recipe, run)
        table, _ = pair_samples(columns, selection_rule(recipe.pairs, recipe.training_rewards))
        return columns, table
    table, labeled = label_samples(recipe, run)
    return label_columns(table, labeled), table


def _agreements(
    rewards: Sequence[RewardSection], run: "Run", columns: "Columns", pairs: "PairTable"
) -> dict[str, float | None]:
    """By reward, how often it prefers the sample that people prefer."""
    from capo.pairing.calibration_statistics import agreement, compared_samples
    from capo.scoring.score_table import read_scores, score_vector

    compared = compared_samples(pairs)

    def scores(reward: str) -> "np.ndarray":
        table = read_scores(run.artifact(f"scores/{reward}"))
        return score_vector(table, columns.prompt_ids, columns.counts)

    return {reward.name: agreement(pairs, scores(reward.name), compared) for reward in rewards}
