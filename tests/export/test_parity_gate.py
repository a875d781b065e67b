"""The gate sees what is wrong, says why, and lets nothing else through."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from mmembed.export.onnx_verbs import ExportError
from mmembed.export.parity_gate import (
    LIMITS,
    Parity,
    ParityLimits,
    judged,
    measure_parity,
    ndcg_at_10,
    ndcg_of_scores,
    parity_table,
    reference_problem,
    report_texts,
    top_overlap,
)

EXACT = LIMITS["fp32"]


def unit(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit(30)
ROWS = list(range(30))


def graph(change=lambda vectors, rows, padding: vectors):
    return lambda rows, padding: change(VECTORS[list(rows)].copy(), rows, padding)


def measured(change, limits=EXACT, reference=VECTORS, rows=ROWS):
    return measure_parity("text_fp32", graph(change), rows, reference, limits=limits)


def test_the_same_vectors_pass_in_every_way():
    sizes = []

    def run(rows, padding):
        sizes.append((len(rows), padding))
        return VECTORS[list(rows)]

    found = measure_parity("text_fp32", run, ROWS, VECTORS, limits=EXACT, source="thirty rows")
    assert found.passed and found.max_difference == 0 and found.overlap == 1 and found.rows == 30
    assert {1, 3, 8} <= {size for size, _ in sizes} and max(padding for _, padding in sizes) > 0
    assert found.source == "thirty rows" and found.limits["max_difference"] == 1e-5


@pytest.mark.parametrize(
    "fault",
    [
        lambda vectors, rows, padding: vectors[::-1],  # a batch the wrong way round
        lambda vectors, rows, padding: np.roll(vectors, 1, axis=1),  # another place pooled
        lambda vectors, rows, padding: vectors if len(rows) < 8 else vectors[[1, 0, *range(2, len(rows))]],
        lambda vectors, rows, padding: vectors if not padding else -vectors,  # padding is read
        lambda vectors, rows, padding: vectors if len(rows) != 1 else vectors + 2e-5,  # one size of a batch
        lambda vectors, rows, padding: vectors * 1.0001,  # not normalised
        lambda vectors, rows, padding: np.repeat(vectors[:1], len(rows), axis=0),  # a number of rows that was fixed
    ],
)
def test_faults_are_seen(fault):
    found = measured(fault)
    assert not found.passed and "more than 1.0e-05" in found.reasons[0]


def test_only_the_order_of_the_rows_decides_about_a_reversed_batch():
    """Batches of one cannot be reversed: the fault shows in the larger ones alone."""
    seen = []

    def reversed_batch(rows, padding):
        seen.append(len(rows))
        return VECTORS[list(rows)][::-1]

    found = measure_parity("text_fp32", reversed_batch, ROWS, VECTORS, limits=EXACT)
    assert not found.passed and 1 in seen and 8 in seen


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    def broken(vectors, rows, padding):
        vectors[-1, 0] = bad
        return vectors

    assert "not finite" in measured(broken).reasons[0]
    assert "itself gives numbers that are not finite" in measured(lambda v, r, p: v, reference=VECTORS * bad).reasons[0]


def test_another_shape_and_a_run_that_fails_are_reasons():
    assert "shape (1, 8)" in measured(lambda vectors, rows, padding: vectors[:, :8]).reasons[0]

    def fails(vectors, rows, padding):
        if len(rows) == 3:
            raise ExportError("only 2 rows")
        return vectors

    assert "3 rows cannot be run: only 2 rows" in measured(fails).reasons[0]


def test_rows_that_are_all_alike_cannot_show_a_right_order():
    same = np.repeat(unit(1), 30, axis=0)
    found = measure_parity("text_fp32", lambda rows, padding: same[: len(rows)], ROWS, same, limits=EXACT)
    assert not found.passed and "only 1 different vectors" in found.reasons[0]
    assert reference_problem(np.full(9, 0.5, np.float32)) is not None
    assert reference_problem(np.linspace(0, 1, 9, dtype=np.float32)) is None


def test_eight_bits_are_held_to_the_cosine_and_to_the_neighbours():
    noisy = VECTORS + 0.02 * np.random.default_rng(1).normal(size=VECTORS.shape).astype(np.float32)
    found = measure_parity("text_int8", lambda rows, padding: noisy[list(rows)], ROWS, VECTORS, limits=LIMITS["int8"])
    cosines = (noisy * VECTORS).sum(axis=1) / np.linalg.norm(noisy, axis=1)
    assert found.min_cosine == pytest.approx(cosines.min(), abs=1e-6) and found.min_cosine > 0.99
    assert found.passed and found.overlap == pytest.approx(top_overlap(noisy, VECTORS))
    worse = VECTORS + 0.2 * np.random.default_rng(1).normal(size=VECTORS.shape).astype(np.float32)
    found = measure_parity("text_int8", lambda rows, padding: worse[list(rows)], ROWS, VECTORS, limits=LIMITS["int8"])
    assert "the lowest cosine is" in found.reasons[0]


def test_vectors_of_any_length_are_compared_by_their_own_length():
    long = VECTORS * 1000
    near = long + 2e-3
    found = measure_parity("text_fp32", lambda rows, padding: near[list(rows)], ROWS, long, limits=EXACT)
    assert found.passed and found.max_difference == pytest.approx(2e-6, rel=0.1)


def test_scores_are_compared_by_difference_correlation_and_the_best():
    scores = np.linspace(-8, 8, 40, dtype=np.float32)
    right = measure_parity("reranker_fp32", lambda rows, padding: scores[list(rows)], range(40), scores, limits=EXACT)
    assert right.passed and right.min_cosine == pytest.approx(1)
    wrong = measure_parity(
        "reranker_fp32", lambda rows, padding: scores[list(rows)][::-1], range(40), scores, limits=EXACT
    )
    assert not wrong.passed and wrong.min_cosine < 0.99


def test_overlap_is_that_of_brute_force():
    left, right = unit(25, seed=1), unit(25, seed=1) + 0.3 * unit(25, seed=2)
    shares = []
    for row in range(25):
        best = []
        for table in (left, right / np.linalg.norm(right, axis=1, keepdims=True)):
            order = sorted(
                (other for other in range(25) if other != row), key=lambda other: -(table[row] @ table[other])
            )
            best.append(set(order[:10]))
        shares.append(len(best[0] & best[1]) / 10)
    assert top_overlap(left, right) == pytest.approx(np.mean(shares)) and 0 < np.mean(shares) < 1


def test_ndcg_is_scikit_learns():
    queries, documents = unit(12, seed=3), unit(40, seed=4)
    relevant = [
        {int(d): int(g) for d, g in zip(np.random.default_rng(q).choice(40, 5, False), (1, 1, 2, 3, 1))}
        for q in range(12)
    ]
    grades = np.zeros((12, 40))
    for query, judgement in enumerate(relevant):
        for document, grade in judgement.items():
            grades[query, document] = grade
    expected = ndcg_score(grades, queries @ documents.T, k=10)
    assert ndcg_at_10(queries, documents, relevant) == pytest.approx(expected, abs=1e-6)


def test_ties_never_help():
    assert ndcg_of_scores([np.zeros(20)], [[0]]) == [0.0]
    assert ndcg_of_scores([np.r_[1.0, np.zeros(19)]], [[0]]) == [1.0]


def test_a_loss_of_more_than_a_point_is_a_reason():
    assert judged(Parity("text_int8"), (0.80, 0.7901, 50), LIMITS["int8"]).passed
    found = judged(Parity("text_int8"), (0.80, 0.7899, 50), LIMITS["int8"])
    assert not found.passed and "0.8000 to 0.7899" in found.reasons[0]
    assert judged(Parity("text_int8"), None, LIMITS["int8"]).passed
    assert not judged(Parity("text_int8"), (0.8, float("nan"), 50), LIMITS["int8"]).passed


def test_the_report_says_what_was_refused_and_why():
    bad = Parity(
        "text_int8", 30, 8, 0.1, 0.7, 0.8, 0.5, reasons=["the lowest cosine is 0.70000, less than 0.99"], source="x"
    )
    good = Parity("text_fp32", 30, 8, 1e-7, 1.0, 1.0, 1.0, ndcg_model=0.5, ndcg=0.5, queries=9, size=2 << 20)
    data, text = report_texts([good, bad])
    assert [entry["passed"] for entry in json.loads(data)["graphs"]] == [True, False]
    lines = parity_table([good, bad]).splitlines()
    assert "yes" in lines[1] and "2.0" in lines[1] and "0.5000" in lines[1] and "NO" in lines[2]
    assert lines[3] == "text_int8: the lowest cosine is 0.70000, less than 0.99" and "rows: x" in text


def test_limits_may_be_set_otherwise():
    loose = ParityLimits(None, 0.5, 0.0)
    noisy = VECTORS + 0.2 * np.random.default_rng(1).normal(size=VECTORS.shape).astype(np.float32)
    assert measure_parity("x", lambda rows, padding: noisy[list(rows)], ROWS, VECTORS, limits=loose).passed
