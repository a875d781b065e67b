"""What rankings would look like if every round changed the scores by chance alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.evaluation.round_ranks import Ranks, bri, mid_ranks

NOISE_LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0)

_SCORES_AT_ONCE = 2**22  # floats of a block of noise: 16 MiB


def noise_control(
    scores: ArrayLike, targets: ArrayLike, rounds: int, levels: Sequence[float] = NOISE_LEVELS, *, seed: int = 0
) -> tuple[float, Ranks]:
    """Rank the targets by the given scores, and then once a round by these scores and new Gaussian noise.

    Args:
        scores: (targets, candidates), higher is better; −inf stays so.
        targets: int (targets,), the column of each row's target.
        rounds: how many rounds follow round 0, which has no noise.
        levels: standard deviations of the noise, in standard deviations of the finite scores of a row. All of them are
            played with the same draws.
        seed: of the draws.

    Returns:
        The level with the lowest mean BRI, which is the hardest to exceed, and float64 (targets, 1 + rounds) ranks.

    Raises:
        ValueError: as `mid_ranks`, no level, or one that is negative or not finite.

    Example:
        >>> level, ranks = noise_control([[0.9, 0.8, 0.1]], [1], 4, [0.5], seed=0)
        >>> level, ranks.shape, float(ranks[0, 0]), set(ranks[0].tolist()) <= {1.0, 2.0, 3.0}
        (0.5, (1, 5), 2.0, True)
    """
    if not levels or not all(np.isfinite(level) and level >= 0 for level in levels):
        raise ValueError(f"noise of {list(levels)} standard deviations; give at least one finite number from 0 on")
    matrix, columns = np.asarray(scores), np.asarray(targets)
    played = np.empty((len(levels), len(matrix), 1 + rounds))
    played[:, :, 0] = mid_ranks(matrix, columns)
    at_once = max(1, _SCORES_AT_ONCE // max(1, matrix.shape[1]))
    generator = np.random.default_rng(seed)
    for start in range(0, len(matrix), at_once):
        block = matrix[start : start + at_once].astype(np.float32)
        rows = np.arange(len(block))
        spread = _deviations(block)
        for number in range(1, 1 + rounds):
            noise = generator.standard_normal(block.shape, dtype=np.float32)
            for at, level in enumerate(levels):
                changed = block + noise * np.float32(level) * spread
                own = changed[rows, columns[start : start + at_once]][:, None]
                before = np.count_nonzero(changed > own, axis=1)
                tied = np.count_nonzero(changed == own, axis=1) - 1
                played[at, start : start + at_once, number] = 1 + before + tied / 2
    best = min(range(len(levels)), key=lambda at: float(bri(played[at]).mean()))
    return float(levels[best]), played[best]


def normal_scores(ranks: ArrayLike, candidates: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores that have the standard normal distribution and give targets these ranks.

    Args:
        ranks: (targets,), from 1 on.
        candidates: how many there are.

    Returns:
        float32 (targets, candidates) scores, the same row for all, and int64 (targets,) columns of the targets.

    Raises:
        ValueError: a rank beyond the candidates.

    Example:
        >>> scores, columns = normal_scores([2], 3)
        >>> columns.tolist(), scores[0].round(2).tolist()
        ([1], [0.97, 0.0, -0.97])
    """
    from scipy.stats import norm

    wanted = np.asarray(ranks, dtype=np.float64)
    if candidates < 1 or (len(wanted) and wanted.max() > candidates):
        raise ValueError(f"a rank of {wanted.max():g} among candidates={candidates}")
    row = norm.isf((np.arange(1, candidates + 1) - 0.5) / candidates).astype(np.float32)
    return np.broadcast_to(row, (len(wanted), candidates)), np.floor(wanted).astype(np.int64) - 1


def _deviations(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, 1): the standard deviation of each row's finite scores; 0 where there are none."""
    finite = np.isfinite(block)
    count = np.maximum(finite.sum(axis=1, keepdims=True), 1)
    mean = np.where(finite, block, 0).sum(axis=1, keepdims=True, dtype=np.float64) / count
    square = np.where(finite, block - mean, 0) ** 2
    return np.sqrt(square.sum(axis=1, keepdims=True) / count).astype(np.float32)
