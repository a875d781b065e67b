"""Settings: what is refused, and the way through JSON."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, BertConfig, CLIPConfig, ResNetConfig

from mmembed.models import DualEncoderConfig


def config(**settings) -> DualEncoderConfig:
    return DualEncoderConfig(BertConfig(vocab_size=77), ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]), **settings)


def test_settings_survive_json(tmp_path) -> None:
    saved = config(
        projection_dim=24, fusion="concat", image_levels=[-2], text_projection="mlp", image_mean=[0.1, 0.2, 0.3],
        text_pooling="cls", image_pooling="gem", max_text_length=9, frozen_image_layers=1, image_size=40,
    )  # fmt: skip
    saved.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, DualEncoderConfig)
    assert isinstance(loaded.text_config, BertConfig) and loaded.text_config.vocab_size == 77
    assert isinstance(loaded.vision_config, ResNetConfig) and loaded.vision_config.hidden_sizes == [8, 16]
    first, second = saved.to_dict(), loaded.to_dict()
    for of in (first, second):  # written when saving
        for name in ("auto_map", "_name_or_path"):
            of.pop(name, None)
    assert first == second


@pytest.mark.parametrize(("fusion", "length"), [("concat", 48), ("none", 24), ("weighted_sum", 24), ("gated", 24)])
def test_the_dimension_that_others_read_is_that_of_the_vectors(fusion, length, tmp_path) -> None:
    made = config(projection_dim=24, fusion=fusion)
    made.save_pretrained(tmp_path)
    for of in (made, AutoConfig.from_pretrained(tmp_path)):
        assert of.projection_dim == of.hidden_size == length and of.modality_dim == 24


def test_dicts_need_their_type() -> None:
    made = DualEncoderConfig({"model_type": "bert", "vocab_size": 5}, {"model_type": "resnet"})
    assert made.text_config.vocab_size == 5
    with pytest.raises(ValueError, match="text_config needs 'model_type'"):
        DualEncoderConfig({"vocab_size": 5}, {"model_type": "resnet"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("text_pooling", "gem"), ("image_pooling", "last"), ("fusion", "sum"), ("image_projection", "deep"), ("text_projection", "")],
)  # fmt: skip
def test_unknown_choices_are_named(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name}='{value}'; choose one of"):
        config(**{name: value})


def test_joint_and_separate_towers_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        DualEncoderConfig(BertConfig(), joint_config=CLIPConfig())
    with pytest.raises(ValueError, match="vision tower of its own"):
        DualEncoderConfig(joint_config=CLIPConfig(), image_levels=[0])
