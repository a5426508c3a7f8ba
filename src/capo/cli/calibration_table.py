"""Print a calibration report."""

from collections.abc import Sequence

from capo.cli.tables import add_row, percent, print_text, show, table
from capo.pairing.calibration_statistics import CalibrationReport, RewardCalibration

NUMBERS = ("mean", "std", "within", "spread", "ties", "share")

WIDTH = 80
"""Columns of a terminal that tables fit into."""

LEGEND = """mean, std: raw scores; within: their standard deviation within a prompt
spread: standard deviation of the calibrated rewards; ties: equal scores of a prompt
share: share of the variance of the combined reward, which decides the pairs;
  – if rewards oppose each other, so that almost nothing of it is left"""


def print_calibration(report: CalibrationReport) -> None:
    """Print the report as tables, followed by its warnings."""
    _print_rewards(report.rewards)
    print_text(LEGEND)
    if len(report.rewards) > 1:
        names = [reward.name for reward in report.rewards]
        _print_correlation(names, report.correlation)
    if report.agreement:
        labels = table(["reward", "agreement"], title="\nAgreement with labels", right=["agreement"])
        for name, value in report.agreement.items():
            add_row(labels, [name, percent(value)])
        show(labels)
    print_text(
        f"\n{report.prompts:,} prompts, {report.samples:,} samples, {report.set_aside:,} samples without all "
        f"scores, {report.without_pair:,} prompts without a pair"
    )
    if report.mean_delta_reward is not None and report.not_better is not None:
        print_text(
            f"Per prompt {report.chosen:.1f} chosen and {report.rejected:.1f} rejected; mean ΔR "
            f"{report.mean_delta_reward:.3f}; {percent(report.not_better, 2)} of pairs with ΔR ≤ 0"
        )
    for warning in report.warnings:
        print_text(f"Warning: {warning}")


def _print_rewards(rewards: Sequence[RewardCalibration]) -> None:
    cells = [_cells(reward) for reward in rewards]
    head = ["reward", "comparison", *NUMBERS]
    if sum(max(map(len, column)) + 2 for column in zip(head, *cells, strict=True)) > WIDTH:
        # Names stay whole: the comparison goes below them.
        head = ["reward", *NUMBERS]
        cells = [[f"{name}\n  {comparison}", *numbers] for name, comparison, *numbers in cells]
    grid = table(head, title="Rewards", right=NUMBERS)
    for row in cells:
        add_row(grid, row)
    show(grid)


def _print_correlation(names: Sequence[str], correlation: Sequence[Sequence[float | None]]) -> None:
    labels = heads = list(names)
    if sum(len(name) + 2 for name in names) + max(map(len, names)) + 2 > WIDTH:
        heads = [str(number) for number in range(1, len(names) + 1)]
        labels = [f"{number} {name}" for number, name in zip(heads, names, strict=True)]
    matrix = table(["", *heads], title="\nCorrelation within prompts", right=heads)
    for label, row in zip(labels, correlation, strict=True):
        add_row(matrix, [label, *("" if value is None else f"{value:.2f}" for value in row)])
    show(matrix)


def _cells(reward: RewardCalibration) -> list[str]:
    comparison = dict(reward.comparison or {})
    words = [str(comparison.pop("comparison", "")), *(f"{value:g}" for value in comparison.values())]
    raw = [f"{value:.4g}" for value in (reward.mean, reward.std, reward.within)]
    share = "–" if reward.share is None else percent(reward.share, 0)
    shares = [f"{reward.spread:.3f}", percent(reward.ties), share]
    return [reward.name, " ".join(words), *raw, *shares]
