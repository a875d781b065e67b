"""Which documents do a query's words find?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import TermExpansion


def search_words(
    index: LexicalIndex,
    texts: Sequence[Sequence[str]],
    depth: int,
    *,
    allowed: Collection[str] | None = None,
    combine: Literal["mean", "rrf"] = "mean",
    query_first: bool = True,
    expansion: TermExpansion | None = None,
    documents: Callable[[Sequence[str]], list[str]] | None = None,
    positives: Sequence[Sequence[str]] | None = None,
) -> list[dict[str, float]]:
    """Search with each query's texts.

    Args:
        index: BM25 over the documents.
        texts: for each query its texts; none find nothing.
        depth: documents a query.
        allowed: ids that may be found; None for all.
        combine: several texts of one query: "rrf" over their rankings, or the "mean" of their scores, in which the query's
            own text counts as much as all others together (as query2doc repeats the query, Wang et al. 2023).
        query_first: whether the first of several texts is the query's own.
        expansion: adds words of the first results, or of given positives, to the query's first text.
        documents: ids → texts; needed for an expansion.
        positives: for each query ids of documents that answer it.

    Returns:
        For each query the scores of its documents by id, best first.

    Example:
        >>> index = LexicalIndex.build(["a", "b"], ["red hat", "blue hat"])
        >>> [list(found) for found in search_words(index, [["red"], []], 5)]
        [['a'], []]
    """
    flat: list[str | dict[str, float]] = []
    for own in texts:
        flat += [_weighted(index, own, query_first)] if combine == "mean" and len(own) > 1 else own
    found = iter(index.search(flat, depth, allowed=allowed))
    rankings = [
        next(found) if combine == "mean" and own else as_one([next(found) for _ in own], depth) for own in texts
    ]
    if expansion is None or documents is None:
        return rankings
    for number, own in enumerate(texts):
        given = list(positives[number]) if positives is not None else []
        first = dict(list(rankings[number].items())[: expansion.documents])
        if own and (given or first):
            read = documents(given or list(first))
            weights = expansion.expand(index, own[0], read, None if given else list(first.values()))
            rankings[number] = index.search([weights], depth, allowed=allowed)[0]
    return rankings


def _weighted(index: LexicalIndex, texts: Sequence[str], query_first: bool) -> dict[str, float]:
    """The tokens of several texts, weighted so that scores are their weighted mean."""
    weights = [len(texts) - 1 if number == 0 and query_first else 1 for number in range(len(texts))]
    found: dict[str, float] = {}
    for text, weight in zip(texts, weights):
        for token in index.tokens(text):
            found[token] = found.get(token, 0.0) + weight / sum(weights)
    return found


def as_one(rankings: Sequence[dict[str, float]], depth: int) -> dict[str, float]:
    """The rankings of one query's texts as one: itself, or several fused by reciprocal ranks.

    Example:
        >>> as_one([{"a": 3.0}], 5), list(as_one([{"a": 3.0}, {"b": 1.0, "a": 0.5}], 1))
        ({'a': 3.0}, ['a'])
    """
    if len(rankings) == 1:
        return rankings[0]
    return dict(list(reciprocal_rank_fusion(rankings).items())[:depth])
