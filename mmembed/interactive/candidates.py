"""Which candidates are shown with a question?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmembed.embeddings import Embeddings

#: The pool's ids, best first, the belief over them, and a seed → ids to show, in the pool's order.
Sampler = Callable[[Sequence[str], NDArray[np.float64], int], list[str]]
Member = Literal["medoid", "lowest_entropy"]


def top_candidates(n: int, *, start: int = 0) -> Sampler:
    """The best candidates.

    Args:
        n: how many.
        start: how many to leave out; start=40, n=10 shows ranks 41 to 50.

    Returns:
        The sampler; it shows fewer where the pool is smaller.

    Example:
        >>> top_candidates(2, start=1)(["a", "b", "c", "d"], np.full(4, 0.25), 0)
        ['b', 'c']
    """
    _check(n, start, None)
    return lambda ids, probabilities, seed: list(ids[start : start + n])


def random_candidates(n: int, *, start: int = 0, stop: int | None = None) -> Sampler:
    """Some of a window of ranks, each as likely, by the seed.

    Args:
        n: how many.
        start: the first rank of the window, from 0.
        stop: the rank behind it; None for the end of the pool.

    Returns:
        The sampler.

    Example:
        >>> shown = random_candidates(2, start=1)(["a", "b", "c", "d"], np.full(4, 0.25), seed=3)
        >>> len(shown), "a" in shown
        (2, False)
    """
    _check(n, start, stop)

    def sampled(ids: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[str]:
        window = list(ids[start:stop])
        chosen = np.random.default_rng(seed).permutation(len(window))[:n]
        return [window[place] for place in sorted(chosen.tolist())]

    return sampled


def interval_candidates(n: int, *, start: int = 0, stop: int | None = None) -> Sampler:
    """Candidates at equal distances over a window of ranks.

    Args:
        n: how many.
        start: the first rank of the window, from 0; it is shown.
        stop: the rank behind it; None for the end of the pool.

    Returns:
        The sampler.

    Example:
        >>> interval_candidates(3)(list("abcdefghi"), np.full(9, 1 / 9), 0)
        ['a', 'd', 'g']
    """
    _check(n, start, stop)

    def sampled(ids: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[str]:
        window = list(ids[start:stop])
        kept = min(n, len(window))
        return [window[place * len(window) // kept] for place in range(kept)]

    return sampled


def cluster_candidates(
    embeddings: Embeddings,
    n: int,
    *,
    member: Member = "medoid",
    start: int = 0,
    stop: int | None = None,
    temperature: float = 1.0,
) -> Sampler:
    """One candidate of each of n clusters, so that what is shown is as different as the pool is.

    The clusters are k-means' of the unit vectors, restarted four times, by the seed.

    Args:
        embeddings: of all candidates.
        n: how many clusters.
        member: "medoid", the member with the largest mean cosine to its cluster, looked for among all of its members; or
            "lowest_entropy", the member whose softmax over its cosines to all other candidates of the window has the
            lowest entropy, the most concrete one (PlugIR, Lee et al. 2024).
        start: the first rank of the window, from 0.
        stop: the rank behind it; None for the end of the pool.
        temperature: of that softmax; PlugIR's code has 1.

    Returns:
        The sampler; it shows fewer where the window has fewer different vectors.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> vectors = np.array([[1, 0], [0.99, 0.141], [0.98, 0.199], [0, 1]], dtype=np.float32)
        >>> shown = cluster_candidates(Embeddings(list("abcd"), vectors), 2)(list("abcd"), np.full(4, 0.25), 0)
        >>> shown
        ['b', 'd']
    """
    _check(n, start, stop)
    if member not in ("medoid", "lowest_entropy") or not temperature > 0:
        raise ValueError(f"member={member!r}, temperature={temperature}; 'medoid' or 'lowest_entropy', and above 0")

    def sampled(ids: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[str]:
        from sklearn.cluster import KMeans

        window = list(ids[start:stop])
        if not window:
            return []
        vectors = np.asarray(embeddings.vectors[embeddings.rows(window)], dtype=np.float64)
        different = len(np.unique(vectors, axis=0))
        clusters = KMeans(min(n, different), n_init=4, random_state=seed % 2**32).fit_predict(vectors)
        cosines = vectors @ vectors.T
        chosen = []
        for cluster in range(clusters.max() + 1):
            members = np.flatnonzero(clusters == cluster)
            if member == "medoid":
                cost = -cosines[np.ix_(members, members)].sum(axis=1)
            else:
                cost = _entropies(cosines, temperature)[members]
            chosen.append(int(members[np.argmin(np.round(cost, 9))]))  # of equal ones the best ranked
        return [window[place] for place in sorted(chosen)]

    return sampled


def _entropies(cosines: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Of each candidate, the entropy of the softmax of its cosines to the others."""
    from scipy.special import entr, softmax

    others = np.where(np.eye(len(cosines), dtype=bool), -np.inf, cosines / temperature)
    if len(cosines) == 1:
        return np.zeros(1)
    return entr(softmax(others, axis=1)).sum(axis=1)


def _check(n: int, start: int, stop: int | None) -> None:
    if n < 0 or start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"n={n}, start={start}, stop={stop}; show 0 or more of ranks from start on, before stop")
