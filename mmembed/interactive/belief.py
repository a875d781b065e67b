"""How likely is each candidate, before an answer and after it?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

_IMPOSSIBLE = 1e-12  # an answer that no candidate explains is taken for a mistake, not for the end of all belief


def prior(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """The belief that a ranking alone gives: the softmax of scores / temperature.

    Args:
        scores: (candidates,), higher is better; −inf for what cannot be meant.
        temperature: in units of the scores, above 0; small where scores are to be trusted. See `fit_temperature`.

    Returns:
        float64 (candidates,), sums to 1.

    Raises:
        ValueError: no candidates, a score that is NaN, or a temperature that is not above 0.

    Example:
        >>> prior([0.9, 0.8, -np.inf], temperature=0.1).round(2).tolist()
        [0.73, 0.27, 0.0]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any() or (values == np.inf).any():
        raise ValueError(f"scores of shape {values.shape}; give at least one number, none of them NaN or infinity")
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature}; it is above 0")
    best = values.max()
    if best == -np.inf:
        return np.full(len(values), 1 / len(values))
    weights = np.exp((values - best) / temperature)
    return weights / weights.sum()


def posterior(probabilities: ArrayLike, likelihoods: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """The belief after answers, each independent of the others for a given candidate (Bayes).

    Args:
        probabilities: (candidates,), the belief before.
        likelihoods: of each answer P(answer | candidate), (candidates,). Below 1e-12 of the largest it counts as that, so
            that an answer that nothing explains changes nothing.

    Returns:
        float64 (candidates,), sums to 1.

    Raises:
        ValueError: shapes that differ, or a likelihood that is negative or not finite.

    Example:
        >>> posterior([0.5, 0.25, 0.25], [[0.1, 0.9, 0.9]]).round(2).tolist()
        [0.1, 0.45, 0.45]
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.asarray(probabilities, dtype=np.float64))
    for likelihood in likelihoods:
        logs = weighed(logs, likelihood)
    return normalised(logs)


def weighed(logs: NDArray[np.float64], likelihood: ArrayLike) -> NDArray[np.float64]:
    """The logarithms of a belief after one answer, up to a constant.

    Args:
        logs: (candidates,), of the belief before.
        likelihood: (candidates,), P(answer | candidate).

    Returns:
        float64 (candidates,).

    Raises:
        ValueError: as of `posterior`.
    """
    own = np.asarray(likelihood, dtype=np.float64)
    if own.shape != logs.shape or not (np.isfinite(own) & (own >= 0)).all():
        raise ValueError(f"likelihoods of shape {own.shape} for {logs.shape}; give finite numbers from 0 on")
    return logs + np.log(np.maximum(own, _IMPOSSIBLE * own.max() if own.max() > 0 else 1.0))


def normalised(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logarithms that lack a constant.

    Example:
        >>> normalised(np.array([-1000.0, -1000.0])).tolist()
        [0.5, 0.5]
    """
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def fit_temperature(
    scores: Iterable[ArrayLike], targets: Iterable[int], *, low: float = 1e-3, high: float = 10.0
) -> float:
    """The temperature of `prior` under which the targets of known queries are most likely.

    Args:
        scores: of each query the (candidates,) scores; −inf for what is outside its pool. A query whose target is there is
            left out.
        targets: of each query the column of its target.
        low: the smallest temperature that is looked at.
        high: the largest.

    Returns:
        The temperature, by maximum likelihood.

    Raises:
        ValueError: no query with its target among the candidates.

    Example:
        >>> fit_temperature([[0.2, 0.1, 0.0], [0.0, 0.1, 0.2], [0.2, 0.1, 0.0]], [0, 2, 1]).__round__(2)
        0.08
    """
    from scipy.optimize import minimize_scalar

    rows = []
    for row, target in zip(scores, targets, strict=True):
        values = np.asarray(row, dtype=np.float64)
        if np.isfinite(values[target]):
            rows.append(values[np.isfinite(values)] - values[target])
    if not rows:
        raise ValueError("no query with its target among its candidates; give queries whose targets are found")

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float(np.mean([np.logaddexp.reduce(row / temperature) for row in rows]))

    found = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))
