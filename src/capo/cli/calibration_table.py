"""The calibration report on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.pairing.calibration_statistics import CalibrationReport, RewardCalibration

COLUMNS = ("reward", "comparison", "mean", "std", "std within prompts", "spread", "ties", "share")

LEGEND = """Spread: standard deviation of the calibrated rewards. Share: of the variance of the combined
reward, from which the difference of a pair is taken."""


def print_report(report: CalibrationReport) -> None:
    """Tables for people."""
    console = Console()
    print(LEGEND)
    table = Table(*COLUMNS, title="Rewards", title_justify="left")
    for reward in report.rewards:
        table.add_row(*_row(reward))
    console.print(table)
    if len(report.rewards) > 1:
        names = [reward.name for reward in report.rewards]
        table = Table("", *names, title="Correlation within prompts", title_justify="left")
        for name, row in zip(names, report.correlation, strict=True):
            table.add_row(Text(name), *("" if value is None else f"{value:.2f}" for value in row))
        console.print(table)
    if report.agreement:
        table = Table("reward", "agrees with people", title="Labels", title_justify="left")
        for name, value in report.agreement.items():
            table.add_row(Text(name), "" if value is None else f"{100 * value:.1f} %")
        console.print(table)
    print(
        f"{report.prompts:,} prompts with {report.samples:,} samples, {report.set_aside:,} set aside; "
        f"{report.without_pair:,} prompts without a pair"
    )
    if report.mean_delta_reward is not None and report.not_better is not None:
        print(
            f"Chosen {report.chosen:.1f}, rejected {report.rejected:.1f} a prompt; mean ΔR "
            f"{report.mean_delta_reward:.3f}; {100 * report.not_better:.2f} % of pairs with ΔR ≤ 0"
        )
    for warning in report.warnings:
        print(f"Warning: {warning}")


def _row(reward: RewardCalibration) -> list[Text]:
    described = dict(reward.comparison or {})
    words = [str(described.pop("comparison", ""))] + [f"{value:g}" for value in described.values()]
    numbers = [f"{value:.4g}" for value in (reward.mean, reward.std, reward.within)]
    shares = [f"{100 * reward.ties:.1f} %", f"{100 * reward.share:.0f} %"]
    return [Text(cell) for cell in [reward.name, " ".join(words), *numbers, f"{reward.spread:.3f}", *shares]]
