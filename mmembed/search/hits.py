"""What a stage of a search made of the queries, and what of it a person gets to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hit:
    """One result.

    Args:
        id: the item's id.
        score: by the stage that placed it; comparable within one query and stage alone.
        stage: that stage: "lexical", "dense", "fused", "rescored" or "reranked".
        ranks: its rank, from 1 on, in each stage that scored it.
        scores: its score in each of these; "exact" is the exact inner product where that was computed.

    Example:
        >>> Hit("a", 0.5, "dense", {"dense": 1}, {"dense": 0.5}).ranks["dense"]
        1
    """

    id: str
    score: float
    stage: str
    ranks: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Stage:
    """What one stage made of q queries.

    Args:
        name: "lexical", "dense", "fused", "rescored" or "reranked".
        rankings: for each query the scores of what this stage scored, by id, best first.
        seconds: how long it took, for all of them together.
        orders: for each query all ids as they stand after this stage: behind what it scored, the rest as it stood; None where
            it scored all.
        exact: for each query the exact inner products, where this stage computed them.

    Example:
        >>> Stage("dense", [{"a": 0.5, "b": 0.4}], 0.01).order(0)
        ['a', 'b']
    """

    name: str
    rankings: list[dict[str, float]]
    seconds: float
    orders: list[list[str]] | None = None
    exact: list[dict[str, float]] | None = None

    def order(self, number: int) -> list[str]:
        """All ids of one query, best first."""
        return list(self.rankings[number]) if self.orders is None else self.orders[number]


def hits_of(stages: Sequence[Stage], number: int, k: int) -> list[Hit]:
    """One query's hits after all stages.

    Args:
        stages: in their order, at least one.
        number: which query.
        k: how many hits at most.

    Returns:
        The hits, best first.

    Example:
        >>> stages = [Stage("dense", [{"a": 0.5, "b": 0.4}], 0.01), Stage("reranked", [{"b": 2.0}], 0.1, [["b", "a"]])]
        >>> [(hit.id, hit.stage, hit.score, hit.ranks) for hit in hits_of(stages, 0, 2)]
        [('b', 'reranked', 2.0, {'dense': 2, 'reranked': 1}), ('a', 'dense', 0.5, {'dense': 1})]
    """
    wanted = dict.fromkeys(stages[-1].order(number)[:k])
    ranks: dict[str, dict[str, int]] = {id: {} for id in wanted}
    scores: dict[str, dict[str, float]] = {id: {} for id in wanted}
    for stage in stages:
        for rank, (id, score) in enumerate(stage.rankings[number].items(), 1):
            if id in wanted:
                ranks[id][stage.name] = rank
                scores[id][stage.name] = score
    hits = []
    for id in wanted:
        placed = list(ranks[id])[-1]
        score = scores[id][placed]
        for stage in stages:
            if stage.exact is not None and id in stage.exact[number]:
                scores[id]["exact"] = stage.exact[number][id]
        hits.append(Hit(id, score, placed, ranks[id], scores[id]))
    return hits
