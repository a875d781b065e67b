"""Metrics of dialogues: BRI's worked examples, ChatIR's golden hits, PlugIR's published tables, and the noise control."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmembed.evaluation.noise_control import NOISE_LEVELS, noise_control, normal_scores
from mmembed.evaluation.round_ranks import bri, first_hits, mid_ranks, ranks_by_round, round_values
from mmembed.evaluation.rounds import compare_rounds, evaluate_rounds, measure_rounds, rounds_table

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "parity" / "blip" / "chatir" / "recall_golden.json"


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((100, 100, 100), 4.6),
        ((100, 10, 100), 2.9),
        ((100, 100, 10), 4.0),
        ((100, 10, 10), 2.9),
        ((100, 10), 3.5),
        ((100, 5), 3.1),
    ],
)
def test_worked_examples_of_bri(ranks: tuple[int, ...], expected: float) -> None:
    assert bri([ranks])[0] == pytest.approx(expected, abs=0.05)
    assert evaluate_rounds([ranks], candidates=200)["bri"] == pytest.approx(expected, abs=0.05)


def test_bri_is_the_area_under_the_best_log_rank() -> None:
    ranks = np.random.default_rng(0).integers(1, 1000, size=(50, 11))
    best = np.log(np.minimum.accumulate(ranks, axis=1))
    assert bri(ranks) == pytest.approx(np.trapezoid(best, dx=1 / 10, axis=1))
    assert bri([[100]])[0] == pytest.approx(np.log(100))  # no question: the height itself


def test_hits_are_those_of_chatir() -> None:
    if not GOLDEN.exists():
        pytest.skip("needs ../shared")
    golden = json.loads(GOLDEN.read_text())
    ranks = np.array(golden["target_ranks"]).reshape(11, golden["n_queries"]).T  # the file goes round by round
    metrics = evaluate_rounds(ranks, first_rank=0, ks=(golden["hitting_recall"],), candidates=40)
    found = [100 * metrics[f"hits@10[round={number}]"] for number in range(11)]
    assert found == pytest.approx(golden["cumulative_hits_percent"], abs=1e-4)
    whole = ranks_by_round(ranks, first_rank=0)
    for number, expected in enumerate(golden["first_hitting_time"]):
        first = first_hits(whole[:, : number + 1], 10)
        assert [None if np.isnan(one) else one for one in first] == expected
    with pytest.raises(ValueError, match="counted from 0"):
        evaluate_rounds(ranks)


@pytest.mark.parametrize(
    ("hits", "rounds"),
    [
        ((71.5, 76.2, 78.9, 80.5, 82.0, 83.3, 84.4, 84.9, 85.6, 86.1, 86.4), 3.41),
        ((71.1, 79.0, 83.1, 85.9, 87.6, 88.7, 89.4, 90.1, 90.7, 91.1, 91.5), 2.85),
    ],
)
def test_rounds_to_success_are_those_of_plugir(hits: tuple[float, ...], rounds: float) -> None:
    """Lee et al. 2024 print both the cumulative hits of each round and the mean rounds to success."""
    ranks = np.full((1000, 11), 500.0)
    for number, share in enumerate(hits):
        ranks[: round(10 * share), number:] = 3
    metrics = evaluate_rounds(ranks, candidates=500, noise=0.1)
    assert metrics["rounds_to_success"] == pytest.approx(rounds, abs=0.015)
    assert [100 * metrics[f"hits@10[round={number}]"] for number in range(11)] == pytest.approx(hits)
    first = np.concatenate(
        [np.full(round(10 * (now - before)), t) for t, (now, before) in enumerate(zip(hits, (0, *hits)))]
    )
    by_hand = (first.sum() + 11 * (1000 - len(first))) / 1000
    assert metrics["rounds_to_success_or_end"] == pytest.approx(by_hand)


def test_hits_are_cumulative_and_recall_is_not() -> None:
    metrics = evaluate_rounds([[30, 9, 12], [30, 20, 10], [5, 40, 40]], candidates=60)
    assert [metrics[f"hits@10[round={t}]"] for t in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [metrics[f"recall@10[round={t}]"] for t in range(3)] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert metrics["hits@10"] == 1 and metrics["recall@10"] == pytest.approx(1 / 3)
    assert metrics["mrr"] == pytest.approx((1 / 12 + 1 / 10 + 1 / 40) / 3)
    assert metrics["median_rank"] == 12 and metrics["n"] == 3 and metrics["rounds"] == 2
    assert metrics["bri_low"] <= metrics["bri"] <= metrics["bri_high"]


def test_a_dialogue_that_stopped_keeps_its_rank() -> None:
    assert ranks_by_round([[30, 2], [9, 8, 7]]).tolist() == [[30, 2, 2], [9, 8, 7]]
    short, whole = evaluate_rounds([[30, 2], [9, 8, 7]]), evaluate_rounds([[30, 2, 2], [9, 8, 7]])
    assert short == whole
    assert evaluate_rounds([[30, 2], [9, 8]], rounds=2) == evaluate_rounds([[30, 2, 2], [9, 8, 8]])
    with pytest.raises(ValueError, match="more than rounds=1"):
        evaluate_rounds([[9, 8, 7]], rounds=1)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([], "no targets"),
        (np.empty((0, 3)), "no targets"),
        ([[]], r"ranks\[0\]"),
        ([[1, 0]], "rank of target 0 in round 1 is 0"),
        ([[1, float("nan")]], "is nan"),
        ([[1, float("inf")]], "stands behind all that were"),
        ([[1], [-3]], "rank of target 1"),
        (np.ones(3), "shape"),
    ],
)
def test_ranks_that_are_none_are_refused(ranks: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_rounds(ranks)  # type: ignore[arg-type]


def test_ties_count_half() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 4, size=(40, 30)).astype(float)
    targets = generator.integers(0, 30, size=40)
    by_hand = [1 + sum(row > row[t]) + (sum(row == row[t]) - 1) / 2 for row, t in zip(scores, targets, strict=True)]
    assert mid_ranks(scores, targets).tolist() == by_hand
    assert mid_ranks(np.zeros((1, 20)), [7])[0] == 10.5  # in the middle, and no hit
    assert evaluate_rounds([[10.5]], candidates=20)["hits@10"] == 0
    with pytest.raises(ValueError, match="NaN"):
        mid_ranks([[np.nan, 1.0]], [1])
    with pytest.raises(ValueError, match="not all among"):
        mid_ranks([[0.0, 1.0]], [2])


def test_noise_alone_earns_cumulative_hits_and_bri_but_no_recall() -> None:
    """What the control is for: an answerer who says nothing, and scores that are shaken."""
    generator = np.random.default_rng(1)
    scores = generator.standard_normal((400, 300)).astype(np.float32)
    targets = np.zeros(400, dtype=int)
    scores[:, 0] += 1.5
    still = np.repeat(mid_ranks(scores, targets)[:, None], 11, axis=1)
    metrics = evaluate_rounds(still, scores, targets)
    assert metrics["control_hits@10"] > metrics["hits@10"] + 0.1
    assert metrics["control_bri"] < metrics["bri"] - 0.2 and metrics["bri_gain_high"] < 0
    assert metrics["control_recall@10"] < metrics["recall@10"] + 0.03
    assert metrics["control_hits@10[round=0]"] == metrics["hits@10[round=0]"]
    shaken = measure_rounds(still, scores, targets, seed=5).control_ranks
    other = evaluate_rounds(shaken, scores, targets, seed=6)
    assert other["bri_gain_low"] < 0 < other["bri_gain_high"]  # noise does not exceed noise


def test_the_control_is_the_hardest_of_its_levels_and_seeded() -> None:
    generator = np.random.default_rng(2)
    scores, targets = generator.standard_normal((60, 200)), generator.integers(0, 200, 60)
    level, ranks = noise_control(scores, targets, 5, seed=3)
    each = {one: noise_control(scores, targets, 5, [one], seed=3)[1] for one in NOISE_LEVELS}
    assert bri(ranks).mean() == pytest.approx(min(bri(one).mean() for one in each.values()))
    assert np.array_equal(each[level], ranks)
    assert np.array_equal(noise_control(scores, targets, 5, seed=3)[1], ranks)
    assert not np.array_equal(noise_control(scores, targets, 5, seed=4)[1], ranks)
    silent = noise_control(scores, targets, 5, [0.0])[1]
    assert np.array_equal(silent, np.repeat(mid_ranks(scores, targets)[:, None], 6, axis=1))
    with pytest.raises(ValueError, match="standard deviations"):
        noise_control(scores, targets, 5, [-1.0])


def test_what_was_not_retrieved_stays_behind_in_the_control() -> None:
    scores = np.array([[3.0, 2.0, 1.0, -np.inf, -np.inf]])
    ranks = noise_control(scores, [3], 20, [1.0])[1]
    assert set(ranks[0].tolist()) == {4.5}
    assert noise_control(np.full((1, 3), -np.inf), [1], 2, [1.0])[1].tolist() == [[2.0, 2.0, 2.0]]


def test_normal_scores_give_the_ranks() -> None:
    ranks = [1, 7, 50]
    scores, columns = normal_scores(ranks, 50)
    assert mid_ranks(scores, columns).tolist() == ranks
    assert abs(float(scores[0].mean())) < 1e-6 and 0.9 < float(scores[0].std()) < 1.0
    with pytest.raises(ValueError, match="among candidates=5"):
        evaluate_rounds([[6, 2]], candidates=5)
    with pytest.raises(ValueError, match="go together"):
        evaluate_rounds([[6, 2]], np.zeros((1, 9)))
    with pytest.raises(ValueError, match="2 rows of scores for 1 targets"):
        evaluate_rounds([[6, 2]], np.zeros((2, 9)), [0, 0])


def test_two_ways_are_compared_target_by_target() -> None:
    generator = np.random.default_rng(4)
    base = generator.integers(5, 2000, size=(200, 6)).astype(float)
    better = np.maximum(1, base / 2)
    found = compare_rounds(better, base)
    values = bri(better) - bri(base)
    assert found.mean == pytest.approx(values.mean()) and found.high < 0 and found.n == 200
    assert compare_rounds(base, base).mean == 0
    assert compare_rounds(better, base, "hits@10[round=2]").mean >= 0
    for metric in ("hit@10", "hits@0", "recall", "bri[round=9]"):
        with pytest.raises(ValueError):
            round_values(base, metric)


def test_the_table_shows_every_way_and_its_control() -> None:
    generator = np.random.default_rng(5)
    scores, targets = generator.standard_normal((80, 120)), generator.integers(0, 120, 80)
    start = mid_ranks(scores, targets)[:, None]
    asked = np.maximum(1, start / np.arange(1, 5))
    ways = {
        "asked": measure_rounds(asked, scores, targets),
        "silent": measure_rounds(start.repeat(4, 1), scores, targets),
    }
    table = rounds_table(ways, reference="asked")
    names = [row[0] for row in table.rows]
    assert names[:2] == ["asked", "silent"] and len(names) == 3 and str(names[2]).startswith("noise control (")
    assert all(len(row) == len(table.header) for row in table.rows)
    assert table.rows[0][-1] == "–" and str(table.rows[1][-2]).startswith("+")
    assert str(table.rows[0][1]).count("/") == 2  # rounds 0, 1 and 3
    with pytest.raises(ValueError, match="name one of the rows"):
        rounds_table(ways, reference="neither")


def test_targets_that_depend_on_each_other_are_resampled_together() -> None:
    generator = np.random.default_rng(6)
    one = generator.integers(1, 500, size=(30, 4))
    ranks, clusters = np.repeat(one, 8, axis=0), np.repeat(np.arange(30), 8).tolist()
    loose, tight = evaluate_rounds(ranks, noise=0.1, clusters=clusters), evaluate_rounds(ranks, noise=0.1)
    assert loose["bri_high"] - loose["bri_low"] > 2 * (tight["bri_high"] - tight["bri_low"])
