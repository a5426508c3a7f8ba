"""The calibration report: how the rewards of a scored run share in its pairs, and what to change.

A reward whose calibrated values spread far less than another's hardly counts in the combined reward,
from which the difference of a pair is taken: it is drowned.
"""

from typing import TYPE_CHECKING

import numpy as np

from capo.recipe import Recipe

if TYPE_CHECKING:
    from capo.calibration.report import CalibrationReport
    from capo.workspace import Run


def calibration_report(recipe: Recipe, run: "Run") -> "CalibrationReport":
    """What `recipe` makes of the scores in `run`, whether or not its pairs are there yet.

    Nothing is written, so other temperatures and weights can be tried before `capo pair`. Raises
    `WorkspaceError` for scores that are not there.
    """
    from capo.calibration.report import agreement, report
    from capo.reporting.pair_table import PairTable
    from capo.stages.columns import LABELS, read_columns, score_vector
    from capo.stages.pair import choice, pair_samples
    from capo.stages.scores import read_scores
    from capo.workspace import WorkspaceError

    rewards = recipe.rewards if recipe.pairs.selection == LABELS else recipe.training_rewards
    for reward in rewards:
        if not run.artefact(f"scores/{reward.name}").done:
            raise WorkspaceError(f"{run.path}: no scores/{reward.name} yet; give `capo score` first")
    columns = read_columns(recipe, run)
    select, weights = choice(recipe)
    table, _ = pair_samples(columns, select, weights)
    pairs = PairTable.from_arrow(table, tuple(columns.names))
    agreements: dict[str, float | None] = {}
    if columns.names == [LABELS]:
        for reward in rewards:
            scores = read_scores(run.artefact(f"scores/{reward.name}"))
            vector = score_vector(scores, columns.prompt_ids, columns.counts)
            agreements[reward.name] = agreement(pairs, vector)
    return report(pairs, columns.scores, columns.comparisons, np.asarray(weights), agreements)
