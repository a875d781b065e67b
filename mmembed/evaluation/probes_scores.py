"""What are predictions worth? Classification and regression metrics, with intervals by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

CLASS_METRICS = ("f1_macro", "f1_micro", "precision_macro", "recall_macro", "balanced_accuracy")
NUMBER_METRICS = ("spearman", "mse")

# Weights held at once: 2**22 float64 are 32 MiB.
_WEIGHTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Scored:
    """Metrics of one set of predictions, and the main one's resampled values.

    Args:
        metrics: name → value.
        main: the metric that counts, "f1_macro" or "spearman".
        samples: (resamples,) values of the main metric, of one seed the same groups for every set of predictions.
        n: rows.
    """

    metrics: dict[str, float]
    main: str
    samples: NDArray[np.float64]
    n: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Lower and upper end; None without resamples."""
        return _ends(self.samples, confidence)

    def above(self, other: Scored, confidence: float = 0.95) -> tuple[float, float, float] | None:
        """By how much the main metric is above another's on the same rows, and the ends of its interval."""
        if len(self.samples) != len(other.samples) or not len(self.samples) or self.n != other.n:
            return None
        low, high = _ends(self.samples - other.samples, confidence) or (np.nan, np.nan)
        return self.metrics[self.main] - other.metrics[other.main], low, high


def interval_of_mean(
    scored: Sequence[Scored], *, same_groups: bool, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Lower and upper end of the mean of several sets' main metrics.

    Args:
        scored: the sets, resampled equally often.
        same_groups: whether all are of the same groups, so that one seed drew the same ones for each. Where they are not,
            the sets are taken to err together, which makes the interval no narrower than it is.
        confidence: of the interval.

    Returns:
        The ends; None without resamples.

    Example:
        >>> one, two = (Scored({"f1_macro": 0.5}, "f1_macro", np.array(drawn), 4) for drawn in ([0.4, 0.6], [0.6, 0.4]))
        >>> [interval_of_mean([one, two], same_groups=same, confidence=1.0) for same in (True, False)]
        [(0.5, 0.5), (0.4, 0.6)]
    """
    drawn = [one.samples if same_groups else np.sort(one.samples) for one in scored]
    return _ends(np.mean(drawn, axis=0), confidence) if drawn else None


def _ends(samples: NDArray[np.float64], confidence: float) -> tuple[float, float] | None:
    if not len(samples):
        return None
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score_classes(
    truth: NDArray, predicted: NDArray, groups: Sequence[str], *, samples: int = 1000, seed: int = 0
) -> Scored:
    """Score predicted labels, one or several a row.

    A macro mean is over the classes that are true or predicted somewhere; a class that is never predicted has precision
    and F1 zero. Balanced accuracy is the mean recall, and for several labels a row the mean over the labels of the
    accuracies of "has it" and "has it not".

    Args:
        truth: int (n,) classes, or bool (n, labels).
        predicted: the same shape.
        groups: (n,) rows of one group are resampled together.
        samples: resamples for the interval; 0 gives none.
        seed: of the resampling.

    Returns:
        f1_macro (the main one), f1_micro, precision_macro, recall_macro, balanced_accuracy.

    Raises:
        ValueError: no rows, or shapes that differ.

    Example:
        >>> scored = score_classes(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), list("abcd"))
        >>> [round(scored.metrics[name], 3) for name in ("f1_macro", "f1_micro", "balanced_accuracy")]
        [0.733, 0.75, 0.75]
    """
    if truth.shape != predicted.shape or not len(truth) or len(groups) != len(truth):
        raise ValueError(
            f"{len(groups)} groups, labels {truth.shape} and predictions {predicted.shape} do not go together"
        )
    several = truth.ndim == 2
    if not several:
        classes = int(max(truth.max(), predicted.max())) + 1
        truth, predicted = (np.arange(classes) == column[:, None] for column in (truth, predicted))
    parts = [sparse.csr_array(part.astype(np.float64)) for part in (truth & predicted, predicted, truth)]
    members = _members(groups)
    by_group = [members @ part for part in parts]  # (groups, classes) each
    sizes = np.asarray(members.sum(axis=1)).ravel()

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        tp, guessed, actual = (np.asarray((part.T @ weights.T).T) for part in by_group)  # (resamples, classes)
        return _class_metrics(tp, guessed, actual, (weights @ sizes)[:, None], several)

    point = measure(np.ones((1, members.shape[0])))
    metrics = {name: float(point[name][0]) for name in CLASS_METRICS}
    drawn = [measure(weights)["f1_macro"] for weights in _resamples(members.shape[0], samples, seed, len(parts))]
    return Scored(metrics, "f1_macro", np.concatenate(drawn) if drawn else np.empty(0), len(groups))


def _class_metrics(
    tp: NDArray, guessed: NDArray, actual: NDArray, n: NDArray, several: bool
) -> dict[str, NDArray[np.float64]]:
    """(resamples, classes) counts → (resamples,) metrics."""
    present = (guessed + actual) > 0
    count = np.maximum(present.sum(axis=1), 1)

    def macro(values: NDArray) -> NDArray[np.float64]:
        return (values * present).sum(axis=1) / count

    recall = _ratio(tp, actual)
    if several:
        balanced = ((recall + _ratio(n - guessed - actual + tp, n - actual)) / 2).mean(axis=1)
    else:
        balanced = (recall * (actual > 0)).sum(axis=1) / np.maximum((actual > 0).sum(axis=1), 1)
    return {
        "f1_macro": macro(_ratio(2 * tp, guessed + actual)),
        "f1_micro": _ratio(2 * tp.sum(axis=1), (guessed + actual).sum(axis=1)),
        "precision_macro": macro(_ratio(tp, guessed)),
        "recall_macro": macro(recall),
        "balanced_accuracy": balanced,
    }


def _ratio(above: NDArray, below: NDArray) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def score_numbers(
    truth: NDArray, predicted: NDArray, groups: Sequence[str], *, samples: int = 1000, seed: int = 0
) -> Scored:
    """Score predicted numbers.

    Args:
        truth: float (n,).
        predicted: float (n,).
        groups: (n,) rows of one group are resampled together.
        samples: resamples for the interval; 0 gives none.
        seed: of the resampling.

    Returns:
        spearman (the main one; 0 where all predictions are equal) and mse.

    Raises:
        ValueError: no rows, or shapes that differ.

    Example:
        >>> score_numbers(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), list("abc")).metrics
        {'spearman': 0.5, 'mse': 0.6666666666666666}
    """
    if truth.shape != predicted.shape or truth.ndim != 1 or not len(truth) or len(groups) != len(truth):
        raise ValueError(
            f"{len(groups)} groups, numbers {truth.shape} and predictions {predicted.shape} do not go together"
        )
    members = _members(groups)
    metrics = {
        "spearman": float(weighted_spearman(truth, predicted, np.ones((1, len(truth))))[0]),
        "mse": float(np.mean((truth - predicted) ** 2)),
    }
    drawn = [
        weighted_spearman(truth, predicted, weights @ members)
        for weights in _resamples(members.shape[0], samples, seed, len(truth) // max(1, members.shape[0]) + 3)
    ]
    return Scored(metrics, "spearman", np.concatenate(drawn) if drawn else np.empty(0), len(truth))


def weighted_spearman(a: NDArray, b: NDArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation of rows of which each occurs a given number of times.

    Args:
        a: (n,) numbers.
        b: (n,) numbers.
        weights: (resamples, n) how often each row occurs.

    Returns:
        (resamples,); 0 where a side has one value only.

    Example:
        >>> weighted_spearman(np.array([1, 2, 3]), np.array([1, 3, 2]), np.array([[1.0, 1, 1], [2, 0, 1]])).tolist()
        [0.5, 1.0]
    """
    first, second = (_weighted_ranks(values, weights) for values in (a, b))
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    first -= (weights * first).sum(axis=1, keepdims=True) / total
    second -= (weights * second).sum(axis=1, keepdims=True) / total
    above = (weights * first * second).sum(axis=1)
    below = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 1e-9)


def _weighted_ranks(values: NDArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(resamples, n) mean ranks: a value's rank is that of the middle of its copies."""
    distinct, place = np.unique(values, return_inverse=True)
    rows = sparse.csr_array((np.ones(len(values)), (place, np.arange(len(values)))), shape=(len(distinct), len(values)))
    totals = np.asarray((rows @ weights.T).T)  # (resamples, distinct)
    return (np.cumsum(totals, axis=1) - totals / 2 + 0.5)[:, place]


def _members(groups: Sequence[str]) -> sparse.csr_array:
    """(groups, n) of ones and zeros; its rows in the order of the groups' names, so that the draw is of the groups."""
    names, place = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return sparse.csr_array((np.ones(len(place)), (place, np.arange(len(place)))), shape=(len(names), len(place)))


def _resamples(units: int, samples: int, seed: int, width: int) -> list[NDArray[np.float64]]:
    """Blocks of (resamples, units): how often each unit is drawn."""
    if samples < 0:
        raise ValueError(f"samples must be at least 0, got {samples}")
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // (units * max(1, width)))
    return [
        generator.multinomial(units, np.full(units, 1 / units), size=min(at_once, samples - start)).astype(np.float64)
        for start in range(0, samples, at_once)
    ]
