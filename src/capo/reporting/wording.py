"""Numbers formatted for readers, and the verdict of a run in one sentence."""

import math
from dataclasses import dataclass
from typing import Literal

from capo.reporting.results_schema import Results, RewardResult

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
NONE = "\N{EN DASH}"

FEWEST_PROMPTS = 20
"""Prompts below which an evaluation is too small for a verdict."""

Tone = Literal["better", "unclear", "worse", "mixed"]


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share in [0, 1] as a percentage: 0.6317 is `63.2%`."""
    return NONE if share is None else f"{100 * share:.{digits}f}%".replace("-", MINUS)


def interval(low: float | None, high: float | None) -> str:
    """Format two shares in [0, 1] as `60.1 to 66.2%`."""
    if low is None or high is None:
        return NONE
    return f"{100 * low:.1f} to {100 * high:.1f}%".replace("-", MINUS)


def points(difference: float | None) -> str:
    """Format a difference of shares in percentage points, with sign: 0.041 is `+4.1`."""
    return NONE if difference is None else f"{100 * difference:+.1f}".replace("-", MINUS)


def number(value: float | None, digits: int = 4) -> str:
    """Format a raw value to `digits` significant digits, with an exponent only if necessary."""
    if value is None or not math.isfinite(value):
        return NONE
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return mantissa.replace("-", MINUS) + "\N{MULTIPLICATION SIGN}" + power_of_ten(int(exponent))
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(places, 6)}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Format a difference on a raw scale, with sign: `+0.042`."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def p_value(p: float) -> str:
    """Format a p-value: `p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def power_of_ten(exponent: int) -> str:
    """Format a power of ten: -4 is `10⁻⁴`."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count(value: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun: `1 prompt`, `2,000 prompts`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Format seconds: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60}{THIN}s"
    return f"{whole // 3600:,}{THIN}h {whole % 3600 // 60}{THIN}min"


def size(count: float) -> str:
    """Format a number of bytes in binary units: `1.5 GiB`."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f}{THIN}{unit}" if unit == "B" else f"{count:.1f}{THIN}{unit}"


def excerpt(text: str, longest: int = 240) -> str:
    """Shorten a long prompt for the page."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Verdict:
    """The outcome: a sentence and its tone."""

    sentence: str
    tone: Tone


def verdict(results: Results) -> Verdict:
    """Return the outcome in one sentence.

    It names a winner only if the 95% interval excludes 50% or, for the judge, excludes no difference. There
    is no verdict on fewer than `FEWEST_PROMPTS` prompts, or if the base does not even tie with itself.
    """
    if reason := too_few(results):
        return Verdict(reason, "unclear")
    headline = results.training_win_rate
    side = _side(headline.low, headline.high, 0.5)
    claim = {
        1: "beats its base",
        0: "shows no clear difference from its base",
        -1: "loses to its base",
    }[side]
    checks = [_held_out_side(reward) for reward in results.held_out]
    clauses = [f"The tuned model {claim}: {_headline(results)}"]
    if results.held_out:
        clauses.append(_held_out_clause(results.held_out, checks))
    if results.judge is not None:
        judge = results.judge
        checks.append(_side(judge.low, judge.high, 0.0))
        clauses.append(
            f"the {judge.name} judge accepts {percent(judge.tuned)} of its images, compared with "
            f"{percent(judge.base)} for the base"
        )
    joined = "; ".join(clauses)
    if side == 1 and -1 in checks:
        return Verdict(
            f"{joined}. The gain does not carry over to independent measures, which suggests reward hacking.",
            "mixed",
        )
    tone: Tone = "better" if side == 1 else "worse" if side == -1 else "unclear"
    return Verdict(f"{joined}.", tone)


def too_few(results: Results) -> str | None:
    """Return why the evaluation is too small for a verdict, or None if it is not."""
    measured = f"the tuned model's images {_headline(results, 'win')}"
    if results.prompts < FEWEST_PROMPTS:
        prompts = count(results.prompts, "evaluation prompt")
        return f"Too few to say: {prompts}, a verdict needs at least {FEWEST_PROMPTS}. On these, {measured}."
    rate = results.training_win_rate
    if results.chance_differs:
        return (
            f"Too few to say: images of the base with other seeds win {percent(rate.null)} of comparisons "
            f"with its own ({interval(rate.null_low, rate.null_high)}), which should be 50%, so chance "
            f"does not average out. By comparison, {measured}. Evaluate more prompts."
        )
    return None


def _headline(results: Results, verb: str = "it wins") -> str:
    rate = results.training_win_rate
    return (
        f"{verb} {percent(rate.value)} of comparisons under the training rewards "
        f"(95% interval {interval(rate.low, rate.high)})"
    )


def _held_out_clause(rewards: tuple[RewardResult, ...], sides: list[int]) -> str:
    if len(rewards) == 1:
        verb = {1: "agrees", 0: "is undecided", -1: "disagrees"}[sides[0]]
        return f"the held-out reward {rewards[0].name} {verb} ({percent(rewards[0].win_rate)})"
    agree, against = sides.count(1), sides.count(-1)
    return f"of {len(rewards)} held-out rewards, {agree} agree and {against} disagree"


def _held_out_side(reward: RewardResult) -> int:
    return _side(reward.low, reward.high, 0.5)


def _side(low: float | None, high: float | None, neutral: float) -> int:
    """Return 1 if the interval is above `neutral`, -1 if below, and 0 if it includes it or is unknown."""
    if low is not None and low > neutral:
        return 1
    return -1 if high is not None and high < neutral else 0
