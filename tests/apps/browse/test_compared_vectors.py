"""Several indexes of the same vectors give what brute force gives for each, and are told apart by what they keep."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.apps.browse.compared_vectors import ComparedVectors, indexes_of
from mmembed.embeddings import Embeddings

pytest.importorskip("faiss")
from mmembed.search.index import Index  # noqa: E402


@pytest.fixture(scope="module")
def vectors() -> Embeddings:
    rows = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
    return Embeddings([f"i{n}" for n in range(300)], rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_each_index_is_searched_and_the_chosen_one_answers(vectors) -> None:
    compared = ComparedVectors(indexes_of(None, vectors), "int8")
    assert list(compared.indexes) == ["float32", "int8", "binary"]
    query = vectors.vectors[7:8] + 0.1
    exact = np.argsort(-(vectors.vectors @ query[0]), kind="stable")[:10]
    results = compared.search(query, 10)
    told = {one.name: one for one in compared.told(10)}
    assert list(results[0]) == compared.found["int8"] and compared.found["float32"] == [f"i{n}" for n in exact]
    assert (told["float32"].same, told["float32"].of) == (10, 10)
    for name in ("int8", "binary"):
        assert told[name].same == len(set(compared.found[name]) & {f"i{n}" for n in exact}) >= 5
    assert told["float32"].memory_bytes == 4 * 32 and 32 <= told["int8"].memory_bytes < 34  # and its calibration
    assert all(one.seconds > 0 for one in told.values()) and compared.spent >= sum(compared.seconds.values())
    np.testing.assert_array_equal(compared.vectors(["i9", "i2"]), vectors.vectors[[9, 2]])
    few = compared.search(query, 10, allowed=["i3", "i4"])[0]
    assert set(few) == {"i3", "i4"} and [one.of for one in compared.told(10)] == [2, 2, 2]


def test_an_index_that_is_there_is_compressed_no_finer_than_it_is(vectors) -> None:
    hnsw, *others = indexes_of(Index.build(vectors, kind="hnsw"), None)
    assert hnsw.startswith("hnsw, 32 neighbours") and others == ["int8", "binary"]
    assert list(indexes_of(Index.build(vectors, kind="flat", precision="int8"), None)) == ["int8", "binary"]
    assert list(indexes_of(Index.build(vectors, kind="binary"), None)) == ["binary"]
    assert list(indexes_of(Index.build(vectors, kind="binary"), vectors, ["int8"])) == ["binary", "int8"]
    assert list(indexes_of(None, vectors, [])) == ["float32"] and indexes_of(None, None) == {}
