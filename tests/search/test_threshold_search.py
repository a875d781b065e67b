"""All pairs that score enough: brute force, block by block, at the very border, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.search import nearest, threshold_search
from mmembed.search.threshold_search import Hits
from mmembed.search.threshold_search import threshold_search as search


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES, DOCUMENTS = unit(37, 12, 0), unit(205, 12, 1)
TRUTH = (QUERIES.astype(np.float64) @ DOCUMENTS.T.astype(np.float64)).astype(np.float32)


def joined(blocks: list[Hits]) -> Hits:
    return (
        Hits(*(np.concatenate(parts) for parts in zip(*blocks))) if blocks else Hits(*(np.zeros(0) for _ in range(3)))
    )


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch) -> bool:
    if request.param == "blocks":
        monkeypatch.setattr(threshold_search, "_FLOATS_A_BLOCK", 12 * 9)
        monkeypatch.setattr(threshold_search, "_SCORES_A_BLOCK", 9 * 5)
        monkeypatch.setattr(nearest, "_PAIRS_AT_ONCE", 12 * 7)
    return request.param == "blocks"


@pytest.mark.parametrize("threshold", [-1.5, 0.0, 0.3, 0.9, 1.5])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_every_pair_that_reaches_it_is_found_once(blocks: bool, threshold: float, share: float) -> None:
    allowed = np.random.default_rng(2).random(205) < share
    found = list(search(QUERIES, DOCUMENTS, threshold, allowed=None if share == 1 else allowed))
    assert all(len(one.scores) for one in found)
    assert len(found) > 100 or not (blocks and threshold < -1 and share == 1)
    hits = joined(found)
    expected = np.argwhere((np.float32(threshold) <= TRUTH) & (allowed if share < 1 else True))
    assert len(hits.scores) == len(expected)
    order = np.lexsort((hits.documents, hits.queries))
    assert np.array_equal(np.stack([hits.queries[order], hits.documents[order]], axis=1), expected)
    assert np.allclose(hits.scores, TRUTH[hits.queries.astype(int), hits.documents.astype(int)], atol=1e-7)


def test_a_score_on_the_border_is_in_and_the_next_below_is_not(blocks: bool) -> None:
    for query, document in ((0, 3), (5, 100), (36, 204)):
        score = TRUTH[query, document]
        for threshold, inside in ((score, True), (np.nextafter(score, np.float32(2)), False)):
            hits = joined(list(search(QUERIES, DOCUMENTS, float(threshold))))
            pairs = set(zip(hits.queries.tolist(), hits.documents.tolist()))
            assert ((query, document) in pairs) is inside


def test_a_threshold_for_each_query_and_a_part_of_the_documents(blocks: bool) -> None:
    bounds = np.linspace(-0.5, 0.8, 37).astype(np.float32)
    hits = joined(list(search(QUERIES, DOCUMENTS, bounds, start=50, stop=120)))
    expected = np.argwhere(TRUTH[:, 50:120] >= bounds[:, None]) + [0, 50]
    assert sorted(zip(hits.queries.tolist(), hits.documents.tolist())) == expected.tolist() or len(expected) == len(
        hits.scores
    )
    assert {tuple(one) for one in expected.tolist()} == set(zip(hits.queries.tolist(), hits.documents.tolist()))


def test_mapped_and_sharded_and_half_precision_documents(tmp_path, blocks: bool) -> None:
    half = DOCUMENTS.astype(np.float16)
    half_truth = (QUERIES.astype(np.float64) @ half.T.astype(np.float64)).astype(np.float32)
    Embeddings([f"{row}" for row in range(205)], half).save(tmp_path / "vectors", shard_rows=50)
    hits = joined(list(search(QUERIES, Embeddings.load(tmp_path / "vectors"), 0.2)))
    assert set(zip(hits.queries.tolist(), hits.documents.tolist())) == {
        tuple(one) for one in np.argwhere(half_truth >= np.float32(0.2)).tolist()
    }


def test_nothing_to_compare() -> None:
    assert list(search(QUERIES[:0], DOCUMENTS, 0.1)) == list(search(QUERIES, DOCUMENTS[:0], 0.1)) == []
    with pytest.raises(ValueError, match=r"\(37, 12\) for documents of 5 dimensions"):
        list(search(QUERIES, DOCUMENTS[:, :5], 0.1))
    with pytest.raises(ValueError, match="threshold nan"):
        list(search(QUERIES, DOCUMENTS, float("nan")))
    with pytest.raises(ValueError, match="shape"):
        list(search(QUERIES, DOCUMENTS, np.zeros(5)))


def test_memory_is_bounded_however_many_pairs_there_are() -> None:
    """Every pair of 4,000 × 20,000 is a hit: 1.6 GB of them, of which no more than a block is held."""
    queries, documents = unit(4000, 4, 0), unit(20_000, 4, 1)
    tracemalloc.start()
    stream = search(queries, documents, -2)
    seen = sum(len(next(stream).scores) for _ in range(3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen > 10**7 and peak < 500 * 2**20
