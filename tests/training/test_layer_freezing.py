"""Which parameters of real towers are left to learn when only the last layers shall."""

from __future__ import annotations

import pytest

from mmembed.training.layer_freezing import below_last_layers
from mmembed.training.optimizer import freeze
from tests.tiny_models import tiny_clip, tiny_dual_encoder


@pytest.mark.parametrize(("tower", "name"), [("text", "text_model"), ("image", "vision_model")])
def test_the_last_layer_of_a_clip_tower_and_what_comes_after_it_learn(tower: str, name: str) -> None:
    model = tiny_clip()
    freeze(model, below_last_layers(model, tower, 1))
    learns = {n: p.requires_grad for n, p in model.named_parameters() if f".{name}." in n}
    assert learns
    for parameter, learning in learns.items():
        below = "embeddings" in parameter or ".layers.0." in parameter
        # a norm before the layers is left alone: it is small and belongs to no layer
        if "pre_layrnorm" not in parameter:
            assert learning is not below, parameter
    other = "vision_model" if tower == "text" else "text_model"
    assert all(p.requires_grad for n, p in model.named_parameters() if f".{other}." in n)


def test_all_layers_learn_when_as_many_are_named() -> None:
    model = tiny_dual_encoder(text_layers=2)
    assert below_last_layers(model, "text", 2) == []


@pytest.mark.parametrize(
    ("tower", "layers", "message"),
    [("sound", 1, "'sound' is no tower"), ("text", 3, r"text=3, but .* has 2 layers"), ("text", -1, "text=-1")],
)
def test_what_is_not_there_is_said(tower: str, layers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        below_last_layers(tiny_dual_encoder(text_layers=2), tower, layers)
