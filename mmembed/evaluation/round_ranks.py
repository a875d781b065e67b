"""The ranks of targets over the rounds of a dialogue → one value a target: hits, recall, reciprocal rank, BRI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ranks = NDArray[np.float64]

_METRIC = re.compile(r"(?:(hits|recall)@([1-9][0-9]*)|(mrr)|(bri)|(rank))(?:\[round=([0-9]+)\])?")


def ranks_by_round(ranks: Sequence[Any] | ArrayLike, *, first_rank: int = 1, rounds: int | None = None) -> Ranks:
    """Ranks as one array that starts to count at 1, checked.

    Args:
        ranks: for each target its rank before the first question, after the first answer, and so on. A dialogue that
            stopped early keeps its last rank: its ranking does not change any more. A rank may lie between two whole
            numbers, where the target ties with others (see `mid_ranks`).
        first_rank: what the best rank is called, 1 or 0 (ChatIR counts from 0).
        rounds: how many questions a dialogue had for a budget; None: as many as the longest asked.

    Returns:
        float64 (targets, 1 + rounds), from 1 on.

    Raises:
        ValueError: no targets, a target without ranks, more rounds than the budget, or a rank below the first or not finite; says where.

    Example:
        >>> ranks_by_round([[30, 12, 4], [7, 2]]).tolist()
        [[30.0, 12.0, 4.0], [7.0, 2.0, 2.0]]
    """
    if first_rank not in (0, 1):
        raise ValueError(f"first_rank={first_rank}; ranks are counted from 1 or from 0")
    if isinstance(ranks, np.ndarray) and ranks.ndim != 2:
        raise ValueError(f"ranks of shape {ranks.shape}; give (targets, 1 + rounds)")
    listed: Any = ranks
    rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in listed]
    if not rows:
        raise ValueError("no targets: ranks hold a row for each, with its rank before the first question and so on")
    longest = max(len(row) for row in rows)
    if rounds is not None:
        if longest > 1 + rounds:
            raise ValueError(f"a dialogue of {longest - 1} rounds, more than rounds={rounds}")
        longest = 1 + rounds
    whole = np.empty((len(rows), longest))
    for number, row in enumerate(rows):
        if row.ndim != 1 or not len(row):
            raise ValueError(f"ranks[{number}] has the shape {row.shape}; give the target's rank of each round")
        whole[number, : len(row)] = row
        whole[number, len(row) :] = row[-1]
    whole += 1 - first_rank
    bad = np.argwhere(~(np.isfinite(whole) & (whole >= 1)))
    if len(bad):
        target, place = bad[0].tolist()
        found = whole[target, place] - 1 + first_rank
        hint = "; are these counted from 0? then say first_rank=0" if found == 0 else ""
        raise ValueError(
            f"the rank of target {target} in round {place} is {found:g}; ranks are finite and start at {first_rank}{hint}. "
            "A target that was not retrieved stands behind all that were"
        )
    return whole


def mid_ranks(scores: ArrayLike, targets: ArrayLike) -> Ranks:
    """The rank of each row's target, from 1 on; of those that tie with it half are taken to stand before it.

    Args:
        scores: (targets, candidates), higher is better; −inf for what was not retrieved.
        targets: int (targets,), the column of each row's target.

    Returns:
        float64 (targets,).

    Raises:
        ValueError: shapes that do not fit, a column that is not there, or a score that is NaN or +inf.

    Example:
        >>> mid_ranks([[0.9, 0.5, 0.5, 0.5], [0.9, 0.5, 0.1, 0.0]], [2, 0]).tolist()
        [3.0, 1.0]
    """
    matrix, columns = np.asarray(scores), np.asarray(targets)
    if matrix.ndim != 2 or columns.shape != (len(matrix),) or not np.issubdtype(columns.dtype, np.integer):
        raise ValueError(f"scores {matrix.shape} and targets {columns.shape}; give a row and the column of its target")
    if len(columns) and not 0 <= columns.min() <= columns.max() < matrix.shape[1]:
        raise ValueError(f"targets from {columns.min()} to {columns.max()} are not all among {matrix.shape[1]} columns")
    if not (matrix < np.inf).all():
        raise ValueError("scores hold NaN or infinity; scores are numbers, and −inf for what was not retrieved")
    own = matrix[np.arange(len(matrix)), columns][:, None]
    better, equal = (matrix > own).sum(axis=1), (matrix == own).sum(axis=1)
    return 1 + better + (equal - 1) / 2


def bri(ranks: ArrayLike) -> NDArray[np.float64]:
    """Best log rank integral of each target; lower is better.

    π_t is the best rank up to round t, and BRI the mean height of the curve ln π_t over rounds 0 … T, by trapezoids:

        BRI = (ln π_0 + ln π_T) / 2T + (1 / T) Σ_{0 < t < T} ln π_t      (Lee et al. 2024, https://arxiv.org/abs/2406.03411)

    Without a question it is ln π_0. The running minimum rewards whatever changes from round to round, noise too.

    Args:
        ranks: (targets, 1 + rounds), from 1 on.

    Returns:
        float64 (targets,), from 0 on.

    Example:
        >>> bri([[100, 100, 100], [100, 10, 100], [100, 100, 10]]).round(1).tolist()
        [4.6, 2.9, 4.0]
    """
    heights = np.log(np.minimum.accumulate(np.asarray(ranks, dtype=np.float64), axis=1))
    rounds = heights.shape[1] - 1
    if rounds == 0:
        return heights[:, 0]
    return ((heights[:, 0] + heights[:, -1]) / 2 + heights[:, 1:-1].sum(axis=1)) / rounds


def first_hits(ranks: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """The round in which each target is first among the best k; NaN where it never is.

    Args:
        ranks: (targets, 1 + rounds), from 1 on.
        k: how many candidates are looked at.

    Returns:
        float64 (targets,).

    Example:
        >>> first_hits([[30, 9, 12], [30, 20, 11]], k=10).tolist()
        [1.0, nan]
    """
    hit = np.asarray(ranks) <= k
    return np.where(hit.any(axis=1), hit.argmax(axis=1), np.nan)


def round_values(ranks: Ranks, metric: str) -> NDArray[np.float64]:
    """One number a target.

    Args:
        ranks: (targets, 1 + rounds), from 1 on.
        metric: ``hits@k`` (among the best k in this round or one before it: ChatIR's Hits@k), ``recall@k`` (in this
            round), ``mrr``, ``rank`` or ``bri``; of the last round, or of another as in ``recall@10[round=3]``.

    Returns:
        float64 (targets,).

    Raises:
        ValueError: an unknown metric, or a round that was not played.

    Example:
        >>> ranks = ranks_by_round([[30, 9, 12]])
        >>> [float(round_values(ranks, name)[0]) for name in ("hits@10", "recall@10", "recall@10[round=1]", "rank")]
        [1.0, 0.0, 1.0, 12.0]
    """
    match = _METRIC.fullmatch(metric)
    if not match:
        raise ValueError(
            f"unknown metric {metric!r}: hits@k, recall@k, mrr, rank or bri, of a round as in mrr[round=3]"
        )
    last = ranks.shape[1] - 1 if match[6] is None else int(match[6])
    if last >= ranks.shape[1]:
        raise ValueError(f"{metric}: only {ranks.shape[1] - 1} rounds were played")
    if match[4]:
        return bri(ranks[:, : last + 1])
    if match[1] == "hits":
        return (ranks[:, : last + 1].min(axis=1) <= int(match[2])).astype(np.float64)
    if match[1] == "recall":
        return (ranks[:, last] <= int(match[2])).astype(np.float64)
    return 1 / ranks[:, last] if match[3] else ranks[:, last].copy()
