"""Which rows of an index are the best, or good enough, and what do they score?

What is searched gives candidates; what they are scored by at last may be something finer. Both are rows of vectors, and a
score is the exact inner product of a query's vector with a row, times a constant.
"""

from __future__ import annotations

import numpy as np

from mmembed.search.index_building import IndexParts
from mmembed.search.index_kinds import Among, FloatStructure
from mmembed.search.index_settings import EXHAUSTIVE, IndexSettings
from mmembed.search.quantization import truncated
from mmembed.search.ranked_search import SPARE, in_order, ranked
from mmembed.search.threshold_search import threshold_search
from mmembed.search.vectors import Rows


def best_rows(
    vectors: np.ndarray, k: int, depth: int, parts: IndexParts, settings: IndexSettings, among: Among, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query.

    Args:
        vectors: float32 (q, dim) of length 1.
        k: how many, at most the rows that are allowed.
        depth: candidates of each that are scored at last; at least k.
        parts: what is searched, and what candidates are scored by.
        settings: what the index is.
        among: finds candidates among the allowed rows.
        place: int64 (rows,), the order of rows of one score.

    Returns:
        float32 (q, k) scores and int64 (q, k) rows, best first; −inf and −1 where there are fewer.
    """
    structure = parts.structure
    coded = structure.coded(shortened(vectors, settings))
    if settings.kind in EXHAUSTIVE or among.exhaustive:
        error = structure.score_error
        scores, rows = ranked(
            coded, depth, among, structure, count=among.count, allowed=among.allowed, place=place, score_error=error
        )
    else:
        # a few more, so that the order of ids decides between most equal scores here too
        found = among.search(coded, min(depth + SPARE, among.count))[1]
        scores, rows = (one[:, :depth] for one in in_order(coded, found, structure, place))
    compared, documents, scale = _final(vectors, parts, settings)
    if settings.rescore:
        scores, rows = in_order(compared, rows, documents, place, scale=scale)
    elif scale != 1:
        scores = scores * np.float32(scale)
    return scores[:, :k], rows[:, :k]


def rows_above(
    vectors: np.ndarray,
    threshold: float,
    parts: IndexParts,
    settings: IndexSettings,
    allowed: np.ndarray | None,
    place: np.ndarray,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All rows that score at least so much with each query.

    Args:
        vectors: float32 (q, dim) of length 1.
        threshold: the lowest score.
        parts: what is searched, and what is scored by.
        settings: what the index is.
        allowed: bool (rows,); None for all.
        place: int64 (rows,), the order of rows of one score.

    Returns:
        For each query float32 scores and int64 rows, best first.
    """
    compared, documents, scale = _final(vectors, parts, settings)
    bound = np.float32(threshold)
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in vectors]
    if isinstance(documents, FloatStructure) and settings.lists is not None:
        for query, rows in enumerate(documents.above(compared, threshold, allowed) if len(vectors) else []):
            scores, rows = (one[0] for one in in_order(compared[query : query + 1], rows[None], documents, None))
            found[query].append((scores[scores >= bound], rows[scores >= bound]))
    else:
        # a score is rounded after it is scaled, so what is near is compared once more
        low = float(threshold) / scale - abs(float(threshold) / scale) * 1e-6
        for hits in threshold_search(compared, documents, low, allowed=allowed):
            bounds = np.searchsorted(hits.queries, np.arange(len(vectors) + 1))
            scores = hits.scores if scale == 1 else hits.scores * np.float32(scale)
            for query in np.unique(hits.queries).tolist():
                here = slice(bounds[query], bounds[query + 1])
                good = scores[here] >= bound
                found[query].append((scores[here][good], hits.documents[here][good]))
    return [_joined(some, place) for some in found]


def shortened(vectors: np.ndarray, settings: IndexSettings) -> np.ndarray:
    """The dimensions that are searched, of vectors that may have just these already."""
    dim = settings.truncate_dim
    return vectors if dim is None or vectors.shape[1] == dim else truncated(vectors, dim)


def _final(vectors: np.ndarray, parts: IndexParts, settings: IndexSettings) -> tuple[np.ndarray, Rows, float]:
    """What the final score of a query and a row is the inner product of, and what it is multiplied by."""
    if parts.kept is not None:
        return vectors, parts.kept, 1.0
    structure, searched = parts.structure, shortened(vectors, settings)
    if settings.kind != "binary":
        return searched, structure, 1.0
    if settings.rescore == "signs":
        return searched, structure, structure.dim**-0.5
    return structure.coded(searched), structure, 1 / structure.dim


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([np.zeros(0, np.float32), *(one for one, _ in parts)])
    rows = np.concatenate([np.zeros(0, np.int64), *(one for _, one in parts)])
    order = np.lexsort((place[rows], -scores))
    return scores[order], rows[order]
