"""The best in their order: brute force, with ties, duplicates, filters, and a searcher that is wrong in the last bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.search import nearest, ranked_search, threshold_search
from mmembed.search.nearest import SCORE_ERROR, ExactSearch
from mmembed.search.ranked_search import exact_search, ranked
from mmembed.search.vectors import VectorRows

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "exact_search.py"


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES = unit(37, 12, 0)
DOCUMENTS = np.concatenate([unit(150, 12, 1), np.repeat(unit(5, 12, 2), 30, axis=0)])[
    np.random.default_rng(3).permutation(300)
]


@pytest.fixture(params=["whole", "blocks"], autouse=True)
def blocks(request, monkeypatch) -> None:
    if request.param == "blocks":
        for module in (nearest, threshold_search):
            monkeypatch.setattr(module, "_FLOATS_A_BLOCK", 12 * 9)
            monkeypatch.setattr(module, "_SCORES_A_BLOCK", 9 * 5)
        monkeypatch.setattr(ranked_search, "CANDIDATES_AT_ONCE", 100)
        monkeypatch.setattr(nearest, "_FEW_PAIRS", 0)


def truth(
    queries: np.ndarray, documents: np.ndarray, place: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.where(allowed, (queries.astype(np.float64) @ documents.T.astype(np.float64)), -np.inf).astype(
        np.float32
    )
    order = np.lexsort((np.broadcast_to(place, scores.shape), -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("k", [1, 7, 40, 300, 500])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("use_faiss", [False, True])
def test_the_best_stand_first_and_equal_ones_in_their_order(k: int, share: float, use_faiss: bool) -> None:
    allowed = np.random.default_rng(2).random(300) < share
    scores, rows = exact_search(QUERIES, DOCUMENTS, k, allowed=allowed, use_faiss=use_faiss)
    expected_scores, expected = truth(QUERIES, DOCUMENTS, np.arange(300), allowed)
    kept = min(k, int(allowed.sum()))
    assert scores.shape == rows.shape == (37, k)
    assert np.array_equal(rows[:, :kept], expected[:, :kept]) and np.array_equal(
        scores[:, :kept], expected_scores[:, :kept]
    )
    assert (rows[:, kept:] == -1).all() and np.isneginf(scores[:, kept:]).all()


class Rounding:
    """An exact search whose scores are off by as much as is allowed, and which prefers what lies late."""

    def __init__(self, documents: np.ndarray) -> None:
        self.documents = documents
        self.depths: list[int] = []

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.depths.append(k)
        error = np.random.default_rng(0).uniform(-1, 1, len(self.documents)) * 0.9 * SCORE_ERROR
        scores = queries.astype(np.float64) @ self.documents.T.astype(np.float64) + error
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows = rows[:, ::-1]
        return np.take_along_axis(scores, rows, axis=1).astype(np.float32), rows


@pytest.mark.parametrize("k", [1, 7, 40])
def test_a_searcher_that_rounds_loses_nothing(k: int) -> None:
    near = (DOCUMENTS.astype(np.float64) + 1e-7 * np.random.default_rng(5).normal(size=DOCUMENTS.shape)).astype(
        np.float32
    )
    place = np.random.default_rng(6).permutation(300)
    searcher = Rounding(near)
    scores, rows = ranked(QUERIES, k, searcher, VectorRows([near]), count=300, place=place)
    expected_scores, expected = truth(QUERIES, near, place, np.ones(300, bool))
    assert np.array_equal(rows, expected[:, :k]) and np.array_equal(scores, expected_scores[:, :k])
    assert searcher.depths[0] == k + 8 and len(searcher.depths) == 2  # thirty of nearly one score ask for more


def test_a_second_search_is_seldom() -> None:
    documents = unit(4000, 12, 8)
    searcher = Rounding(documents)
    ranked(QUERIES, 10, searcher, VectorRows([documents]), count=4000)
    assert searcher.depths == [18]


def test_all_documents_are_one() -> None:
    documents = np.repeat(QUERIES[:1], 300, axis=0)
    scores, rows = exact_search(QUERIES, documents, 5)
    assert (rows == np.arange(5)).all()
    place = np.arange(300)[::-1].copy()
    _, rows = ranked(QUERIES, 5, ExactSearch(VectorRows([documents])), VectorRows([documents]), count=300, place=place)
    assert (rows == 299 - np.arange(5)).all()


def test_wrong_arguments() -> None:
    for queries, k in ((QUERIES, 0), (QUERIES[0], 3), (QUERIES[:, :5], 3)):
        with pytest.raises(ValueError, match="give k of at least 1"):
            exact_search(queries, DOCUMENTS, k)
    assert exact_search(QUERIES[:0], DOCUMENTS, 3)[1].shape == (0, 3)
    assert (exact_search(QUERIES, Embeddings([], DOCUMENTS[:0]), 3)[1] == -1).all()


@pytest.mark.parametrize("search", ["top_k", "threshold"])
def test_a_fiftieth_of_sixteen_thousand_by_two_and_a_half_million_in_bounded_memory(
    blocks, search: str, tmp_path, request
) -> None:
    """In a process of its own, over mapped float16; the whole of it is a benchmark."""
    if request.node.callspec.params["blocks"] == "blocks":
        pytest.skip("once is enough")
    queries, documents = 16_000, 50_000
    words = [
        sys.executable,
        str(BENCHMARK),
        "--dim=64",
        f"--documents={documents}",
        f"--queries={queries}",
        "--threshold=0.48",
    ]
    words += ["--folder", str(tmp_path / "documents"), "--child"]
    subprocess.run([*words, "documents"], check=True, capture_output=True)
    done = subprocess.run([*words, search], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["right"] == 1 and found["found"] > 10_000
    # libraries, ids and queries are there before; a matrix of all scores would be 3 GB
    assert found["peak_mib"] < 400 and found["peak_mib"] - found["before_mib"] < 150
