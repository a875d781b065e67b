"""Parameter groups: what decays, what is frozen, how rates fall with depth."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, MobileNetV2Config, MobileNetV2Model

from mmembed.training.optimizer import decay_parameter_names, freeze, frozen_modules, layer_learning_rates


def tiny_clip() -> CLIPModel:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {**small, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config={**small, "vocab_size": 9}, vision_config=vision, projection_dim=4))


def test_no_norm_bias_or_scale_decays() -> None:
    model = tiny_clip()
    names = set(decay_parameter_names(model))
    assert "logit_scale" not in names and not any("norm" in n and "weight" in n for n in names)
    assert not any(n.endswith("bias") for n in names) and "text_projection.weight" in names
    mobile = MobileNetV2Model(MobileNetV2Config(image_size=32, depth_multiplier=0.35))
    assert all(p.ndim == 4 for n, p in mobile.named_parameters() if n in decay_parameter_names(mobile))


def test_freezing_a_tower_by_its_name() -> None:
    model = tiny_clip()
    frozen = freeze(model, ["image"])
    assert frozen and all(n.startswith(("vision_model.", "visual_projection.")) for n in frozen)
    assert all(p.requires_grad for n, p in model.named_parameters() if n.startswith("text_"))
    assert {type(m).__name__ for m in frozen_modules(model)} >= {"Linear"}
    with pytest.raises(ValueError, match="'txt' matches no parameter"):
        freeze(model, ["txt"])


def test_frozen_modules_hold_batch_norm_still() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2))
    freeze(model, [r"^0\."])
    assert frozen_modules(model) == [model[0]]


def test_rates_fall_layer_by_layer_in_both_towers() -> None:
    model = tiny_clip()
    rates = layer_learning_rates(model, 1.0, 0.5)
    by_name = {}
    import re

    for name, _ in model.named_parameters():
        found = [rate for pattern, rate in rates.items() if re.search(pattern, name)]
        assert len(found) <= 1, name
        by_name[name] = found[0] if found else 1.0
    assert by_name["text_model.encoder.layers.2.mlp.fc1.weight"] == 1.0
    assert by_name["text_model.encoder.layers.0.mlp.fc1.weight"] == 0.25
    assert by_name["text_model.embeddings.token_embedding.weight"] == 0.125
    assert by_name["vision_model.encoder.layers.0.mlp.fc1.weight"] == 0.5
    assert by_name["vision_model.embeddings.patch_embedding.weight"] == 0.25
    assert by_name["text_projection.weight"] == by_name["text_model.final_layer_norm.weight"] == 1.0


def test_rates_need_layers() -> None:
    with pytest.raises(ValueError, match="stack of layers"):
        layer_learning_rates(nn.Linear(2, 2), 1.0, 0.5)
    bert = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )
    assert len(layer_learning_rates(bert, 1.0, 0.5)) == 3
