"""Means of votes with intervals that account for prompts and for raters.

The votes on one prompt are alike, and so are the votes of one rater. An interval that treats votes as
independent is too narrow: more votes of the same five raters say nothing about other raters.

Notation:
    y           one number per vote, such as 1 for the tuned model, 0 for the base, 1/2 for a tie
    V, P, R     votes, prompts, raters
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

RESAMPLES = 1999
_CELLS_AT_ONCE = 4_000_000  # bounds the memory of the bootstrap: a few arrays of 8 bytes per cell
CONFIDENCE = 0.95
_NO_ERROR = 1e-9  # standard errors and distances up to this are rounding


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over votes with its 95% interval, in the units of the votes, clipped to [0, 1]."""

    value: float
    low: float
    high: float
    p: float
    """two-sided p-value of the hypothesis that the mean is 1/2, in (0, 1]"""
    error: float | None
    """standard error over prompts and raters; None if the votes do not say"""
    votes: int
    prompts: int
    raters: int


@dataclass(frozen=True)
class Variances:
    """The variance of a mean, in three estimates from the same votes.

    `prompts` counts what votes on a prompt share, `raters` what votes of a rater share, and both count
    what no others share, which is `single`.
    """

    prompts: float
    raters: float
    single: float

    @property
    def both(self) -> float:
        """Variance of the mean over prompts and raters: `prompts + raters - single`.

        At least the larger of the two, since chance can make the difference smaller, or negative (Cameron,
        Gelbach and Miller, 2011).
        """
        return max(self.prompts + self.raters - self.single, self.prompts, self.raters)


def clustered_mean(values: ArrayLike, prompts: ArrayLike, raters: ArrayLike, seed: int) -> ClusteredMean:
    """Compute the mean of votes with an interval for other prompts and other raters.

    The interval is a bootstrap-t over both: every resample draws P prompts and R raters with replacement,
    and takes the votes of the drawn raters on the drawn prompts. The 95% quantile of
    `|mean* - mean| / error*` over the resamples, times the error of the votes, is half the width, where an
    error is the root of `Variances.both`. Division by the error of the same resample keeps the interval
    right both when raters agree and when they do not: the percentiles of resampled means would count the
    noise of single votes three times (Owen, 2007), and are too narrow for few raters. The quantile is at
    most that of Student's t with min(P, R) - 1 degrees of freedom: with very few raters, resamples without
    any variance would make it infinite.

    Equal votes have no variance to estimate. Their interval has the means for which as many equal clusters
    have a probability of at least 5%, with the smaller of P and R as the number of clusters. With a single
    prompt or a single rater nothing is known about others: the interval is [0, 1].

    Args:
        values: [V] in [0, 1], V >= 1.
        prompts: [V] the prompt of every vote.
        raters: [V] the rater of every vote.
        seed: determines the resamples.

    Raises:
        ValueError: if there are no votes, lengths differ, or a value is out of range.
    """
    from scipy.stats import t as student

    table = _Table(values, prompts, raters)
    mean = float(table.y.mean())
    counts = (len(table.y), table.prompts, table.raters)
    clusters = min(table.prompts, table.raters)
    if clusters < 2:
        return ClusteredMean(mean, 0.0, 1.0, 1.0, None, *counts)
    if (table.y == table.y[0]).all():
        share = 1 - (1 - CONFIDENCE) ** (1 / clusters)
        low, high = mean - share * mean, mean + share * (1 - mean)
        p = 1.0 if mean == 0.5 else 2 * 0.5**clusters
        return ClusteredMean(mean, low, high, p, None, *counts)
    parts = table.variances()
    error = parts.both**0.5
    if error > _NO_ERROR:
        deviations = table.studentized(mean, np.random.default_rng(seed))
    else:  # resamples do not balance, so their ratios would be too small
        error, deviations = parts.single**0.5, np.array([np.inf])
    freedom = clusters - 1
    limit = min(
        float(np.quantile(deviations, CONFIDENCE, method="higher")),
        float(student.ppf((1 + CONFIDENCE) / 2, freedom)),
    )
    reach, away = limit * error, abs(mean - 0.5) / error
    p = (1 + int((deviations >= away).sum())) / (1 + len(deviations))
    p = min(p, 2 * float(student.sf(away, freedom)))
    return ClusteredMean(mean, max(0.0, mean - reach), min(1.0, mean + reach), p, error, *counts)


def variances(values: ArrayLike, prompts: ArrayLike, raters: ArrayLike) -> Variances:
    """Estimate the variance of the mean of votes; needs two prompts and two raters.

    With the residuals e = y - mean, `prompts` is P / (P - 1) times the sum over prompts of the squared sum
    of their residuals, divided by V²; `raters` is the same over raters, and `single` over votes.
    """
    return _Table(values, prompts, raters).variances()


class _Table:
    """Votes as sparse matrices [P, R] of counts, sums, and sums of squares."""

    def __init__(self, values: ArrayLike, prompts: ArrayLike, raters: ArrayLike) -> None:
        from scipy.sparse import csr_array

        self.y = np.asarray(values, dtype=np.float64)
        prompts, raters = np.asarray(prompts), np.asarray(raters)
        if not len(self.y) == len(prompts) == len(raters) or not len(self.y):
            lengths = f"{len(self.y)} votes, {len(prompts)} prompts and {len(raters)} raters"
            raise ValueError(f"{lengths}: every vote needs one of each")
        if not ((self.y >= 0) & (self.y <= 1)).all():
            raise ValueError("votes must be in [0, 1]")
        names, at_prompt = np.unique(prompts, return_inverse=True)
        people, at_rater = np.unique(raters, return_inverse=True)
        self.prompts, self.raters = len(names), len(people)

        def matrix(entries: np.ndarray) -> "csr_array":
            return csr_array((entries, (at_prompt, at_rater)), shape=(self.prompts, self.raters))

        self._counts, self._sums = matrix(np.ones_like(self.y)), matrix(self.y)
        self._squares = matrix(self.y**2)

    def variances(self) -> Variances:
        once = np.ones((1, self.prompts)), np.ones((1, self.raters))
        _, parts = self._weighted(*once)
        return Variances(*(float(part[0]) for part in parts))

    def studentized(self, mean: float, rng: np.random.Generator) -> Float[np.ndarray, " B"]:
        """Return `|mean* - mean| / error*` of all resamples; infinite without an error, 0 if equal too."""
        at_once = max(1, _CELLS_AT_ONCE // (self.prompts + self.raters))
        parts = []
        for done in range(0, RESAMPLES, at_once):
            count = min(at_once, RESAMPLES - done)
            drawn = (
                rng.multinomial(clusters, np.full(clusters, 1 / clusters), count).astype(np.float64)
                for clusters in (self.prompts, self.raters)
            )
            parts.append(self._ratios(mean, *drawn))
        return np.concatenate(parts)

    def _ratios(
        self, mean: float, prompts: Float[np.ndarray, "B P"], raters: Float[np.ndarray, "B R"]
    ) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no votes at all
            means, (by_prompt, by_rater, single) = self._weighted(prompts, raters)
            errors = np.sqrt(np.maximum(np.maximum(by_prompt + by_rater - single, by_prompt), by_rater))
            away = np.abs(means - mean)
            ratios = np.where(errors > _NO_ERROR, away / errors, np.where(away > _NO_ERROR, np.inf, 0.0))
        return ratios[np.isfinite(means)]

    def _weighted(
        self, prompts: Float[np.ndarray, "B P"], raters: Float[np.ndarray, "B R"]
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return means [B] and variances 3 x [B] of votes that count as often as prompt and rater do."""
        counts_by_prompt, sums_by_prompt = raters @ self._counts.T, raters @ self._sums.T  # [B, P]
        votes = (prompts * counts_by_prompt).sum(axis=1)
        means = (prompts * sums_by_prompt).sum(axis=1) / votes
        of_prompts = sums_by_prompt - means[:, None] * counts_by_prompt
        of_raters = prompts @ self._sums - means[:, None] * (prompts @ self._counts)  # [B, R]
        squares = (prompts * (raters @ self._squares.T)).sum(axis=1) - votes * means**2
        p, r = self.prompts, self.raters
        return means, (
            (prompts * of_prompts**2).sum(axis=1) / votes**2 * p / (p - 1),
            (raters * of_raters**2).sum(axis=1) / votes**2 * r / (r - 1),
            squares / votes**2,
        )
