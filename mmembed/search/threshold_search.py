"""Which documents score at least so much with each query? Exactly, block by block, as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from mmembed.search.nearest import SCORE_ERROR, exact_scores
from mmembed.search.vectors import VectorRows, Vectors, as_rows

# A block of documents and a block of scores are 2**22 floats (16 MiB): neither grows with the corpus.
_FLOATS_A_BLOCK = 2**22
_SCORES_A_BLOCK = 2**22


class Hits(NamedTuple):
    """Pairs of a query and a document, by row.

    Args:
        queries: int64 (pairs,) rows of queries.
        documents: int64 (pairs,) rows of documents.
        scores: float32 (pairs,).
    """

    queries: np.ndarray
    documents: np.ndarray
    scores: np.ndarray


def threshold_search(
    queries: np.ndarray,
    documents: Vectors,
    threshold: float | np.ndarray,
    *,
    allowed: np.ndarray | None = None,
    start: int = 0,
    stop: int | None = None,
    score_error: float = SCORE_ERROR,
    show_progress_bar: bool = False,
) -> Iterator[Hits]:
    """All pairs whose score, the exact inner product, reaches a threshold.

    However many there are, no more than a block of them is in memory; a document's pairs come before those of the
    documents after its block, and within a block they are sorted by query and document.

    Args:
        queries: float32 (q, dim), in memory.
        documents: n vectors, such as memory-mapped `Embeddings`.
        threshold: the lowest score, or (q,) one for each query.
        allowed: bool (n,), which documents count; None for all.
        start: first document that is compared.
        stop: the document after the last; None for the end.
        score_error: how far a float32 sum may lie from the exact score.
        show_progress_bar: show one, in documents.

    Yields:
        Blocks of pairs, none of them empty.

    Raises:
        ValueError: queries of another dimension, or a threshold that is NaN.

    Example:
        >>> eye = np.eye(3, dtype=np.float32)
        >>> [hits.documents.tolist() for hits in threshold_search(eye[:2], eye, 0.5)]
        [[0, 1]]
    """
    rows = as_rows(documents)
    bounds = np.broadcast_to(np.asarray(threshold, dtype=np.float32), (len(queries),))
    if queries.ndim != 2 or queries.shape[1] != rows.dim or np.isnan(bounds).any():
        raise ValueError(
            f"queries {queries.shape} for documents of {rows.dim} dimensions, threshold {threshold}; give (q, {rows.dim}) "
            "queries and a number"
        )
    stop = len(rows) if stop is None else min(stop, len(rows))
    size = max(1, _FLOATS_A_BLOCK // rows.dim)
    low = (bounds.astype(np.float64) - score_error).astype(np.float32)
    held = np.empty(0, dtype=np.float32)
    bar = tqdm(total=stop - start, desc="compare", unit="document", disable=not show_progress_bar)
    with bar:
        for first in range(start, stop, size):
            block = rows.block(first, min(first + size, stop))
            numbers = np.arange(first, first + len(block))
            if allowed is not None:
                kept = allowed[first : first + len(block)]
                block, numbers = block[kept], numbers[kept]
            height = max(1, _SCORES_A_BLOCK // max(1, len(block)))
            for top in range(0, len(queries) if len(block) else 0, height):
                some = queries[top : top + height]
                if held.size < len(some) * len(block):
                    held = np.empty(len(some) * len(block), dtype=np.float32)
                product = held[: len(some) * len(block)].reshape(len(some), len(block))
                np.matmul(some, block.T, out=product)
                near = np.flatnonzero((product >= low[top : top + height, None]).ravel())
                query_of, column = np.divmod(near, len(block))
                scores = exact_scores(some, VectorRows([block]), query_of, column)
                kept = scores >= bounds[top + query_of]
                if kept.any():
                    yield Hits(query_of[kept] + top, numbers[column[kept]], scores[kept])
            bar.update(min(first + size, stop) - first)
