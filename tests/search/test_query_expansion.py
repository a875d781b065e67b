"""Rocchio and RM3 against their formulas written out here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("bm25s")

from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import Rocchio, TermExpansion

IDS = ["a", "b", "c", "d"]
TEXTS = ["red skirt pleated", "red skirt long red", "blue dress pleated", "blue mug"]
INDEX = LexicalIndex.build(IDS, TEXTS)


def test_rocchio_is_its_formula() -> None:
    generator = np.random.default_rng(0)
    query, good, bad = generator.normal(size=8), generator.normal(size=(3, 8)), generator.normal(size=(2, 8))
    query = query / np.linalg.norm(query)
    moved = 2 * query + 0.5 * good.mean(axis=0) - 0.25 * bad.mean(axis=0)
    found = Rocchio(alpha=2, beta=0.5, gamma=0.25).expand(query, good, bad)
    assert found == pytest.approx(moved / np.linalg.norm(moved), abs=1e-6) and found.dtype == np.float32
    assert Rocchio().expand(query) == pytest.approx(query, abs=1e-6)
    assert Rocchio().expand(query, np.zeros((0, 8)), None) == pytest.approx(query, abs=1e-6)


def test_what_cancels_out_leaves_the_query() -> None:
    query = np.array([1.0, 0.0], dtype=np.float32)
    assert Rocchio(beta=1).expand(query, -query[None]).tolist() == [1, 0]


def test_terms_are_the_relevance_model() -> None:
    expansion = TermExpansion(terms=3, own_weight=0.6)
    found = expansion.expand(INDEX, "blue", [TEXTS[0], TEXTS[1]], [3.0, 1.0])
    model = {
        "red": 0.75 * 1 / 3 + 0.25 * 2 / 4,
        "skirt": 0.75 * 1 / 3 + 0.25 * 1 / 4,
        "pleated": 0.75 * 1 / 3,
        "long": 0.25 * 1 / 4,
    }
    best = {token: model[token] for token in ("red", "skirt", "pleated")}
    expected = {"blue": 0.6} | {token: 0.4 * weight / sum(best.values()) for token, weight in best.items()}
    assert found == pytest.approx(expected) and sum(found.values()) == pytest.approx(1)


def test_weighted_words_score_as_bm25_of_their_sum() -> None:
    weights = {"red": 2.0, "pleated": 0.5, "unknown": 9.0}
    expected = 2 * INDEX.scores("red") + 0.5 * INDEX.scores("pleated")
    assert INDEX.weighted_scores(weights) == pytest.approx(expected, rel=1e-6)
    assert INDEX.weighted_scores({"red": 2.0, "skirt": 1.0}) == pytest.approx(INDEX.scores("red red skirt"), rel=1e-6)
    hits = INDEX.search([weights, {}, {"unknown": 1.0}], k=10)
    assert [list(found) for found in hits] == [["b", "a", "c"], [], []]


def test_nothing_to_add_leaves_the_words_alone() -> None:
    expansion = TermExpansion()
    assert expansion.expand(INDEX, "red mug", []) == {"red": 0.5, "mug": 0.5}
    assert expansion.expand(INDEX, "red mug", ["", "…"]) == {"red": 0.5, "mug": 0.5}
    assert expansion.expand(INDEX, "…", ["red"]) == {"red": 0.5}


def test_an_allowed_set_bounds_words() -> None:
    assert list(INDEX.search(["red pleated"], allowed={"c", "d", "nobody"})[0]) == ["c"]
    assert INDEX.search(["red"], allowed=[]) == [{}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rocchio(documents=-1), "documents=-1"),
        (lambda: Rocchio(alpha=0), "alpha is above 0"),
        (lambda: Rocchio(beta=-0.1), "beta=-0.1"),
        (lambda: Rocchio(gamma=float("nan")), "gamma=nan"),
        (lambda: TermExpansion(terms=0), "terms=0"),
        (lambda: TermExpansion(own_weight=1.5), "own_weight=1.5"),
    ],
)
def test_numbers_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
