"""The size of a human study: how many prompts and raters show a difference, before money is spent.

Notation:
    P, R        prompts, and raters who all judge all prompts
    d           the difference to detect: the win-rate minus 1/2
    p           the win-rate under that difference: 1/2 + d
    a           agreement: the probability that two raters choose the same image of a pair
    s           spread: standard deviation of the raters' own win-rates

Variance components of a vote, which add up to p (1 - p) for a forced choice:

    prompts     σ_P² = p (1 - p) - (1 - a) / 2
    raters      σ_R² = s²
    the rest    σ_E² = p (1 - p) - σ_P² - σ_R²

The mean of all votes then has the variance σ_P²/P + σ_R²/R + σ_E²/(P R).
"""

import math
from dataclasses import dataclass

AGREEMENT = 0.65
SPREAD = 0.03
LEVEL = 0.05
MOST_PROMPTS = 1_000_000


@dataclass(frozen=True)
class Votes:
    """How votes vary: agreement of two raters in [0, 1], and the spread of raters' win-rates.

    The defaults are assumptions, to be replaced by those of a first study.
    """

    agreement: float = AGREEMENT
    spread: float = SPREAD

    def components(self, difference: float) -> tuple[float, float, float]:
        """Return (σ_P², σ_R², σ_E²).

        Raises `ValueError` if no forced choices vary like this.
        """
        rate = 0.5 + difference
        total = rate * (1 - rate)
        prompts = max(0.0, total - (1 - self.agreement) / 2)
        raters = self.spread**2
        if not 0.5 <= self.agreement <= 1:
            raise ValueError(f"agreement must be between 0.5 and 1, got {self.agreement:g}")
        if not 0 <= raters <= total - prompts:
            raise ValueError(
                f"a rater spread of {100 * self.spread:g} points does not go with an agreement of "
                f"{100 * self.agreement:g}%: lower one of them"
            )
        return prompts, raters, total - prompts - raters


def power(prompts: int, raters: int, difference: float, votes: Votes, level: float = LEVEL) -> float:
    """Return the probability that a study shows the difference, by a two-sided test at `level`.

    The test compares (mean - 1/2) / error with Student's t. Its degrees of freedom are Satterthwaite's for
    the error of `clustered_mean`: with few raters, a difference that all of them must show has few. Under
    the difference the ratio has the noncentral t distribution.

    Args:
        prompts: P >= 2.
        raters: R >= 2.
        difference: in (0, 1/2).
        votes: how votes vary.
        level: in (0, 1).
    """
    from scipy.stats import nct, t

    check_design(prompts, raters, difference)
    of_prompts, of_raters, rest = votes.components(difference)
    single = rest / (prompts * raters)
    by_prompt, by_rater = of_prompts / prompts + single, of_raters / raters + single
    variance = by_prompt + by_rater - single
    if variance <= 0:
        return 1.0
    freedom = variance**2 / (
        by_prompt**2 / (prompts - 1) + by_rater**2 / (raters - 1) + single**2 / ((prompts - 1) * (raters - 1))
    )
    limit = float(t.ppf(1 - level / 2, freedom))
    shift = difference / math.sqrt(variance)
    return float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift))


def prompts_needed_for(raters: int, difference: float, votes: Votes, wanted: float) -> int | None:
    """Return the fewest prompts with at least the `wanted` power; None if no number of them suffices."""
    low, high = 1, 2
    while power(high, raters, difference, votes) < wanted:
        low, high = high, high * 2
        if high > MOST_PROMPTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, raters, difference, votes) < wanted:
            low = middle
        else:
            high = middle
    return high


def smallest_difference(prompts: int, raters: int, votes: Votes, wanted: float) -> float | None:
    """Return the smallest difference with the `wanted` power, to 0.1 points; None if none below 1/2."""
    for tenths in range(1, 500):
        try:
            if power(prompts, raters, tenths / 1000, votes) >= wanted:
                return tenths / 1000
        except ValueError:  # votes with this agreement cannot have this spread
            return None
    return None


def check_design(prompts: int, raters: int, difference: float) -> None:
    """Raise `ValueError` for a study that no interval can come from."""
    for name, count in (("prompts", prompts), ("raters", raters)):
        if count < 2:
            raise ValueError(f"{name} must be at least 2, got {count}")
    if not 0 < difference < 0.5:
        raise ValueError(f"the difference must be above 0 and below 50 points, got {100 * difference:g}")
