"""What can be guessed without the images, by hand."""

from __future__ import annotations

import pytest

from mmembed.interactive.preference_baselines import text_baselines

A, B, C = "Is it red?", "Is it big and heavy?", "Is it old?"


def test_guesses_by_hand():
    train = [(A, B), (A, B), (B, A), (C, B)]
    test = [(A, B), (B, A), (C, A), (A, C)]
    # chosen − rejected rates: A (2+1)/(1+1) = 1.5, B 2/4 = .5, C 2/1 = 2
    found = text_baselines(
        train, test, train_templates=[("x", "y")], test_templates=[("x", "y"), ("y", "x"), ("x", "x"), ("z", "z")]
    )
    assert found["text"].mean == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert found["template"].mean == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    # shorter ones were right in training (3 of 4): right, wrong, tie, tie
    assert found["length"].mean == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert found["text"].n == 4


def test_balanced_pairs_tell_nothing_by_their_texts():
    train = [(A, B), (B, A), (A, C), (C, A)]
    assert text_baselines(train, train)["text"].mean == 0.5


def test_nothing_to_guess_and_nothing_learnt():
    assert text_baselines([(A, B)], []) == {}
    assert text_baselines([], [(A, B)])["text"].mean == 0.5
