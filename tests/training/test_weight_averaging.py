"""Averages against hand values, and what cannot be averaged."""

from __future__ import annotations

import pytest
import torch

from mmembed.training.weight_averaging import average_weights, greedy_soup, load_averaged, weights_of
from tests.tiny_models import tiny_dual_encoder


def test_the_ends_of_the_line_are_the_models_themselves() -> None:
    one, two = (
        {"w": torch.randn(3, 2), "n": torch.tensor(4)},
        {"w": torch.full((3, 2), torch.inf), "n": torch.tensor(9)},
    )
    for weights, wanted in (([1.0, 0.0], one), ([0.0, 1.0], two)):
        found = average_weights([one, two], weights)
        assert torch.equal(found["w"], wanted["w"]) and found["n"] == wanted["n"]


def test_a_point_between_is_the_weighted_mean_in_each_tensors_own_type() -> None:
    one, two = (
        {"w": torch.tensor([1.0, 3.0], dtype=torch.bfloat16)},
        {"w": torch.tensor([2.0, 5.0], dtype=torch.bfloat16)},
    )
    found = average_weights([one, two], [0.25, 0.75])["w"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), torch.tensor([1.75, 4.5]))


def test_a_model_half_way_lies_between_in_every_weight() -> None:
    torch.manual_seed(0)
    one = tiny_dual_encoder()
    torch.manual_seed(1)
    two = tiny_dual_encoder()
    first, second = weights_of(one), weights_of(two)
    middle = load_averaged(tiny_dual_encoder(), [first, second], [0.5, 0.5]).state_dict()
    for name, tensor in middle.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)


@pytest.mark.parametrize(
    ("two", "weights", "message"),
    [
        ({"v": torch.ones(2)}, [0.5, 0.5], "differ in 2 tensors, first 'v'"),
        ({"w": torch.ones(3)}, [0.5, 0.5], r"'w' has the shape \(2,\) in model 1 and \(3,\)"),
        ({"w": torch.ones(2)}, [0.5, 0.6], "add up to 1.1"),
        ({"w": torch.ones(2)}, [1.0], "2 models and 1 weights"),
    ],
)
def test_what_cannot_be_averaged_is_said(two: dict, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_weights([{"w": torch.ones(2)}, two], weights)


def test_a_greedy_soup_leaves_out_what_harms() -> None:
    states = [{"w": torch.tensor([value])} for value in (1.0, 1.2, 9.0, 0.8)]
    soup, taken, tried = greedy_soup(states, lambda state: -abs(state["w"].item() - 1.0))
    assert taken == [0, 1, 3] or taken == [0, 3] or taken == [0]
    assert 2 not in taken and len(tried) == 7
    assert abs(soup["w"].item() - 1.0) < 1e-6
