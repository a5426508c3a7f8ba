"""The calibration report: how the rewards of a scored run share in its pairs, and what to change.

A reward whose calibrated values spread far less than another's hardly counts in the combined reward,
from which the difference of a pair is taken: it is drowned.
"""

from typing import TYPE_CHECKING

import numpy as np

from capo.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

    from capo.pairing.calibration_report import CalibrationReport
    from capo.store import Run


def calibration_report(recipe: Recipe, run: "Run") -> "CalibrationReport":
    """What `recipe` makes of the scores in `run`, whether or not its pairs are there yet.

    Nothing is written, so other temperatures and weights can be tried before `capo pair`. Raises
    `WorkspaceError` for scores that are not there.
    """
    from capo.pairing.calibration_report import agreement, both_of_each, report
    from capo.pairing.columns import LABELS, read_columns
    from capo.pairing.label import label_columns, label_samples
    from capo.pairing.selecting import choice, pair_samples
    from capo.reporting.pair_table import PairTable
    from capo.scoring.score_table import read_scores, score_vector
    from capo.store import WorkspaceError

    rewards = recipe.rewards if recipe.pairs.selection == LABELS else recipe.training_rewards
    for reward in rewards:
        if not run.artifact(f"scores/{reward.name}").done:
            raise WorkspaceError(f"{run.path}: no scores/{reward.name} yet; give `capo score` first")
    select, weights = choice(recipe)
    if recipe.pairs.people is None:
        columns = read_columns(recipe, run)
        table, _ = pair_samples(columns, select, weights)
    else:
        table, told = label_samples(recipe, run)
        columns = label_columns(table, told)
    pairs = PairTable.from_arrow(table, tuple(columns.names))
    agreements: dict[str, float | None] = {}
    if columns.names == [LABELS]:
        compared = both_of_each(pairs) if recipe.pairs.people is None else _compared(table, columns.counts)
        for reward in rewards:
            scores = read_scores(run.artifact(f"scores/{reward.name}"))
            vector = score_vector(scores, columns.prompt_ids, columns.counts)
            agreements[reward.name] = agreement(pairs, vector, compared)
    return report(pairs, columns.scores, columns.comparisons, np.asarray(weights), agreements)


def _compared(table: "pa.Table", counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows [n] of the chosen and the rejected sample of every pair that simulated people compared."""
    starts = np.cumsum(counts) - counts
    lists = zip(starts, table["compared"].to_pylist(), strict=True)
    rows = np.array([start + np.array(pair) for start, pairs in lists for pair in pairs]).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
