"""Exact search and exact scores against brute force in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.queries import unit_rows
from mmembed.search.query_expansion import Rocchio
from mmembed.search.vector_stage import ExactVectors, Feedback, exact_rankings

GENERATOR = np.random.default_rng(0)
VECTORS = unit_rows(GENERATOR.normal(size=(200, 16)))
VECTORS[50:60] = VECTORS[49]  # ties
IDS = [f"d{number:03d}" for number in GENERATOR.permutation(200)]
EMBEDDINGS = Embeddings(IDS, VECTORS)
QUERIES = np.concatenate([unit_rows(GENERATOR.normal(size=(5, 16))), VECTORS[49:50]])


def brute(query: np.ndarray, ids: list[str] | set[str], k: int) -> list[str]:
    scores = {id: np.float32(VECTORS[row].astype(np.float64) @ query.astype(np.float64)) for row, id in enumerate(IDS)}
    return sorted((id for id in IDS if id in ids), key=lambda id: (-scores[id], id))[:k]


@pytest.mark.parametrize("k", [1, 7, 200, 999])
@pytest.mark.parametrize("allowed", [None, set(IDS[40:70]), ["nobody"], []])
def test_the_nearest_with_ties_by_id(k: int, allowed) -> None:
    found = ExactVectors(EMBEDDINGS).search(QUERIES, k, allowed=allowed)
    for query, ranking in zip(QUERIES, found, strict=True):
        assert list(ranking) == brute(query, set(IDS) if allowed is None else set(allowed), k)


def test_a_tie_at_the_end_is_cut_in_the_order_of_ids() -> None:
    tied = sorted([IDS[row] for row in range(49, 60)])
    assert list(ExactVectors(EMBEDDINGS).search(VECTORS[49:50], 4)[0]) == tied[:4]


def test_half_precision_and_empty_vectors() -> None:
    half = Embeddings(IDS, VECTORS.astype(np.float16))
    found = ExactVectors(half).search(QUERIES[:1], 3)[0]
    scores = VECTORS.astype(np.float16).astype(np.float64) @ QUERIES[0].astype(np.float64)
    assert list(found.values()) == pytest.approx(sorted(scores, reverse=True)[:3], abs=1e-6)
    assert ExactVectors(Embeddings([], np.zeros((0, 16), np.float32))).search(QUERIES, 3) == [{}] * 6
    assert ExactVectors(EMBEDDINGS).search(QUERIES[:0], 3) == []


def test_exact_scores_of_candidates() -> None:
    candidates = [IDS[:5], [], IDS[49:60][::-1]]
    found = exact_rankings(EMBEDDINGS, QUERIES[[0, 1, 5]], candidates)
    assert list(found[0]) == brute(QUERIES[0], set(IDS[:5]), 5) and found[1] == {}
    assert list(found[2]) == sorted(IDS[49:60])
    for id, score in found[0].items():
        assert score == pytest.approx(float(VECTORS[IDS.index(id)] @ QUERIES[0]), abs=1e-6)
    with pytest.raises(DataError, match="no vector, such as 'x'"):
        exact_rankings(EMBEDDINGS, QUERIES[:1], [["x"]])


def test_feedback_takes_first_results_only_where_nothing_is_given() -> None:
    rankings = [{IDS[0]: 0.9, IDS[1]: 0.8, IDS[2]: 0.7}] * 2
    rocchio = Rocchio(documents=2)
    feedback = Feedback(rocchio, lambda ids: VECTORS[[IDS.index(id) for id in ids]], [[], [IDS[5]]], [[], []])
    moved = feedback.moved(QUERIES[:2], rankings)
    assert moved[0] == pytest.approx(rocchio.expand(QUERIES[0], VECTORS[:2]))
    assert moved[1] == pytest.approx(rocchio.expand(QUERIES[1], VECTORS[5:6]))
