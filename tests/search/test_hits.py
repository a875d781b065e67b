"""Hits of one query from the rankings of its stages."""

from __future__ import annotations

from mmembed.search.hits import Stage, hits_of

STAGES = [
    Stage("lexical", [{"a": 9.0, "b": 8.0}, {}], 0.0),
    Stage("dense", [{"b": 0.5, "c": 0.4}, {"c": 0.1}], 0.0),
    Stage("fused", [{"b": 2.0, "a": 1.0, "c": 0.5}, {"c": 1.0}], 0.0),
    Stage(
        "rescored",
        [{"b": 2.0, "c": 1.5, "a": 1.0}, {"c": 1.0}],
        0.0,
        exact=[{"a": 0.1, "b": 0.52, "c": 0.41}, {"c": 0.2}],
    ),
    Stage("reranked", [{"c": -1.0, "b": -3.0}, {}], 0.0, [["c", "b", "a"], ["c"]]),
]


def test_a_hit_tells_every_stage_that_scored_it() -> None:
    first, second, third = hits_of(STAGES, 0, 10)
    assert (first.id, first.score, first.stage) == ("c", -1.0, "reranked")
    assert first.ranks == {"dense": 2, "fused": 3, "rescored": 2, "reranked": 1}
    assert first.scores == {"dense": 0.4, "fused": 0.5, "rescored": 1.5, "reranked": -1.0, "exact": 0.41}
    assert second.id == "b" and second.ranks["lexical"] == 2
    assert (third.id, third.stage, third.score) == ("a", "rescored", 1.0) and "reranked" not in third.ranks


def test_k_cuts_and_nothing_is_nothing() -> None:
    assert [hit.id for hit in hits_of(STAGES, 0, 1)] == ["c"] and hits_of(STAGES, 0, 0) == []
    assert hits_of([Stage("dense", [{}], 0.0)], 0, 5) == []
    assert [(hit.id, hit.stage) for hit in hits_of(STAGES, 1, 5)] == [("c", "rescored")]
