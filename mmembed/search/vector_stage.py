"""Which documents does a query's vector find, and how close are candidates exactly?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from sentence_transformers import SentenceTransformer

from mmembed.embeddings import Embeddings
from mmembed.search.nearest import ExactSearch, exact_scores
from mmembed.search.queries import Query, encode_queries, unit_rows
from mmembed.search.query_expansion import Rocchio
from mmembed.search.ranked_search import CANDIDATES_AT_ONCE, SPARE, ranked
from mmembed.search.vectors import VectorRows
from mmembed.search.word_stage import as_one


class VectorIndex(Protocol):
    """What finds documents by vectors: `mmembed.search.index.Index`, or anything like it."""

    def search(
        self, queries: np.ndarray, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]: ...


class ExactVectors:
    """An index that is none: every query is compared with every vector.

    Args:
        embeddings: ids and vectors of the documents.

    Example:
        >>> vectors = ExactVectors(Embeddings(["a", "b"], np.eye(2, dtype=np.float32)))
        >>> vectors.search(np.eye(2, dtype=np.float32)[:1], 1)
        [{'a': 1.0}]
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.rows = VectorRows([embeddings.vectors])
        self.place = np.empty(len(embeddings), dtype=np.int64)  # of each row in the order of ids
        self.place[sorted(range(len(embeddings)), key=embeddings.ids.__getitem__)] = np.arange(len(embeddings))

    def search(
        self, queries: np.ndarray, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """The k nearest documents of each query: scores by id, best first, ties in the order of ids.

        Args:
            queries: float32 (q, dim).
            k: how many a query.
            allowed: ids that may be found; None for all.
        """
        mask = None
        if allowed is not None:
            known = self.embeddings._rows
            mask = np.zeros(len(self.embeddings), dtype=bool)
            mask[[known[id] for id in allowed if id in known]] = True
        count = len(self.embeddings) if mask is None else int(mask.sum())
        few = min(k, count)
        found: list[dict[str, float]] = []
        if not few:
            return [{} for _ in queries]
        searcher = ExactSearch(self.rows, mask)
        at_once = max(1, CANDIDATES_AT_ONCE // (few + SPARE))
        for start in range(0, len(queries), at_once):
            some = queries[start : start + at_once]
            best = ranked(some, few, searcher, self.rows, count=count, allowed=mask, place=self.place)
            for scores, rows in zip(*best, strict=True):
                found.append({self.embeddings.ids[row]: score for row, score in zip(rows.tolist(), scores.tolist())})
        return found


def search_vectors(
    index: VectorIndex,
    model: SentenceTransformer,
    queries: Sequence[Query],
    texts: Sequence[Sequence[str]],
    depth: int,
    *,
    allowed: Collection[str] | None = None,
    combine: Literal["mean", "rrf"] = "mean",
    feedback: Feedback | None = None,
    **encoding: Any,
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Search with each query's vector.

    Args:
        index: finds documents by vectors.
        model: encodes the queries.
        queries: q queries.
        texts: for each query its texts, each of which takes the place of the query's own.
        depth: documents a query.
        allowed: ids that may be found; None for all.
        combine: several texts of one query: their vectors' "mean", or "rrf" over their rankings.
        feedback: moves the vectors towards documents, and searches again.
        encoding: further arguments of `encode_queries`.

    Returns:
        For each query the scores of its documents by id, best first; and float32 (q, dim) of unit length, what was
        searched with (with "rrf" the mean, which the exact scores are then of).
    """
    variants = [_variants(query, own) for query, own in zip(queries, texts, strict=True)]
    vectors = encode_queries(model, [one for own in variants for one in own], **encoding)
    bounds = np.cumsum([0, *map(len, variants)]).tolist()
    spans = list(zip(bounds, bounds[1:]))
    several = len(vectors) > len(queries)
    means = unit_rows(np.stack([vectors[a:b].mean(axis=0) for a, b in spans])) if several else vectors
    if combine == "rrf" and several:
        each = index.search(vectors, depth, allowed=allowed)
        rankings = [as_one(each[a:b], depth) for a, b in spans]
    else:
        rankings = index.search(means, depth, allowed=allowed)
    if feedback is not None:
        means = feedback.moved(means, rankings)
        rankings = index.search(means, depth, allowed=allowed)
    return rankings, means


class Feedback:
    """Documents that answer each query or do not, given or taken from a first search, and how vectors follow them.

    Args:
        rocchio: how; its `documents` best results are taken where nothing is given.
        stored: ids → (n, dim) vectors of documents.
        positives, negatives: for each query ids, or None.

    Raises:
        ValueError: an id without a vector, when it is followed.
    """

    def __init__(
        self,
        rocchio: Rocchio,
        stored: Callable[[Sequence[str]], np.ndarray],
        positives: Sequence[Sequence[str]] | None = None,
        negatives: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.rocchio, self.stored = rocchio, stored
        self.positives, self.negatives = positives, negatives

    def moved(self, queries: np.ndarray, rankings: Sequence[dict[str, float]]) -> np.ndarray:
        """float32 (q, dim), the moved vectors of (q, dim) queries with these first rankings."""
        moved = queries.copy()
        for number, query in enumerate(queries):
            good, bad = (list(given[number]) if given is not None else [] for given in (self.positives, self.negatives))
            if not good and not bad:
                good = list(rankings[number])[: self.rocchio.documents]
            moved[number] = self.rocchio.expand(query, *(self.stored(ids) if ids else None for ids in (good, bad)))
        return moved


def exact_rankings(
    vectors: Embeddings, queries: np.ndarray, candidates: Sequence[Sequence[str]]
) -> list[dict[str, float]]:
    """The exact inner product of each query with each of its candidates.

    Args:
        vectors: full-precision vectors of the documents.
        queries: float32 (q, dim).
        candidates: for each query ids.

    Returns:
        For each query the candidates' scores by id, best first, ties in the order of ids.

    Raises:
        DataError: a candidate has no vector.

    Example:
        >>> vectors = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
        >>> exact_rankings(vectors, np.array([[0.6, 0.8]], dtype=np.float32), [["a", "b"]])
        [{'b': 0.800000011920929, 'a': 0.6000000238418579}]
    """
    owners = np.repeat(np.arange(len(candidates)), [len(ids) for ids in candidates])
    rows = vectors.rows([id for ids in candidates for id in ids])
    scores = iter(exact_scores(queries, VectorRows([vectors.vectors]), owners, rows).tolist())
    return [
        dict(sorted(((id, next(scores)) for id in ids), key=lambda pair: (-pair[1], pair[0]))) for ids in candidates
    ]


def _variants(query: Query, texts: Sequence[str]) -> list[Query]:
    if not texts:
        return [query]
    return [query if text == query.text else Query(text, query.image) for text in texts]
