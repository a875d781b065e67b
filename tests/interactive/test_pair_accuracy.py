"""Log-probabilities of pairs against the questioner's own, and accuracies by hand."""

from __future__ import annotations

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

from mmembed.interactive.pair_accuracy import (
    PairLogProbabilities,
    accuracy_line,
    pair_accuracy,
    pair_log_probabilities,
)
from mmembed.interactive.vision_language_model import VisionLanguageModel
from tests.interactive.tiny_questioner import colour_pairs, tiny_model, tiny_processor


def test_they_are_what_the_questioner_weighs_by():
    rows, model, processor = colour_pairs(3), tiny_model(), tiny_processor()
    found = pair_log_probabilities(model, processor, rows, batch_size=2)
    asks = VisionLanguageModel(model, processor)
    for number, row in enumerate(rows):
        texts = [row[side][0]["content"][0]["text"] for side in ("chosen", "rejected")]
        sums, tokens = asks.log_probabilities(row["prompt"], row["images"], texts)
        # TRL's sequence also holds what the template writes behind the end of the turn: a line break
        assert [found.chosen_tokens[number], found.rejected_tokens[number]] == [tokens[0] + 1, tokens[1] + 1]
        assert found.chosen[number] < sums[0] and found.rejected[number] < sums[1]
        assert found.chosen[number] - found.rejected[number] == pytest.approx(sums[0] - sums[1], abs=0.5)


def test_batches_do_not_matter_and_training_mode_is_kept():
    rows, model, processor = colour_pairs(5), tiny_model().train(), tiny_processor()
    one, many = (pair_log_probabilities(model, processor, rows, batch_size=size) for size in (1, 5))
    assert model.training
    np.testing.assert_allclose(one.chosen, many.chosen, atol=1e-4)
    np.testing.assert_allclose(one.rejected, many.rejected, atol=1e-4)
    none = pair_log_probabilities(model, processor, rows.select([]))
    assert len(none.chosen) == 0 and pair_accuracy(none) == {}


def test_below_an_adapter_is_the_model_without_it():
    rows, processor = colour_pairs(2), tiny_processor()
    plain = pair_log_probabilities(tiny_model(), processor, rows)
    adapted = get_peft_model(
        tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, lora_alpha=64)
    )
    below = pair_log_probabilities(adapted, processor, rows, with_adapter=False)
    above = pair_log_probabilities(adapted, processor, rows)
    np.testing.assert_allclose(below.chosen, plain.chosen, atol=1e-5)
    assert np.abs(above.chosen - plain.chosen).max() > 1e-3


def pairs(chosen, rejected, tokens=(4, 4)):
    n = len(chosen)
    return PairLogProbabilities(
        np.array(chosen, dtype=float), np.array(rejected, dtype=float), np.full(n, tokens[0]), np.full(n, tokens[1])
    )


def test_accuracies_by_hand():
    found = pairs([-1, -3, -2, -4], [-2, -2, -2, -5], tokens=(2, 4))
    before = pairs([-1, -4, -2, -4], [-3, -2, -2, -5])
    figures = pair_accuracy(found, before)
    assert figures["accuracy"]["mean"] == pytest.approx(2.5 / 4)  # right, wrong, tie, right
    # a token: −.5 > −.5 is a tie, −1.5 < −.5, −1 < −.5, −2 < −1.25
    assert figures["accuracy a token"]["mean"] == pytest.approx(0.5 / 4)
    # how much the difference rose: 1 − 2, −1 + 2, 0, 1 − 1
    assert figures["implicit reward"]["mean"] == pytest.approx((0 + 1 + 0.5 + 0.5) / 4)
    assert figures["margin"]["mean"] == pytest.approx(0.25)
    assert figures["accuracy"]["n"] == 4


def test_pairs_of_one_target_are_drawn_together():
    found = pairs([1.0] * 50 + [0.0] * 50, [0.0] * 50 + [1.0] * 50)
    alone = pair_accuracy(found)["accuracy"]
    together = pair_accuracy(found, clusters=["a"] * 50 + ["b"] * 50)["accuracy"]
    assert alone["high"] - alone["low"] < 0.25 and (together["low"], together["high"]) == (0.0, 1.0)


def test_a_line():
    figures = pair_accuracy(pairs([1.0], [0.0]))
    assert accuracy_line(figures) == "1.000 [1.000, 1.000], n = 1"
