"""What a store is sent: attributes of the right rows, as JSON holds them; and columns that are refused."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from mmembed.bridges.store_rows import StoreRows
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from tests.bridges import store_examples as examples


def test_each_vector_has_the_attributes_of_its_item() -> None:
    found, table = examples.embeddings(), examples.items()
    rows = StoreRows(found, table)
    batches = list(rows.batches(7))
    assert [len(batch.ids) for batch in batches] == [7] * 8 + [4]
    assert [id for batch in batches for id in batch.ids] == found.ids
    assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), np.asarray(found.vectors))
    by_id = {row["id"]: row for row in table}
    for batch in batches:
        for id, attributes in zip(batch.ids, batch.attributes):
            wanted = {name: value for name, value in by_id[id].items() if name not in ("id", "image")}
            assert attributes == wanted and json.dumps(attributes, allow_nan=False)
    assert next(StoreRows(found).batches(2)).attributes == [{}, {}]
    assert [set(one) for one in next(StoreRows(found, table, ["price"]).batches(1)).attributes] == [{"price"}]


def test_values_become_plain() -> None:
    features = Features(
        {
            "id": Value("string"),
            "image": Image(decode=False),
            "kind": ClassLabel(names=["mug", "hat"]),
            "when": Value("timestamp[s]"),
            "price": Value("float32"),
            "size": Value("uint8"),
            "raw": Value("binary"),
        }
    )
    data = {
        "id": ["a"], "image": [{"bytes": b"x", "path": None}], "kind": [1], "when": [datetime.datetime(2026, 1, 2)],
        "price": [float("nan")], "size": [3], "raw": [b"x"],
    }  # fmt: skip
    rows = StoreRows(Embeddings(["a"], np.ones((1, 1), np.float32)), Dataset.from_dict(data, features=features))
    assert next(rows.batches(1)).attributes == [{"kind": "hat", "price": None, "size": 3}]
    assert {field.name: field.type for field in rows.schema} == {
        "kind": pa.string(), "price": pa.float64(), "size": pa.int64()
    }  # fmt: skip


def test_what_cannot_be_sent_is_told() -> None:
    one = Embeddings(["a"], np.ones((1, 1), np.float32))
    for table, columns, message in [
        ({"id": ["b"], "text": ["x"]}, None, "1 ids of the embeddings have no item, such as 'a'"),
        ({"id": ["a"], "vector": ["x"]}, None, "field 'vector': a vector store has its own field of this name"),
        ({"id": ["a"], "a.b": ["x"]}, None, "field 'a.b': a vector store gives a meaning to each of"),
        ({"id": ["a"], "a`b": ["x"]}, None, "field 'a`b': a vector store gives a meaning"),
        ({"id": ["a"], "colour": ["x"]}, ["color"], "field 'color': no such column to send; did you mean 'colour'"),
        ({"id": ["a"], "text_parts": [[{"text": "x", "weight": 1.0}]], "c": ["x"]}, ["text_parts"], "text_parts"),
    ]:
        with pytest.raises(DataError, match=message):
            StoreRows(one, Dataset.from_dict(table), columns)
    with pytest.raises(ValueError, match="columns=.* are of items"):
        StoreRows(one, None, ["price"])
    with pytest.raises(ValueError, match="batch_size=0"):
        next(StoreRows(one).batches(0))
