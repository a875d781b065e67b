"""Samplers: what is shown, in which order, under which seed, from which window."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.interactive.candidates import cluster_candidates, interval_candidates, random_candidates, top_candidates

IDS = [f"c{number:02}" for number in range(50)]
EVEN = np.full(50, 0.02)


def clustered(seed: int = 0) -> Embeddings:
    """Five clusters of ten, in turn along the ranks."""
    generator = np.random.default_rng(seed)
    centres = np.eye(5, 8)
    vectors = centres[np.arange(50) % 5] + 0.15 * generator.standard_normal((50, 8))
    return Embeddings(IDS, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


def test_windows() -> None:
    assert top_candidates(3)(IDS, EVEN, 0) == IDS[:3]
    assert top_candidates(10, start=40)(IDS, EVEN, 0) == IDS[40:]  # ranks 41 to 50
    assert interval_candidates(5)(IDS, EVEN, 0) == IDS[::10]
    assert interval_candidates(5, start=40)(IDS, EVEN, 0) == IDS[40::2]
    assert set(random_candidates(4, start=10, stop=20)(IDS, EVEN, 1)) <= set(IDS[10:20])
    assert top_candidates(9)(IDS[:2], EVEN[:2], 0) == interval_candidates(9)(IDS[:2], EVEN[:2], 0) == IDS[:2]
    for sampler in (
        top_candidates(0),
        interval_candidates(0),
        random_candidates(0),
        cluster_candidates(clustered(), 2),
    ):
        assert sampler([], EVEN[:0], 0) == []


def test_draws_are_those_of_the_seed_and_fair() -> None:
    sampler = random_candidates(5)
    assert sampler(IDS, EVEN, 7) == sampler(IDS, EVEN, 7) != sampler(IDS, EVEN, 8)
    counts = np.zeros(50)
    for seed in range(2000):
        counts[[IDS.index(id) for id in sampler(IDS, EVEN, seed)]] += 1
    assert abs(counts - 200).max() < 60


@pytest.mark.parametrize("member", ["medoid", "lowest_entropy"])
def test_one_of_each_cluster(member: str) -> None:
    shown = cluster_candidates(clustered(), 5, member=member)(IDS, EVEN, 0)
    assert sorted(int(id[1:]) % 5 for id in shown) == [0, 1, 2, 3, 4]
    assert shown == sorted(shown)  # in the pool's order
    assert shown == cluster_candidates(clustered(), 5, member=member)(IDS, EVEN, 0)
    window = cluster_candidates(clustered(), 5, member=member, start=40)(IDS, EVEN, 0)
    assert set(window) <= set(IDS[40:]) and len(window) == 5


def test_medoids_are_the_nearest_to_all_of_their_cluster() -> None:
    embeddings = clustered(3)
    vectors = np.asarray(embeddings.vectors, dtype=np.float64)
    for id in cluster_candidates(embeddings, 5)(IDS, EVEN, 0):
        row = int(id[1:])
        members = np.arange(50)[np.arange(50) % 5 == row % 5]
        by_hand = members[np.argmax([sum(vectors[a] @ vectors[b] for b in members) for a in members])]
        assert row == by_hand


def test_lowest_entropy_is_that_of_the_softmax_over_the_others() -> None:
    embeddings = clustered(4)
    vectors = np.asarray(embeddings.vectors, dtype=np.float64)

    def entropy(row: int) -> float:
        weights = np.exp([vectors[row] @ vectors[other] / 0.1 for other in range(50) if other != row])
        shares = weights / weights.sum()
        return -float((shares * np.log(shares)).sum())

    for id in cluster_candidates(embeddings, 5, member="lowest_entropy", temperature=0.1)(IDS, EVEN, 0):
        row = int(id[1:])
        assert entropy(row) == pytest.approx(min(entropy(other) for other in range(50) if other % 5 == row % 5))


def test_equal_vectors_are_one_cluster() -> None:
    same = Embeddings(IDS, np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (50, 1)))
    assert cluster_candidates(same, 5)(IDS, EVEN, 0) == ["c00"]
    assert cluster_candidates(same, 5, member="lowest_entropy")(IDS[:1], EVEN[:1], 0) == ["c00"]


def test_options_out_of_range() -> None:
    for build in (
        lambda: top_candidates(-1),
        lambda: interval_candidates(3, start=5, stop=5),
        lambda: random_candidates(1, start=-1),
    ):
        with pytest.raises(ValueError):
            build()
    for arguments in ({"member": "mean"}, {"temperature": 0.0}):
        with pytest.raises(ValueError):
            cluster_candidates(clustered(), 3, **arguments)
