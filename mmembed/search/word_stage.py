"""Which documents do a query's words find?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import TermExpansion


def search_words(
    index: LexicalIndex,
    texts: Sequence[Sequence[str]],
    depth: int,
    *,
    allowed: Collection[str] | None = None,
    expansion: TermExpansion | None = None,
    documents: Callable[[Sequence[str]], list[str]] | None = None,
    positives: Sequence[Sequence[str]] | None = None,
) -> list[dict[str, float]]:
    """Search with each query's texts.

    Args:
        index: BM25 over the documents.
        texts: for each query its texts; several are fused by reciprocal ranks, none find nothing.
        depth: documents a query.
        allowed: ids that may be found; None for all.
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
    flat = [text for own in texts for text in own]
    found = iter(index.search(flat, depth, allowed=allowed))
    rankings = [as_one([next(found) for _ in own], depth) for own in texts]
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


def as_one(rankings: Sequence[dict[str, float]], depth: int) -> dict[str, float]:
    """The rankings of one query's texts as one: itself, or several fused by reciprocal ranks.

    Example:
        >>> as_one([{"a": 3.0}], 5), list(as_one([{"a": 3.0}, {"b": 1.0, "a": 0.5}], 1))
        ({'a': 3.0}, ['a'])
    """
    if len(rankings) == 1:
        return rankings[0]
    return dict(list(reciprocal_rank_fusion(rankings).items())[:depth])
