"""How sure a mean over queries is: bootstrap intervals and paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Resampled counts held at once: 2**22 int64 are 32 MiB, whatever the number of queries.
_COUNTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        mean: the mean of the values themselves.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of values (rows, also when they were resampled in clusters).
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two measurements of the same queries.

    Args:
        mean: mean of ``a - b``.
        low: lower end of its confidence interval.
        high: upper end of its confidence interval.
        p_value: two-sided, for the hypothesis that the mean difference is zero.
        n: number of pairs.
    """

    mean: float
    low: float
    high: float
    p_value: float
    n: int


def bootstrap_interval(
    values: ArrayLike,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Give the mean of per-query values with its percentile-bootstrap interval.

    The result depends on the multiset of values and on the seed, not on the order of the rows. A percentile
    interval has no width where all values are equal: that every one of 20 queries hit does not show a recall of 1.

    Args:
        values: (n,) finite numbers, one a query.
        samples: number of resamples.
        confidence: share of resampled means inside the interval, in (0, 1).
        seed: seed of the resampling.
        clusters: (n,) labels; rows of one label depend on each other (five captions of one photo) and are resampled
            together. None: every row stands for itself.

    Returns:
        The mean, the interval and n.

    Raises:
        ValueError: no values, a value that is not finite, labels of another length, or an option out of range.

    Example:
        >>> bootstrap_interval([0.0, 1.0, 1.0, 1.0], seed=1)
        Interval(mean=0.75, low=0.25, high=1.0, n=4)
    """
    array = _finite_vector(values, "values")
    means = _resampled_means(array, clusters, samples, confidence, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(array))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> PairedDifference:
    """Compare two measurements of the same queries by resampling the queries.

    The p-value is twice the smaller share of resampled mean differences on either side of zero, zeros counted on both
    sides, one added to count and total (so it is never 0), at most 1.

    Args:
        a: (n,) values of the first system, one a query.
        b: (n,) values of the second system, of the same queries in the same order.
        samples: number of resamples; the smallest possible p-value is ``2 / (samples + 1)``.
        confidence: share of resampled differences inside the interval, in (0, 1).
        seed: seed of the resampling.
        clusters: (n,) labels of rows that depend on each other, see `bootstrap_interval`.

    Returns:
        The mean of ``a - b``, its interval, the p-value and n.

    Raises:
        ValueError: lengths differ, no values, a value that is not finite, or an option out of range.

    Example:
        >>> difference = paired_bootstrap([1.0, 1.0, 1.0, 0.0] * 10, [0.0, 1.0, 0.0, 0.0] * 10)
        >>> difference.mean, difference.p_value < 0.01
        (0.5, True)
    """
    first, second = _finite_vector(a, "a"), _finite_vector(b, "b")
    if len(first) != len(second):
        raise ValueError(
            f"a has {len(first)} values and b has {len(second)}: a paired test needs one value of each system for "
            "every query, in the same order"
        )
    difference = first - second
    means = _resampled_means(difference, clusters, samples, confidence, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    smaller_side = int(min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)))
    p_value = min(1.0, 2 * (smaller_side + 1) / (samples + 1))
    return PairedDifference(float(difference.mean()), float(low), float(high), p_value, len(difference))


def _resampled_means(
    values: NDArray[np.float64], clusters: Sequence[Hashable] | None, samples: int, confidence: float, seed: int
) -> NDArray[np.float64]:
    """(samples,) means of resamples of the clusters, weighted by the clusters' sizes."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    # Resampling n units is drawing how often each *distinct* unit occurs: a multinomial over the distinct units. A
    # hit-or-miss metric has two of them, so 100,000 queries cost no more than ten.
    distinct, counts = np.unique(_sums_and_sizes(values, clusters), axis=0, return_counts=True)  # (d, 2), (d,)
    units = int(counts.sum())
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    at_once = max(1, _COUNTS_AT_ONCE // len(distinct))
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        drawn = generator.multinomial(units, counts / units, size=rows)  # (rows, d)
        totals = drawn @ distinct  # (rows, 2): sum of values, number of values
        means[start : start + rows] = totals[:, 0] / totals[:, 1]
    return means


def _sums_and_sizes(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    """(units, 2): the sum and the number of the values of each unit of resampling."""
    if clusters is None:
        return np.stack([values, np.ones_like(values)], axis=1)
    if len(clusters) != len(values):
        raise ValueError(f"clusters has {len(clusters)} labels for {len(values)} values: give one label a value")
    numbers: dict[Hashable, int] = {}
    members = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    return np.stack([np.bincount(members, weights=values), np.bincount(members).astype(np.float64)], axis=1)


def _finite_vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be a non-empty list of numbers, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}; {len(bad)} of {len(array)} values are not finite")
    return array
