from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from mmembed.evaluation.probes_scores import interval_of_mean, score_classes, score_numbers, weighted_spearman


def by_scikit_learn(truth, predicted):
    options = {"zero_division": 0}
    found = {
        "f1_macro": f1_score(truth, predicted, average="macro", **options),
        "f1_micro": f1_score(truth, predicted, average="micro", **options),
        "precision_macro": precision_score(truth, predicted, average="macro", **options),
        "recall_macro": recall_score(truth, predicted, average="macro", **options),
    }
    if truth.ndim == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found | {"balanced_accuracy": balanced_accuracy_score(truth, predicted)}
    each = [balanced_accuracy_score(truth[:, label], predicted[:, label]) for label in range(truth.shape[1])]
    return found | {"balanced_accuracy": np.mean(each)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 7])
def test_classes_agree_with_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, 80)
    predicted = np.where(rng.random(80) < 0.5, truth, rng.integers(0, classes, 80))
    scored = score_classes(truth, predicted, [str(row) for row in range(80)], samples=0)
    assert scored.metrics == pytest.approx(by_scikit_learn(truth, predicted), abs=1e-12)
    assert scored.interval() is None and scored.n == 80


def test_a_class_that_nobody_predicts_counts_as_zero():
    truth, predicted = np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2])
    scored = score_classes(truth, predicted, list("abcd"), samples=0)
    assert scored.metrics["f1_macro"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert scored.metrics == pytest.approx(by_scikit_learn(truth, predicted))


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((60, 5)) < 0.3
    truth[0], truth[1] = True, False
    predicted = np.where(rng.random((60, 5)) < 0.7, truth, ~truth)
    predicted[:, 4] = False
    scored = score_classes(truth, predicted, [str(row) for row in range(60)], samples=0)
    assert scored.metrics == pytest.approx(by_scikit_learn(truth, predicted), abs=1e-12)


def test_numbers_agree_with_scipy_ties_included():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 6, 50).astype(float), rng.integers(0, 6, 50).astype(float)
    scored = score_numbers(truth, predicted, [str(row) for row in range(50)], samples=0)
    assert scored.metrics["spearman"] == pytest.approx(spearmanr(truth, predicted).statistic, abs=1e-12)
    assert scored.metrics["mse"] == pytest.approx(np.mean((truth - predicted) ** 2))
    assert score_numbers(truth, np.ones(50), list(map(str, range(50))), samples=0).metrics["spearman"] == 0


def test_weighted_ranks_are_those_of_the_repeated_rows():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 8, 30).astype(float), rng.normal(size=30)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for found, counts in zip(weighted_spearman(a, b, weights), weights.astype(int)):
        assert found == pytest.approx(spearmanr(np.repeat(a, counts), np.repeat(b, counts)).statistic, abs=1e-12)


@pytest.mark.parametrize("score", ["classes", "numbers"])
def test_the_interval_is_of_resampled_groups(score):
    """Against a bootstrap that repeats rows, group by group."""
    rng = np.random.default_rng(2)
    owners = rng.integers(0, 25, 120)
    groups = [f"g{owner:02}" for owner in owners]
    truth = (owners % 3).astype(np.int64)
    predicted = np.where(rng.random(25) < 0.6, np.arange(25) % 3, 0)[owners]  # right or wrong for a whole group
    if score == "numbers":
        truth, predicted = owners + rng.normal(size=120), owners + rng.normal(size=25)[owners] * 8.0
    function = score_classes if score == "classes" else score_numbers
    scored = function(truth, predicted, groups, samples=2000, seed=3)
    low, high = scored.interval()
    means = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(owners == owner) for owner in rng.integers(0, 25, 25)])
        if score == "classes":
            means.append(f1_score(truth[rows], predicted[rows], average="macro"))
        else:
            means.append(spearmanr(truth[rows], predicted[rows]).statistic)
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
    alone = function(truth, predicted, [str(row) for row in range(120)], samples=2000, seed=3).interval()
    assert high - low > 1.3 * (alone[1] - alone[0])  # rows of a group depend on each other
    assert (
        function(truth, predicted, groups, samples=50, seed=3).interval()
        == function(truth, predicted, groups, samples=50, seed=3).interval()
    )


def test_the_difference_of_two_on_the_same_rows_is_paired():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 200)
    noisy = np.where(rng.random(200) < 0.6, truth, 1 - truth)
    better = np.where(rng.random(200) < 0.2, truth, noisy)
    groups = [str(row) for row in range(200)]
    one, two = (score_classes(truth, guess, groups, samples=500) for guess in (better, noisy))
    difference, low, high = one.above(two)
    assert difference == pytest.approx(one.metrics["f1_macro"] - two.metrics["f1_macro"]) and low < difference < high
    assert one.above(one) == (0.0, 0.0, 0.0)
    unpaired = (one.interval()[1] - one.interval()[0]) + (two.interval()[1] - two.interval()[0])
    assert high - low < unpaired / 2


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="do not go together"):
        score_classes(np.array([0, 1]), np.array([0, 1, 1]), ["a", "b"])
    with pytest.raises(ValueError, match="do not go together"):
        score_numbers(np.array([]), np.array([]), [])


def test_the_mean_of_two_tasks_is_resampled_as_one() -> None:
    """Of the same rows, each draw's mean is that of scikit-learn's F1 weighted by the draw; of others it is no narrower."""
    generator = np.random.default_rng(3)
    groups = [str(row) for row in range(40)]
    tasks = [(generator.integers(0, 3, 40), generator.integers(0, 3, 40)) for _ in range(2)]
    scored = [score_classes(truth, guess, groups, samples=400, seed=5) for truth, guess in tasks]
    # groups are drawn in the order of their names
    draws = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=400)
    order = np.argsort(groups)
    means = [
        np.mean([f1_score(t[order], g[order], sample_weight=w, average="macro", zero_division=0) for t, g in tasks])
        for w in draws
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval_of_mean(scored, same_groups=True) == pytest.approx((low, high), abs=1e-9)
    wide = interval_of_mean(scored, same_groups=False)
    assert wide is not None and wide[0] < low and wide[1] > high
