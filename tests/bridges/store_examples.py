"""A small table with every kind of attribute, conditions on it, and the exact search that every store is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from mmembed.embeddings import Embeddings
from mmembed.search.filters import allowed_ids

COUNT, DIM = 60, 8
COLOURS = ["red", "blue", 'О\'Нил "зелёный"', None]
CONDITIONS: list[dict[str, Any]] = [
    {},
    {"colour": "red"},
    {"colour": ["red", "blue"], "new": True},
    {"colour": 'О\'Нил "зелёный"'},
    {"price": (10, 30)},
    {"price": (None, 12.5)},
    {"price": (40, None), "new": False},
    {"price": 7},
    {"price": [7.0, 8]},
    {"stock": 3},
    {"stock": (2, 3)},
    {"tags": "sale"},
    {"tags": ["sale", "x'; DROP TABLE mugs; --"]},
    {"made.country": "中国"},
    {"made.year": (2001, None)},
    {"price": None},
    {"colour": None},
    {"new": False},
]


def items() -> Dataset:
    rows = range(COUNT)
    return Dataset.from_dict(
        {
            "id": [f"id {row}/ж" for row in rows],
            "text": [f"mug number {row}" for row in rows],
            "image": [None] * COUNT,
            "colour": [COLOURS[row % 4] for row in rows],
            "price": [float(row) if row % 5 else None for row in rows],
            "stock": [row % 7 for row in rows],
            "new": [row % 3 == 0 for row in rows],
            "tags": [(["sale", "x'; DROP TABLE mugs; --"][: row % 3] or ["none"]) for row in rows],
            "made": [{"country": ["中国", "Italia"][row % 2], "year": 2000 + row % 3} for row in rows],
        }
    )


def embeddings(seed: int = 0) -> Embeddings:
    vectors = np.random.default_rng(seed).standard_normal((COUNT, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(1).permutation(COUNT)  # in another order than the items
    return Embeddings([items()["id"][row] for row in order.tolist()], vectors)


def queries(count: int = 5) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((count, DIM))  # of any length


def exact(
    found: Embeddings, vectors: np.ndarray, k: int, filters: dict[str, Any] | None = None
) -> list[dict[str, float]]:
    """The best by brute force among the ids that `allowed_ids` allows."""
    allowed = set(allowed_ids(items(), filters or {}))
    rows = [row for row, id in enumerate(found.ids) if id in allowed]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ np.asarray(found.vectors, np.float64)[rows].T
    best = [np.argsort(-row)[:k] for row in scores]
    return [{found.ids[rows[at]]: float(scores[query, at]) for at in some} for query, some in enumerate(best)]


def assert_same(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    assert [list(one) for one in found] == [list(one) for one in wanted]
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5)
