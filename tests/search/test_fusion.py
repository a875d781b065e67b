"""Fusion against hand-computed scores, and against scikit-learn's and scipy's normalisation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmembed.search.fusion import FittedOn, Fusion, best_first, reciprocal_rank_fusion

WORDS = {"a": 9.0, "b": 5.0, "c": 1.0}
VECTORS = {"c": 0.9, "d": 0.7, "a": 0.2}


def test_reciprocal_ranks_by_hand() -> None:
    fused = Fusion().fuse({"words": WORDS, "vectors": VECTORS})
    expected = {"a": 1 / 61 + 1 / 63, "c": 1 / 63 + 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert fused == pytest.approx(expected) and list(fused) == ["a", "c", "b", "d"]  # ties by id
    weighted = Fusion("rrf", {"words": 2, "vectors": 1}, k=0).fuse({"words": WORDS, "vectors": VECTORS})
    assert weighted == pytest.approx({"a": 2 + 1 / 3, "b": 1, "c": 2 / 3 + 1, "d": 1 / 2})


def test_min_max_by_hand() -> None:
    fused = Fusion("min_max", {"words": 0.25, "vectors": 0.75}).fuse({"words": WORDS, "vectors": VECTORS})
    assert fused == pytest.approx({"c": 0.75, "d": 0.75 * 5 / 7, "a": 0.25, "b": 0.125})


def test_z_scores_by_hand() -> None:
    fused = Fusion("z_score").fuse({"words": WORDS, "vectors": VECTORS})
    words = {id: (score - 5) / math.sqrt(32 / 3) for id, score in WORDS.items()}
    deviation = math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 3)
    vectors = {id: (score - 0.6) / deviation for id, score in VECTORS.items()}
    expected = {id: words.get(id, words["c"]) + vectors.get(id, vectors["a"]) for id in "abcd"}
    assert fused == pytest.approx(expected)


def test_a_ranking_of_weight_0_adds_nothing() -> None:
    for method in ("rrf", "min_max", "z_score"):
        alone = Fusion(method, {"words": 0}).fuse({"words": WORDS, "vectors": VECTORS})  # type: ignore[arg-type]
        assert list(alone) == list(VECTORS)


def test_equal_scores_one_document_and_none() -> None:
    assert Fusion("min_max").fuse({"a": {"x": 3.0, "y": 3.0}}) == {"x": 1.0, "y": 1.0}
    assert Fusion("z_score").fuse({"a": {"x": 3.0, "y": 3.0}}) == {"x": 0.0, "y": 0.0}
    assert Fusion("z_score").fuse({"a": {"x": 3.0}, "b": {}}) == {"x": 0.0}
    for method in ("rrf", "min_max", "z_score"):
        assert Fusion(method).fuse({"a": {}, "b": {}}) == {}  # type: ignore[arg-type]
        assert Fusion(method).fuse({}) == {}  # type: ignore[arg-type]


def test_scale_and_shift_of_a_ranking_change_nothing() -> None:
    shifted = {id: 1000 * score - 7 for id, score in WORDS.items()}
    for method in ("rrf", "min_max", "z_score"):
        fusion = Fusion(method, {"words": 0.3})  # type: ignore[arg-type]
        before = fusion.fuse({"words": WORDS, "vectors": VECTORS})
        after = fusion.fuse({"words": shifted, "vectors": VECTORS})
        assert list(before) == list(after) and before == pytest.approx(after, abs=1e-9)


def test_what_differs_by_rounding_alone_is_a_tie() -> None:
    fused = Fusion("z_score").fuse({"a": {"x": 2.0, "y": 1.9}, "b": {"y": 0.9, "x": 0.2}})
    assert fused["x"] == fused["y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rff",), "did you mean 'rrf'"),
        (("rrf", {"a": -1}), "the weight of 'a' is -1"),
        (("rrf", {"a": float("nan")}), "the weight of 'a' is nan"),
        (("rrf", {"a": "1"}), "the weight of 'a' is '1'"),
        (("rrf", {}, -1), "k=-1"),
        (("rrf", {}, math.inf), "k=inf"),
    ],
)
def test_what_is_no_fusion(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fusion(*arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="the score of 'x' in 'words'"):
        Fusion().fuse({"words": {"y": 1.0, "x": bad}})


def test_a_fusion_is_kept_as_plain_values() -> None:
    fusion = Fusion("min_max", {"lexical": 0.2, "dense": 0.8}, 60.0, FittedOn(("k1", "k2"), "ndcg@10", 63))
    assert Fusion.from_dict(fusion.as_dict()) == fusion
    for bad in (
        {},
        {"method": "rrf"},
        {"method": "rrf", "weights": 3, "k": 60},
        [],
        {**fusion.as_dict(), "fitted_on": {}},
    ):
        with pytest.raises(ValueError):
            Fusion.from_dict(bad)  # type: ignore[arg-type]


def test_many_rankings_do_not_depend_on_their_order() -> None:
    generator = np.random.default_rng(0)
    rankings = []
    for _ in range(7):
        ids = generator.permutation(50)[:30]
        rankings.append({f"d{id}": float(30 - place) for place, id in enumerate(ids)})
    assert reciprocal_rank_fusion(rankings) == reciprocal_rank_fusion(rankings[::-1])


def test_best_first_sorts_ties_by_id() -> None:
    assert list(best_first({"b": 1, "c": 2, "a": 1})) == ["c", "a", "b"]


@pytest.mark.parametrize("method", ["min_max", "z_score"])
def test_normalised_scores_are_those_of_other_libraries(method: str) -> None:
    preprocessing, stats = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("scipy.stats")
    scale = preprocessing.minmax_scale if method == "min_max" else stats.zscore
    generator = np.random.default_rng(1)
    for _ in range(20):
        runs = [best_first({f"d{d}": float(generator.normal()) for d in range(20)}) for _ in range(3)]
        weights = generator.random(3).tolist()
        scaled = [dict(zip(run, scale(np.array(list(run.values()))))) for run in runs]
        expected = {id: sum(w * one[id] for w, one in zip(weights, scaled)) for id in runs[0]}
        fusion = Fusion(method, dict(zip("abc", weights)))  # type: ignore[arg-type]
        assert fusion.fuse(dict(zip("abc", runs))) == pytest.approx(expected, abs=1e-9)


def test_weights_that_are_all_0_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of words, vectors are all 0"):
        Fusion("rrf", {"words": 0, "vectors": 0}).fuse({"words": WORDS, "vectors": VECTORS})
