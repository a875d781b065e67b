"""Which documents are nearest to each query? Exactly and block by block, or through an inverted file of FAISS."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mmembed.search.vectors import Rows

# A block of documents and a block of scores are 2**22 floats (16 MiB): neither grows with the corpus.
_FLOATS_A_BLOCK = 2**22
_SCORES_A_BLOCK = 2**22
_PAIRS_AT_ONCE = 2**17  # floats of float64, for exact scores: 1 MiB, which a core keeps near
_FEW_PAIRS = 2**11  # are taken one by one, however few the documents: a block may have to be decoded
#: How far a float32 sum of a matrix product may lie from the exact inner product of two vectors of length 1.
SCORE_ERROR = 4e-6


def exact_scores(queries: np.ndarray, documents: Rows, query_of: np.ndarray, document_of: np.ndarray) -> np.ndarray:
    """The inner products of single pairs, summed in float64 and rounded to float32.

    A matrix product adds a row's terms in an order that depends on the shapes of the two matrices, so that its last
    bits change with the size of a block. These do not: a pair has the same score in any company.

    Args:
        queries: float32 (q, dim).
        documents: n rows.
        query_of: int64 (pairs,) a row of `queries`.
        document_of: int64 (pairs,) a row of `documents`.

    Returns:
        float32 (pairs,).

    Example:
        >>> from mmembed.search.vectors import VectorRows
        >>> eye = np.eye(2, dtype=np.float32)
        >>> exact_scores(eye, VectorRows([eye]), np.array([0, 0]), np.array([0, 1])).tolist()
        [1.0, 0.0]
    """
    scores = np.empty(len(query_of), dtype=np.float32)
    at_once = max(1, _PAIRS_AT_ONCE // documents.dim)

    def fill(pairs: np.ndarray, rows: np.ndarray, first: int | None) -> None:
        for start in range(0, len(pairs), at_once):
            some = pairs[start : start + at_once]
            where = document_of[some] - first if first is not None else np.arange(start, start + len(some))
            left, right = queries[query_of[some]].astype(np.float64), rows[where].astype(np.float64)
            scores[some] = np.einsum("pd,pd->p", left, right)

    if len(query_of) <= _FEW_PAIRS or len(query_of) * 32 < len(documents):
        for start in range(0, len(query_of), at_once):
            pairs = np.arange(start, min(start + at_once, len(query_of)))
            fill(pairs, documents.take(document_of[pairs]), None)
        return scores
    order = np.argsort(document_of, kind="stable")
    size = max(1, _FLOATS_A_BLOCK // documents.dim)
    starts = np.arange(0, len(documents), size)
    bounds = np.searchsorted(document_of[order], [*starts.tolist(), len(documents)])
    for number, first in enumerate(starts.tolist()):
        pairs = order[bounds[number] : bounds[number + 1]]
        if len(pairs):
            fill(pairs, documents.block(first, first + size), first)
    return scores


class ExactSearch:
    """The documents with the highest inner products, found by comparing every query with every document.

    Args:
        documents: n rows.
        allowed: bool (n,), which documents may be found; None for all.
        use_faiss: let FAISS's flat search compare a block (the `search` extra); otherwise numpy does. What is found is the
            same.
        show_progress_bar: show one, in blocks of documents.

    Example:
        >>> from mmembed.search.vectors import VectorRows
        >>> scores, rows = ExactSearch(VectorRows([np.eye(3, dtype=np.float32)])).search(np.eye(3, dtype=np.float32)[:1], 1)
        >>> rows.tolist(), scores.tolist()
        ([[0]], [[1.0]])
    """

    def __init__(
        self,
        documents: Rows,
        allowed: np.ndarray | None = None,
        *,
        use_faiss: bool = False,
        show_progress_bar: bool = False,
    ) -> None:
        self.documents = documents
        self.allowed = None if allowed is None or allowed.all() else allowed
        self.faiss = faiss_module() if use_faiss else None
        self.show_progress_bar = show_progress_bar

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best documents of each query, in no order.

        Args:
            queries: float32 (q, dim).
            k: how many.

        Returns:
            float32 (q, k) scores as a matrix product gives them, and int64 (q, k) rows; −inf and −1 where there are fewer.
        """
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        size = max(1, _FLOATS_A_BLOCK // self.documents.dim)
        held: np.ndarray | None = None
        starts = range(0, len(self.documents), size)
        for start in tqdm(starts, desc="compare", unit="block", disable=not self.show_progress_bar):
            block = self.documents.block(start, start + size)
            numbers = np.arange(start, start + len(block))
            if self.allowed is not None:
                kept = self.allowed[start : start + len(block)]
                block, numbers = block[kept], numbers[kept]
            if not len(block):
                continue
            height = len(queries) if self.faiss else max(1, _SCORES_A_BLOCK // len(block))
            for top in range(0, len(queries), height):
                here = slice(top, top + height)
                if self.faiss is not None:
                    new = self.faiss.knn(queries[here], block, min(k, len(block)), self.faiss.METRIC_INNER_PRODUCT)
                else:
                    tall = len(queries[here])
                    if held is None or held.size < tall * len(block):
                        held = np.empty(tall * len(block), dtype=np.float32)
                    # The same memory for every block: a new one costs a fifth of the product itself in page faults.
                    product = held[: tall * len(block)].reshape(tall, len(block))
                    np.matmul(queries[here], block.T, out=product)
                    new = _above(product, scores[here].min(axis=1), k)
                found = np.where(new[1] >= 0, numbers[new[1]], -1)
                scores[here], rows[here] = _best(
                    np.concatenate([scores[here], new[0]], axis=1), np.concatenate([rows[here], found], axis=1), k
                )
        return scores, rows


class InvertedFileSearch:
    """Approximate search: documents lie in lists by their nearest centroid, and a query looks into the nearest lists.

    Args:
        documents: n rows; all of them are held in memory.
        allowed: bool (n,), which documents may be found; None for all.
        order: int64 (n,), the rows in an order of their own, such as that of their ids: the lists are then the same
            however the documents are sorted.
        lists: how many lists; about 4 √n when None.
        probes: how many lists a query looks into.

    Raises:
        ImportError: without the `search` extra.
    """

    def __init__(
        self,
        documents: Rows,
        allowed: np.ndarray | None = None,
        *,
        order: np.ndarray | None = None,
        lists: int | None = None,
        probes: int = 32,
    ) -> None:
        faiss = faiss_module()
        numbers = np.arange(len(documents)) if order is None else order
        self.numbers = numbers if allowed is None else numbers[allowed[numbers]]
        count = len(self.numbers)
        # k-means asks for 39 points a centroid; more than 256 it does not use.
        lists = max(1, min(lists or int(4 * count**0.5), count // 39 or 1))
        self.index: Any = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(documents.dim), documents.dim, lists, faiss.METRIC_INNER_PRODUCT
        )
        sample = self.numbers[:: max(1, count // (256 * lists))]
        self.index.train(documents.take(sample))
        size = max(1, _FLOATS_A_BLOCK // documents.dim)
        for start in range(0, count, size):
            self.index.add(documents.take(self.numbers[start : start + size]))
        self.index.nprobe = min(probes, lists)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `ExactSearch.search`, over the lists that are looked into."""
        scores, found = self.index.search(queries, k)
        return np.where(found >= 0, scores, -np.inf).astype(np.float32), np.where(found >= 0, self.numbers[found], -1)


def _above(scores: np.ndarray, threshold: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the values above its threshold, at most k, padded with −inf and −1."""
    if np.isinf(threshold).any():  # nothing found yet: every value counts
        if scores.shape[1] <= k:
            return scores.copy(), np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        # argpartition numbers every value with eight bytes: of few rows at a time
        columns = np.empty((len(scores), k), dtype=np.int64)
        for top in range(0, len(scores), 64):
            few = slice(top, top + 64)
            columns[few] = np.argpartition(scores[few], scores.shape[1] - k, axis=1)[:, -k:]
        return np.take_along_axis(scores, columns, axis=1), columns
    # On the flat array: for a few in a million, np.nonzero of two dimensions is many times slower.
    rows, columns = np.divmod(np.flatnonzero((scores > threshold[:, None]).ravel()), scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    new = np.full((len(scores), counts.max(initial=0)), -np.inf, dtype=np.float32)
    found = np.full(new.shape, -1, dtype=np.int64)
    new[rows, places], found[rows, places] = scores[rows, columns], columns
    return new, found


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape[1] == k:
        return scores, rows
    columns = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
    return np.take_along_axis(scores, columns, axis=1), np.take_along_axis(rows, columns, axis=1)


def faiss_module() -> Any:
    """FAISS, or an ImportError that names the extra."""
    if "faiss" not in sys.modules:  # it tells at length which builds of itself it does not have
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        import faiss
    except ImportError:
        raise ImportError("FAISS is not installed; `pip install mmembed[search]`, or use the exact search") from None
    return faiss
