"""Where each query's documents stand: exact search over the whole gallery, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmembed.evaluation.score_rows import exact_order_scores
from mmembed.ranking_metrics import UNRANKED, metrics_of_ranks, ranks_of_relevant, top_ranked

Use = Literal["text", "image", "fused"]
Directions = Literal["both", "forward", "backward"]

# Rows of scores held at once: 2**25 float32 are 128 MiB.
_SCORES_AT_ONCE = 2**25
_DOCUMENTS_AT_ONCE = 2**13


@dataclass(frozen=True)
class Ranking:
    """One direction of a retrieval: where each query's relevant documents stand, and what stands on top.

    Args:
        direction: such as ``text_to_image``.
        query_ids: the n queries that have a relevant document, in the order of their table.
        document_ids: the m documents that were ranked.
        relevant: for each query the rows of its relevant documents in `document_ids`, ascending.
        ranks: for each query the exact ranks of these documents, ascending, from 1; `UNRANKED` outside the pool.
        top: (n, k) rows in `document_ids`, best first; -1 where a pool holds fewer than k.
        top_scores: (n, k) scores; -inf where `top` is -1.
        gains: for each query the gains of the documents that `ranks` ranks, in that order; None: 1 each.
    """

    direction: str
    query_ids: list[str]
    document_ids: list[str]
    relevant: list[NDArray[np.int64]]
    ranks: list[NDArray[np.int64]]
    top: NDArray[np.int64]
    top_scores: NDArray[np.float32]
    gains: list[list[int]] | None = None

    def per_query(self, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Score each query, for example to compare two models with `paired_bootstrap`.

        Args:
            metrics: names as in `mmembed.ranking_metrics.ranking_metrics`.

        Returns:
            For each metric an (n,) array in the order of `query_ids`.
        """
        values = metrics_of_ranks(self.ranks, [name for name in metrics if name != "mrr"], gains=self.gains)
        # mrr without a cut-off looks through the whole gallery; from the first rank it is one division.
        first = self.first_ranks()
        return {
            name: np.where(first == UNRANKED, 0.0, 1.0 / first) if name == "mrr" else values[name] for name in metrics
        }

    def first_ranks(self) -> NDArray[np.int64]:
        """(n,) the rank of each query's best relevant document."""
        return np.array([ranks[0] for ranks in self.ranks], dtype=np.int64)

    def top_ids(self, row: int) -> list[str]:
        """The ids of the best documents of query `row`, best first."""
        return [self.document_ids[column] for column in self.top[row] if column >= 0]

    def hits(self, row: int) -> list[bool]:
        """For each of `top_ids` whether it is relevant."""
        return np.isin(self.top[row][self.top[row] >= 0], self.relevant[row]).tolist()


def headline(rankings: Mapping[str, Ranking]) -> Literal["recall", "success"]:
    """What a retrieval is judged by at a glance: recall, or success where some query has several relevant documents.

    With several, recall@1 cannot reach 1, while success@1, which image-text papers call R@1, can.

    Args:
        rankings: by way, or by direction.

    Returns:
        The metric's name without its cut-off.

    Example:
        >>> headline(rank_retrieval((np.eye(2), np.eye(2)), ["a", "b"], ["a", "b"]))
        'recall'
    """
    several = any(len(relevant) > 1 for ranking in rankings.values() for relevant in ranking.relevant)
    return "success" if several else "recall"


def rank_retrieval(
    model: Any,
    queries: Any,
    documents: Any,
    pairs: Any = None,
    *,
    query_use: Use = "text",
    document_use: Use = "image",
    directions: Directions = "both",
    k: int = 10,
    batch_size: int = 64,
    reader: Any = None,
    image_features: Any = None,
    pools: Mapping[str, Collection[str]] | None = None,
    exclude_same_id: bool = False,
    graded: bool = False,
    show_progress_bar: bool = False,
) -> dict[str, Ranking]:
    """Rank the gallery for every query, for contact sheets and paired tests.

    Args:
        model: see `evaluate_retrieval`, as all arguments that are not named here.
        queries: the queries.
        documents: the documents.
        pairs: the relations.
        query_use: what of a query is encoded.
        document_use: what of a document is encoded.
        directions: "forward", "backward" or "both".
        k: how many documents to keep for each query; ranks are exact whatever k is.
        batch_size: rows encoded at once.
        reader: for images.
        image_features: stored activations to encode instead of images, see `encode_items`.
        pools: candidates by query id.
        exclude_same_id: leave out the query's own id.
        graded: the `positive_scores` of PAIRS are grades.
        show_progress_bar: of the encoding.

    Returns:
        A `Ranking` for "forward", for "backward", or for both.

    Raises:
        ValueError: as `evaluate_retrieval`.

    Example:
        >>> rankings = rank_retrieval((np.eye(2), np.eye(2)), ["a", "b"], ["a", "b"], directions="forward")
        >>> rankings["forward"].top_ids(1), rankings["forward"].hits(1)
        (['b', 'a'], [True, False])
    """
    if directions not in get_args(Directions):
        raise ValueError(f"directions must be one of {', '.join(get_args(Directions))}, got {directions!r}")
    if pools is not None and directions != "forward":
        raise ValueError(f"pools name documents for queries: use directions='forward' with them, got {directions!r}")
    query_ids, document_ids = _ids(queries, "queries"), _ids(documents, "documents")
    relations = _relations(pairs, query_ids, document_ids, graded)
    query_vectors, document_vectors = _vectors(
        model, queries, documents, (query_use, document_use), batch_size, reader, image_features, show_progress_bar
    )
    for vectors, ids, what in ((query_vectors, query_ids, "queries"), (document_vectors, document_ids, "documents")):
        _check_vectors(vectors, ids, what)
    if query_vectors.shape[1] != document_vectors.shape[1]:
        raise ValueError(
            f"queries have {query_vectors.shape[1]} dimensions and documents {document_vectors.shape[1]}: encode both "
            "with one model"
        )
    rankings = {}
    if directions != "backward":
        rankings["forward"] = _rank(
            f"{query_use}_to_{document_use}",
            (query_ids, query_vectors),
            (document_ids, document_vectors),
            relations,
            k,
            pools,
            exclude_same_id,
        )
    if directions != "forward":
        same_name = "_backward" if query_use == document_use else ""
        rankings["backward"] = _rank(
            f"{document_use}_to_{query_use}{same_name}",
            (document_ids, document_vectors),
            (query_ids, query_vectors),
            [(document, query, grade) for query, document, grade in relations],
            k,
            None,
            exclude_same_id,
        )
    return rankings


def _rank(
    direction: str,
    queries: tuple[list[str], NDArray],
    documents: tuple[list[str], NDArray],
    relations: list[tuple[int, int, int]],
    k: int,
    pools: Mapping[str, Collection[str]] | None,
    exclude_same_id: bool,
) -> Ranking:
    (all_query_ids, query_vectors), (document_ids, document_vectors) = queries, documents
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    row_of = {document: row for row, document in enumerate(document_ids)}
    grades_of: dict[int, dict[int, int]] = {}
    for query, document, grade in relations:
        if not (exclude_same_id and all_query_ids[query] == document_ids[document]):
            own = grades_of.setdefault(query, {})
            own[document] = max(grade, own.get(document, grade))
    rows = sorted(grades_of)
    if not rows:
        raise ValueError(f"{direction}: no query has a relevant document, so there is nothing to measure")
    query_ids = [all_query_ids[row] for row in rows]
    relevant = [np.array(sorted(grades_of[row]), dtype=np.int64) for row in rows]
    grades = [[grades_of[row][column] for column in columns.tolist()] for row, columns in zip(rows, relevant)]
    kept = min(k, len(document_ids))

    def leave_out(number: int, scores: NDArray[np.float32]) -> None:
        query_id = query_ids[number]
        if pools is not None:
            outside = np.ones(len(document_ids), dtype=bool)
            outside[_pool_rows(query_id, pools, row_of)] = False
            scores[outside] = -np.inf
        if exclude_same_id and query_id in row_of:
            scores[row_of[query_id]] = -np.inf

    ranks: list[NDArray[np.int64]] = []
    gains: list[list[int]] = []
    top, top_scores = [], []
    blocks = exact_order_scores(
        query_vectors,
        rows,
        document_vectors,
        relevant,
        kept,
        leave_out if pools is not None or exclude_same_id else None,
        scores_at_once=_SCORES_AT_ONCE,
        documents_at_once=_DOCUMENTS_AT_ONCE,
    )
    for start, scores in blocks:
        block = relevant[start : start + len(scores)]
        ranks += ranks_of_relevant(scores, block)
        for row, columns, own_grades in zip(scores, block, grades[start : start + len(scores)]):
            # as the ranks ascend; of one score the lower grade first, so that a tie helps no metric
            order = np.lexsort((own_grades, -row[columns]))
            gains.append([own_grades[place] for place in order])
        columns, values = top_ranked(scores, block, kept)
        top.append(columns)
        top_scores.append(values)
    ungraded = all(grade == 1 for own_grades in grades for grade in own_grades)
    return Ranking(
        direction,
        query_ids,
        document_ids,
        relevant,
        ranks,
        np.concatenate(top),
        np.concatenate(top_scores),
        None if ungraded else gains,
    )


def _pool_rows(query: str, pools: Mapping[str, Collection[str]], row_of: Mapping[str, int]) -> list[int]:
    if query not in pools:
        raise ValueError(f"pools has no candidates for query {query!r}: give each query with relevant documents a pool")
    unknown = [document for document in pools[query] if document not in row_of]
    if unknown:
        raise ValueError(f"pools[{query!r}] names {len(unknown)} unknown documents, the first is {unknown[0]!r}")
    return [row_of[document] for document in pools[query]]


def _ids(table: Any, what: str) -> list[str]:
    """The ids of ITEMS, of `Embeddings`, or the ids themselves."""
    if hasattr(table, "column_names") or isinstance(table, Mapping):
        ids = list(table["id"])
    else:
        ids = list(getattr(table, "ids", table))
    if not ids or not all(isinstance(item, str) for item in ids):
        raise ValueError(f"{what} must be ITEMS or a list of string ids, at least one, got {table!r:.200}")
    if len(set(ids)) < len(ids):
        repeated = next(item for row, item in enumerate(ids) if item in set(ids[:row]))
        raise ValueError(
            f"{what}: id {repeated!r} occurs more than once, {len(ids) - len(set(ids))} rows in all repeat"
        )
    return ids


def _relations(pairs: Any, query_ids: list[str], document_ids: list[str], graded: bool) -> list[tuple[int, int, int]]:
    """(query row, document row, grade) of every relevant pair."""
    query_row = {item: row for row, item in enumerate(query_ids)}
    document_row = {item: row for row, item in enumerate(document_ids)}
    listed: list[tuple[str, Any]]
    if pairs is None:
        listed = [(item, [item]) for item in query_ids]
    elif hasattr(pairs, "column_names") or (isinstance(pairs, Mapping) and "positive_ids" in pairs):
        listed = list(zip(pairs["query_id"], pairs["positive_ids"]))
        if graded:
            listed = [(query, _graded(row, query, positives, pairs)) for row, (query, positives) in enumerate(listed)]
    else:
        listed = list(pairs.items())
    relations = []
    for row, (query, positives) in enumerate(listed):
        if query not in query_row:
            raise ValueError(f"pairs, row {row}: query_id {query!r} is not among the {len(query_ids)} queries")
        if isinstance(positives, str):
            raise ValueError(f"pairs, row {row}: positive_ids of query {query!r} is a text, not a list of ids")
        grades = positives if isinstance(positives, Mapping) else dict.fromkeys(positives, 1)
        for positive, grade in grades.items():
            if positive not in document_row:
                hint = "; give pairs, or documents with the ids of the queries" if pairs is None else ""
                raise ValueError(
                    f"pairs, row {row}: positive {positive!r} of query {query!r} is not among the "
                    f"{len(document_ids)} documents{hint}"
                )
            if not isinstance(grade, int | float | np.number) or not 0 <= grade <= 30 or grade != int(grade):
                raise ValueError(
                    f"pairs, row {row}: the grade of positive {positive!r} of query {query!r} is {grade!r}; grades are "
                    "whole numbers up to 30, relevant above 0"
                )
            if grade > 0:
                relations.append((query_row[query], document_row[positive], int(grade)))
    return relations


def _graded(row: int, query: str, positives: Sequence[str], pairs: Any) -> dict[str, Any]:
    grades = pairs["positive_scores"][row] if "positive_scores" in getattr(pairs, "column_names", pairs) else None
    if grades is None or len(grades) != len(positives):
        raise ValueError(
            f"pairs, row {row}: graded=True needs one of positive_scores for each of the {len(positives)} positives of "
            f"query {query!r}, got {grades!r:.100}"
        )
    return dict(zip(positives, grades))


def _vectors(
    model: Any,
    queries: Any,
    documents: Any,
    uses: tuple[Use, Use],
    batch_size: int,
    reader: Any,
    image_features: Any,
    show_progress_bar: bool,
) -> tuple[NDArray, NDArray]:
    if isinstance(model, tuple | list):
        if len(model) != 2:
            raise ValueError(f"vectors come as a pair (of the queries, of the documents), got {len(model)} parts")
        for part, table, what in ((model[0], queries, "queries"), (model[1], documents, "documents")):
            if hasattr(part, "ids") and list(part.ids) != _ids(table, what):
                raise ValueError(f"the embeddings of the {what} have other ids, or another order, than the {what}")
        first, second = (np.asarray(getattr(part, "vectors", part)) for part in model)
        return first, second
    from mmembed.encode import encode_items

    def encode(table: Any, use: Use) -> NDArray:
        return encode_items(
            model,
            table,
            use=use,
            batch_size=batch_size,
            reader=reader,
            image_features=image_features,
            show_progress_bar=show_progress_bar,
        )

    query_vectors = encode(queries, uses[0])
    # A gallery that searches itself is encoded once.
    same = documents is queries and uses[0] == uses[1]
    return query_vectors, query_vectors if same else encode(documents, uses[1])


def _check_vectors(vectors: NDArray, ids: list[str], what: str) -> None:
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"{what}: {len(ids)} ids need ({len(ids)}, dim) vectors, got shape {vectors.shape}")
    for start in range(0, len(vectors), _DOCUMENTS_AT_ONCE):
        bad = np.flatnonzero(~np.isfinite(vectors[start : start + _DOCUMENTS_AT_ONCE]).all(axis=1))
        if len(bad):
            raise ValueError(f"{what}: the vector of {ids[start + bad[0]]!r} (row {start + bad[0]}) is not finite")
