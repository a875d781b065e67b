"""Which pairs a pair scorer gets to see, and what becomes of queries that it cannot read."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mmembed.data.schema import DataError
from mmembed.search.queries import Query
from mmembed.search.rerank_stage import rerank_candidates

IDS = ["a", "b", "c"]
ITEMS = Dataset.from_dict({"id": IDS, "text": ["one", "three", "seventeen"]})


class Longest:
    def __init__(self) -> None:
        self.seen: list = []

    def predict(self, pairs, **options):
        self.seen.append((pairs, options))
        return np.array([float(len(document)) for _, document in pairs])


def rows(ids):
    return [IDS.index(id) for id in ids]


def test_candidates_are_scored_and_sorted() -> None:
    model = Longest()
    queries = [Query("q"), Query(image=Image.new("RGB", (2, 2))), Query("r")]
    found = rerank_candidates(model, queries, [["a", "c"], ["a"], []], ITEMS, rows, prompt="find: ", batch_size=7)  # type: ignore[arg-type]
    assert found == [{"c": 9.0, "a": 3.0}, {}, {}]
    ((pairs, options),) = model.seen
    assert pairs == [("q", "one"), ("q", "seventeen")]
    assert options["prompt"] == "find: " and options["batch_size"] == 7


def test_nothing_to_read_asks_nothing() -> None:
    model = Longest()
    assert rerank_candidates(model, [Query("q")], [[]], ITEMS, rows) == [{}] and model.seen == []  # type: ignore[arg-type]
    assert rerank_candidates(model, [], [], ITEMS, rows) == []  # type: ignore[arg-type]


def test_a_document_that_lacks_what_is_read_is_named() -> None:
    with pytest.raises(DataError, match="item 'a' has no image"):
        rerank_candidates(Longest(), [Query("q")], [["a"]], ITEMS, rows, use="image", query_use="text")  # type: ignore[arg-type]
