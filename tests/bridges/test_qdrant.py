"""Qdrant's embedded modes: found is what an exact search finds, with every condition, and written twice is written once."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from mmembed.bridges.qdrant import point_id, search_qdrant, write_qdrant
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.filters import FilterError
from tests.bridges import store_examples as examples

qdrant_client = pytest.importorskip("qdrant_client")
QUIET = {"show_progress_bar": False}


@pytest.fixture(scope="module")
def client():
    client = qdrant_client.QdrantClient(":memory:")
    assert write_qdrant(examples.embeddings(), client, "mugs", items=examples.items(), batch_size=7, **QUIET) == 60
    yield client
    client.close()


@pytest.mark.parametrize("filters", examples.CONDITIONS, ids=lambda filters: json.dumps(filters, ensure_ascii=True))
def test_what_is_found_is_what_an_exact_search_finds(client, filters) -> None:
    wanted = examples.exact(examples.embeddings(), examples.queries(), 10, filters)
    assert wanted[0], "a condition that nothing meets shows nothing"
    examples.assert_same(search_qdrant(client, "mugs", examples.queries(), 10, filters=filters), wanted)


def test_a_folder_is_written_closed_and_searched_again(tmp_path: Path) -> None:
    found = examples.embeddings()
    client = qdrant_client.QdrantClient(path=str(tmp_path / "store"))
    write_qdrant(found, client, "mugs", items=examples.items(), columns=["colour"], **QUIET)
    client.close()
    client = qdrant_client.QdrantClient(path=str(tmp_path / "store"))
    examples.assert_same(
        search_qdrant(client, "mugs", examples.queries(70), 10, filters={"colour": "red"}),
        examples.exact(found, examples.queries(70), 10, {"colour": "red"}),
    )
    point = client.retrieve("mugs", [point_id(found.ids[0])], with_payload=True)[0]
    assert point.payload["id"] == found.ids[0] and set(point.payload) == {"id", "colour"}
    client.close()


def test_writing_again_replaces_and_going_on_leaves_what_is_there() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    first, second = examples.embeddings(0), examples.embeddings(3)
    write_qdrant(first, client, "mugs", **QUIET)
    write_qdrant(first, client, "mugs", **QUIET)
    assert client.count("mugs").count == 60
    some = Embeddings(second.ids[:20], np.asarray(second.vectors[:20]))
    write_qdrant(some, client, "mugs", **QUIET)
    both = Embeddings(first.ids, np.concatenate([second.vectors[:20], first.vectors[20:]]))
    examples.assert_same(
        search_qdrant(client, "mugs", examples.queries(), 10), examples.exact(both, examples.queries(), 10)
    )
    # an interrupted run: some are there, the others are written
    again = qdrant_client.QdrantClient(":memory:")
    write_qdrant(some, again, "mugs", **QUIET)
    assert write_qdrant(second, again, "mugs", resume=True, batch_size=16, **QUIET) == 40
    examples.assert_same(
        search_qdrant(again, "mugs", examples.queries(), 10), examples.exact(second, examples.queries(), 10)
    )


def test_halves_and_zeros_are_taken() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    vectors = np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float16)
    write_qdrant(Embeddings(["a", "b", "c"], vectors), client, "mugs", **QUIET)
    assert search_qdrant(client, "mugs", np.array([[2.0, 0.0]]), 3)[0] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert search_qdrant(client, "mugs", np.zeros((0, 2)), 3) == []


def test_what_does_not_fit_is_told(client) -> None:
    other = Embeddings(["a"], np.eye(3, dtype=np.float32)[:1])
    with pytest.raises(DataError, match="mugs: the collection holds vectors of 8 numbers, and these have 3"):
        write_qdrant(other, client, "mugs", **QUIET)
    with pytest.raises(DataError, match="there is no such collection"):
        search_qdrant(client, "hats", examples.queries())
    with pytest.raises(DataError, match=r"expected floats \(q, 8\)"):
        search_qdrant(client, "mugs", np.eye(3))
    with pytest.raises(DataError, match="row 1: a query with NaN"):
        search_qdrant(client, "mugs", np.array([[1.0] * 8, [np.nan] * 8]))
    with pytest.raises(ValueError, match="k=0"):
        search_qdrant(client, "mugs", examples.queries(), 0)
    for filters, message in [
        ({"color": "red"}, "no column 'color' to filter by; did you mean 'colour'"),
        ({"price": (1, 2, 3)}, "a range has two ends"),
        ({"price": (3, 1)}, "begins above its end"),
        ({"price": ("a", None)}, "a range is of numbers"),
        ({"colour": object()}, "a condition is a text"),
        (["colour"], "give conditions by column"),
    ]:
        with pytest.raises(FilterError, match=message):
            search_qdrant(client, "mugs", examples.queries(), filters=filters)
    client.create_collection(
        "euclid",
        vectors_config=qdrant_client.models.VectorParams(size=8, distance=qdrant_client.models.Distance.EUCLID),
    )
    with pytest.raises(DataError, match="another distance than Dot or Cosine"):
        write_qdrant(examples.embeddings(), client, "euclid", **QUIET)


def test_an_id_has_one_uuid() -> None:
    assert uuid.UUID(point_id("a")).version == 5 and point_id("a") == point_id("a") != point_id("b")
    assert len({point_id(id) for id in examples.embeddings().ids}) == 60
