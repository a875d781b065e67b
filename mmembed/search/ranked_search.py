"""Which documents stand at the top, and in which order? By exact scores, equal ones in a given order."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mmembed.search.nearest import SCORE_ERROR, ExactSearch, exact_scores
from mmembed.search.threshold_search import threshold_search
from mmembed.search.vectors import Rows, Vectors, as_rows

#: Candidates of all queries that are looked at together.
CANDIDATES_AT_ONCE = 2**19
#: Candidates beyond the k, so that rounding and equal scores seldom ask for a second search.
SPARE = 8


class Searcher(Protocol):
    """What finds the best documents by scores that may be off by a rounding error."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 (q, k) scores and int64 (q, k) rows, in no order; −inf and −1 where there are fewer."""


def exact_search(
    queries: np.ndarray,
    documents: Vectors,
    k: int = 10,
    *,
    allowed: np.ndarray | None = None,
    use_faiss: bool = False,
    show_progress_bar: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k documents with the highest inner products, best first; of equal scores the earlier document first.

    Every query is compared with every document, block by block: beside the queries and what is found no more than a
    few blocks are in memory, so that the documents may be memory-mapped and as many as the disk holds.

    Args:
        queries: float32 (q, dim), in memory.
        documents: n vectors.
        k: how many.
        allowed: bool (n,), which documents may be found; None for all.
        use_faiss: let FAISS compare a block (the `search` extra); what is found is the same.
        show_progress_bar: show one, in blocks of documents.

    Returns:
        float32 (q, k) scores and int64 (q, k) rows; −inf and −1 where there are fewer.

    Raises:
        ValueError: k below 1, or queries of another dimension.

    Example:
        >>> scores, rows = exact_search(np.eye(2, dtype=np.float32), np.eye(3, 2, dtype=np.float32), 2)
        >>> rows.tolist(), scores.tolist()
        ([[0, 1], [1, 0]], [[1.0, 0.0], [1.0, 0.0]])
    """
    rows = as_rows(documents)
    if k < 1 or queries.ndim != 2 or queries.shape[1] != rows.dim:
        raise ValueError(f"k={k}, queries {queries.shape}; give k of at least 1 and (q, {rows.dim}) queries")
    count = len(rows) if allowed is None else int(allowed.sum())
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    kept = min(k, count)
    searcher = ExactSearch(rows, allowed, use_faiss=use_faiss, show_progress_bar=show_progress_bar)
    at_once = max(1, CANDIDATES_AT_ONCE // (kept + SPARE))
    for start in range(0, len(queries) if kept else 0, at_once):
        some = slice(start, start + at_once)
        scores[some, :kept], found[some, :kept] = ranked(
            queries[some], kept, searcher, rows, count=count, allowed=allowed
        )
    return scores, found


def ranked(
    queries: np.ndarray,
    k: int,
    searcher: Searcher,
    documents: Rows,
    *,
    count: int,
    allowed: np.ndarray | None = None,
    place: np.ndarray | None = None,
    score_error: float = SCORE_ERROR,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each query, exactly, from a searcher that compares all documents and rounds.

    The searcher gives a few more than k. They are scored exactly and sorted. Where the k-th is so near the last found
    that one not found might be before it, the search is deeper, and in the end all documents are compared whose score
    may reach the k-th: many of one score come so to stand in their order, not in the searcher's.

    Args:
        queries: float32 (q, dim).
        k: how many, from 1 to `count`.
        searcher: looks among the allowed documents.
        documents: n rows, what the exact scores are of.
        count: documents that are allowed.
        allowed: bool (n,); None for all.
        place: int64 (n,), the order of documents whose scores are equal; their row when None.
        score_error: how far the searcher's scores may lie from the exact ones.

    Returns:
        float32 (q, k) scores and int64 (q, k) rows, best first.
    """
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    todo = np.arange(len(queries))
    depth = min(k + SPARE, count)
    for deeper in (4 * depth, 0):
        found, columns = searcher.search(queries[todo], depth)
        last = found.min(axis=1)
        exact, columns = in_order(queries[todo], columns, documents, place)
        scores[todo], rows[todo] = exact[:, :k], columns[:, :k]
        certain = (depth >= count) | (exact[:, k - 1] > last + score_error)
        todo = todo[~certain]
        if not len(todo) or not deeper:
            break
        depth = min(deeper, count)
    if len(todo):
        bounds = scores[todo, k - 1]
        scores[todo], rows[todo] = _best_of_all(queries[todo], bounds, k, documents, allowed, place, score_error)
    return scores, rows


def in_order(
    queries: np.ndarray, rows: np.ndarray, documents: Rows, place: np.ndarray | None, *, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Score what was found exactly, and sort it.

    Args:
        queries: float32 (q, dim).
        rows: int64 (q, k), −1 where there is none.
        documents: n rows.
        place: int64 (n,), the order of documents whose scores are equal; their row when None.
        scale: what the scores are multiplied by.

    Returns:
        float32 (q, k) scores and int64 (q, k) rows, best first; −inf and −1 at the end.
    """
    there = rows >= 0
    query_of, column = np.nonzero(there)
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    exact = exact_scores(queries, documents, query_of, rows[query_of, column])
    scores[query_of, column] = exact if scale == 1 else exact * np.float32(scale)
    order = np.lexsort((rows if place is None else np.where(there, place[rows], len(place)), -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _best_of_all(
    queries: np.ndarray,
    bounds: np.ndarray,
    k: int,
    documents: Rows,
    allowed: np.ndarray | None,
    place: np.ndarray | None,
    score_error: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best among all documents that reach a bound which at least k reach."""
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for hits in threshold_search(queries, documents, bounds, allowed=allowed, score_error=score_error):
        for query in np.unique(hits.queries).tolist():
            mine = slice(*np.searchsorted(hits.queries, [query, query + 1]).tolist())
            one_scores = np.concatenate([scores[query], hits.scores[mine]])
            one_rows = np.concatenate([rows[query], hits.documents[mine]])
            order = np.lexsort((one_rows if place is None else place[one_rows], -one_scores))[:k]
            scores[query], rows[query] = one_scores[order], one_rows[order]
    return scores, rows
