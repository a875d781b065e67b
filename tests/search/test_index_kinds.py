"""The structures of an index: whole under hard filters, the same after relabelling, and what they learn from."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.search import index_kinds
from mmembed.search.index import Index
from mmembed.search.index_kinds import inverted_ids

faiss = pytest.importorskip("faiss")


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = unit(2000, 16, 0)
IDS = [f"{row:04d}" for row in range(2000)]
EMBEDDINGS = Embeddings(IDS, VECTORS)
KINDS = ("flat", "ivf", "hnsw", "pq", "ivf_pq", "binary")


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_of_one_side_leaves_k_and_finds_its_best(kind: str, monkeypatch) -> None:
    """All that is allowed lies far from the query, where no list or neighbour of it leads."""
    index = Index.build(EMBEDDINGS, kind=kind)
    for query in unit(6, 16, 1):
        allowed = [IDS[row] for row in np.argsort(VECTORS @ query)[:60]]
        one_by_one = index.search(query[None], 12, allowed=allowed)[0]
        with monkeypatch.context() as patched:
            patched.setattr(index_kinds.Among, "few", 0)
            found = index.search(query[None], 12, allowed=allowed)[0]
        assert len(found) == len(one_by_one) == 12 and set(found) <= set(allowed)
        if kind in ("flat", "pq", "binary", "hnsw"):
            assert found == one_by_one
        else:
            assert len(set(found) & set(one_by_one)) >= 4


@pytest.mark.parametrize("kind", ["ivf", "ivf_pq"])
def test_lists_hold_each_row_once_through_changes(kind: str) -> None:
    index = Index.build(EMBEDDINGS, kind=kind)
    gone = np.random.default_rng(2).choice(2000, 777, replace=False)
    index.remove([IDS[row] for row in gone])
    index.add(["x", "y"], VECTORS[:2])
    structure = index._parts.structure
    rows = np.sort(np.concatenate(inverted_ids(structure.index)))
    assert np.array_equal(rows, np.arange(2000 - 777 + 2))
    if kind == "ivf":
        left = np.delete(VECTORS, gone, axis=0)
        assert np.array_equal(structure.block(0, 9999), np.concatenate([left, VECTORS[:2]]))


def test_what_is_learnt_from_is_bounded_and_lies_among_all(monkeypatch) -> None:
    taken = []

    class Rows:
        dim = 16

        def __len__(self) -> int:
            return 10**6

        def take(self, rows: np.ndarray) -> np.ndarray:
            taken.append(rows)
            return rows

    monkeypatch.setattr(index_kinds, "_SAMPLE_FLOATS", 16 * 70_000)
    index_kinds._sample(Rows(), 4000)
    assert len(taken[0]) == 160_000 and (taken[0][0], taken[0][-1]) == (0, 999_999)
    assert np.all(np.diff(taken[0]) >= 6)
    index_kinds._sample(Rows(), 256)
    assert len(taken[1]) == 65_536


@pytest.mark.parametrize("kind", KINDS)
def test_several_threads_search_at_once(kind: str) -> None:
    index = Index.build(EMBEDDINGS, kind=kind)
    queries = unit(40, 16, 3)
    expected = [index.search(query[None], 5)[0] for query in queries]
    found: dict[int, list] = {}

    def run(number: int) -> None:
        allowed = IDS[:1000] if number % 2 else None
        found[number] = [index.search(query[None], 5, allowed=allowed)[0] for query in queries]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[2] == expected and found[1] == found[3]


def test_size_is_what_is_written(tmp_path) -> None:
    for kind in KINDS:
        index = Index.build(EMBEDDINGS, kind=kind)
        index.save(tmp_path / kind)
        size = (tmp_path / kind / "index.faiss").stat().st_size
        assert index.bytes_per_vector() == (size / 2000, 0.0)
