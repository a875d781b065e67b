"""A LanceDB table in a folder: found is what an exact search finds, with every condition, and written twice is written once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmembed.bridges.lancedb import search_lancedb, write_lancedb
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.filters import FilterError
from tests.bridges import store_examples as examples

lancedb = pytest.importorskip("lancedb")
pytest.importorskip("lancedb.index")
QUIET = {"show_progress_bar": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lance")
    assert write_lancedb(examples.embeddings(), folder, "mugs", items=examples.items(), batch_size=25, **QUIET) == 60
    return folder


@pytest.mark.parametrize("filters", examples.CONDITIONS, ids=lambda filters: json.dumps(filters, ensure_ascii=True))
def test_what_is_found_is_what_an_exact_search_finds(store: Path, filters) -> None:
    wanted = examples.exact(examples.embeddings(), examples.queries(), 10, filters)
    examples.assert_same(search_lancedb(store, "mugs", examples.queries(), 10, filters=filters), wanted)


def test_writing_again_replaces_and_keeps_one_row_an_id(tmp_path: Path) -> None:
    first, second = examples.embeddings(0), examples.embeddings(3)
    assert write_lancedb(first, tmp_path, "mugs", batch_size=16, **QUIET) == 60
    assert write_lancedb(first, tmp_path, "mugs", batch_size=11, **QUIET) == 60
    some = Embeddings(second.ids[:20], np.asarray(second.vectors[:20]))
    assert write_lancedb(some, lancedb.connect(tmp_path), "mugs", **QUIET) == 60
    both = Embeddings(first.ids, np.concatenate([second.vectors[:20], first.vectors[20:]]))
    examples.assert_same(
        search_lancedb(tmp_path, "mugs", examples.queries(), 10), examples.exact(both, examples.queries(), 10)
    )


def test_an_index_that_the_table_has_can_be_passed_over(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = Embeddings([str(row) for row in range(600)], vectors)
    write_lancedb(found, tmp_path, "mugs", **QUIET)
    table = lancedb.connect(tmp_path).open_table("mugs")
    table.create_index("vector", config=lancedb.index.IvfPq(distance_type="dot", num_partitions=4, num_sub_vectors=2))
    best = [[str(row) for row in np.argsort(-(vectors @ vector))[:10]] for vector in vectors[:3]]
    exact = search_lancedb(tmp_path, "mugs", vectors[:3], 10, exact=True)
    assert [list(one) for one in exact] == best
    assert [list(one) for one in search_lancedb(tmp_path, "mugs", vectors[:3], 10)] != best  # it is a coarse one


@pytest.mark.security
def test_a_text_in_a_condition_is_a_text(store: Path) -> None:
    everything = "x') OR 1 = 1 --"
    for filters in ({"colour": everything}, {"tags": everything}, {"colour": ["red' OR 'a' = 'a", "' OR ''='"]}):
        assert search_lancedb(store, "mugs", examples.queries(1), 10, filters=filters) == [{}]
    with pytest.raises(FilterError, match="no column 'price` > 0 OR `price'"):
        search_lancedb(store, "mugs", examples.queries(1), filters={"price` > 0 OR `price": 1})
    with pytest.raises(DataError, match="a vector store gives a meaning"):
        table = Dataset.from_dict({"id": ["a"], "a` OR `b": ["x"]})
        write_lancedb(Embeddings(["a"], np.ones((1, 1), np.float32)), store, "names", items=table, **QUIET)


def test_columns_of_any_name_and_halves_and_zeros(tmp_path: Path) -> None:
    table = Dataset.from_dict({"id": ["a", "b", "c"], "Base Colour": ["Red", "red", None], "цвет": ["к", "с", "к"]})
    vectors = np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float16)
    write_lancedb(Embeddings(["a", "b", "c"], vectors), tmp_path, "mugs", items=table, **QUIET)
    assert search_lancedb(tmp_path, "mugs", np.array([[2.0, 0.0]]), 3)[0] == {"a": 1.0, "b": 0.0, "c": 0.0}
    found = search_lancedb(tmp_path, "mugs", np.array([[2.0, 0.0]]), filters={"Base Colour": "Red", "цвет": ["к", "с"]})
    assert found == [{"a": 1.0}]


def test_what_does_not_fit_is_told(store: Path) -> None:
    with pytest.raises(DataError, match="the table holds vectors of 8 numbers, and these have 3"):
        write_lancedb(Embeddings(["a"], np.eye(3, dtype=np.float32)[:1]), store, "mugs", **QUIET)
    with pytest.raises(DataError, match="the table has the columns id .*; give another table, or choose columns"):
        write_lancedb(examples.embeddings(), store, "mugs", **QUIET)
    with pytest.raises(DataError, match="there is no such table"):
        search_lancedb(store, "hats", examples.queries())
    for filters, message in [
        ({"color": "red"}, "did you mean 'colour'"),
        ({"colour": (1, 2)}, "colour: a range on a column of string; ranges are of numbers"),
        ({"price": "7"}, "price: found '7', the column holds double"),
        ({"new": 1}, "new: found 1, the column holds bool"),
        ({"stock": True}, "stock: found True, the column holds int64"),
    ]:
        with pytest.raises(FilterError, match=message):
            search_lancedb(store, "mugs", examples.queries(), filters=filters)
