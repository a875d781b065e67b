"""Priors and posteriors against hand values, and a temperature that is found again."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.interactive.belief import fit_temperature, normalised, posterior, prior, weighed


def test_a_posterior_is_that_of_bayes() -> None:
    before = np.array([0.5, 0.3, 0.2])
    likelihoods = [np.array([0.9, 0.1, 0.5]), np.array([0.2, 0.2, 0.8])]
    by_hand = before * likelihoods[0] * likelihoods[1]
    assert posterior(before, likelihoods) == pytest.approx(by_hand / by_hand.sum())
    assert posterior(before, reversed(likelihoods)) == pytest.approx(by_hand / by_hand.sum())
    assert posterior(before, []) == pytest.approx(before)


def test_an_answer_that_nothing_explains_changes_nothing() -> None:
    assert posterior([0.6, 0.4], [[0.0, 0.0]]) == pytest.approx([0.6, 0.4])
    found = posterior([0.6, 0.4], [[0.0, 1.0], [1.0, 0.0]])  # a contradiction is a mistake somewhere
    assert found == pytest.approx([0.6, 0.4])
    assert posterior([1.0, 0.0], [[0.5, 0.5]]).tolist() == [1.0, 0.0]


def test_many_answers_do_not_underflow() -> None:
    logs = np.log([0.5, 0.5])
    for _ in range(400):
        logs = weighed(logs, [1e-3, 1e-3])
    assert normalised(logs).tolist() == [0.5, 0.5]
    assert normalised(weighed(logs, [0.9, 0.1])) == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("likelihood", [[0.5], [-0.1, 0.5], [np.nan, 0.5], [np.inf, 0.5]])
def test_likelihoods_that_are_none(likelihood: list[float]) -> None:
    with pytest.raises(ValueError, match="likelihoods"):
        posterior([0.5, 0.5], [likelihood])


@pytest.mark.parametrize(
    ("scores", "temperature"), [([], 1), ([np.nan], 1), ([np.inf], 1), ([1.0], 0), ([1.0], np.nan)]
)
def test_scores_that_are_none(scores: list[float], temperature: float) -> None:
    with pytest.raises(ValueError):
        prior(scores, temperature)


def test_a_temperature_is_found_again() -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((3000, 40))
    for temperature in (0.3, 2.0):
        targets = [generator.choice(40, p=prior(row, temperature)) for row in scores]
        assert fit_temperature(scores, targets) == pytest.approx(temperature, rel=0.1)
    outside = np.where(np.arange(40) < 20, scores, -np.inf)
    kept = [row for row in range(3000) if targets[row] < 20]
    assert fit_temperature(outside, targets) == pytest.approx(fit_temperature(outside[kept], np.array(targets)[kept]))
    with pytest.raises(ValueError, match="no query"):
        fit_temperature([[0.0, -np.inf]], [1])
    assert prior([-np.inf, -np.inf], 1.0).tolist() == [0.5, 0.5]
