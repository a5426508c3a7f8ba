"""Numbers as people read them, and the verdict of a run in one sentence."""

import math
from dataclasses import dataclass
from typing import Literal

from capo.reporting.results_schema import Results, RewardResult

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
NONE = "\N{EN DASH}"

Tone = Literal["better", "unclear", "worse", "mixed"]


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent: 0.6317 is `63.2%`."""
    return NONE if share is None else f"{100 * share:.{digits}f}%".replace("-", MINUS)


def interval(low: float | None, high: float | None) -> str:
    """Two shares in [0, 1] as `60.1 to 66.2%`."""
    if low is None or high is None:
        return NONE
    return f"{100 * low:.1f} to {100 * high:.1f}%".replace("-", MINUS)


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, signed: 0.041 is `+4.1`."""
    return NONE if difference is None else f"{100 * difference:+.1f}".replace("-", MINUS)


def number(value: float | None, digits: int = 4) -> str:
    """A raw value to `digits` significant digits, without an exponent where one can do without."""
    if value is None or not math.isfinite(value):
        return NONE
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return mantissa.replace("-", MINUS) + "\N{MULTIPLICATION SIGN}" + power_of_ten(int(exponent))
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(places, 6)}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference on a raw scale, with its sign: `+0.042`."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def p_value(p: float) -> str:
    """`p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def power_of_ten(exponent: int) -> str:
    """-4 as `10⁻⁴`."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count(value: int, noun: str, plural: str | None = None) -> str:
    """`1 prompt`, `2,000 prompts`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60}{THIN}s"
    return f"{whole // 3600:,}{THIN}h {whole % 3600 // 60}{THIN}min"


def size(count: float) -> str:
    """A number of bytes in binary units: `1.5 GiB`."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f}{THIN}{unit}" if unit == "B" else f"{count:.1f}{THIN}{unit}"


def excerpt(text: str, longest: int = 240) -> str:
    """A prompt on the page: cut where it would fill it."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Verdict:
    """What came out: a sentence, and whether it is good news."""

    sentence: str
    tone: Tone


def verdict(results: Results) -> Verdict:
    """The outcome in one sentence.

    A side is called only when the 95% interval leaves 50% (or, for the judge, no difference) out.
    """
    headline = results.training_win_rate
    side = _side(headline.low, headline.high, 0.5)
    claim = {
        1: "beats its base",
        0: "cannot be told from its base",
        -1: "loses to its base",
    }[side]
    checks = [_held_out_side(reward) for reward in results.held_out]
    clauses = [
        f"The tuned model {claim}: it wins {percent(headline.value)} of comparisons by the training rewards "
        f"(95% interval {interval(headline.low, headline.high)})"
    ]
    if results.held_out:
        clauses.append(_held_out_clause(results.held_out, checks))
    if results.judge is not None:
        judge = results.judge
        checks.append(_side(judge.low, judge.high, 0.0))
        clauses.append(
            f"the {judge.name} judge accepts {percent(judge.tuned)} of its images and "
            f"{percent(judge.base)} of the base's"
        )
    joined = "; ".join(clauses)
    if side == 1 and -1 in checks:
        return Verdict(f"{joined}. The gain does not carry over: reward hacking is likely.", "mixed")
    tone: Tone = "better" if side == 1 else "worse" if side == -1 else "unclear"
    return Verdict(f"{joined}.", tone)


def _held_out_clause(rewards: tuple[RewardResult, ...], sides: list[int]) -> str:
    if len(rewards) == 1:
        word = {1: "agrees", 0: "is undecided", -1: "disagrees"}[sides[0]]
        return f"the held-out reward {rewards[0].name} {word} at {percent(rewards[0].win_rate)}"
    agree, against = sides.count(1), sides.count(-1)
    return f"of {len(rewards)} held-out rewards {agree} agree and {against} disagree"


def _held_out_side(reward: RewardResult) -> int:
    return _side(reward.low, reward.high, 0.5)


def _side(low: float | None, high: float | None, neutral: float) -> int:
    """1 when the interval lies above `neutral`, -1 when below, 0 when it covers it or is unknown."""
    if low is not None and low > neutral:
        return 1
    return -1 if high is not None and high < neutral else 0
