"""The settings of Chinese-CLIP's ResNet: defaults, round trip, wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, BertConfig

from mmembed.models import ChineseCLIPResNetConfig


def test_defaults_are_the_published_model() -> None:
    config = ChineseCLIPResNetConfig()
    text = config.text_config
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (21128, 768, 3, 12)
    assert (config.vision_width, config.vision_layers, config.vision_heads) == (64, [3, 4, 6, 3], 32)
    assert config.hidden_size == config.projection_dim == 1024


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    config = ChineseCLIPResNetConfig(BertConfig(hidden_size=24, num_attention_heads=3), 8, image_size=96)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, ChineseCLIPResNetConfig) and isinstance(again.text_config, BertConfig)
    saved, read = ({**one.to_dict(), "_name_or_path": ""} for one in (config, again))
    assert read == saved
    assert ChineseCLIPResNetConfig({"hidden_size": 24, "num_attention_heads": 3}).text_config.hidden_size == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 100}, "image_size=100: expected a multiple of 32"),
        ({"vision_layers": [1, 2]}, r"vision_layers=\[1, 2\]: the tower has four stages"),
        ({"vision_heads": 7}, "vision_heads=7 does not divide the 2048 channels"),
    ],
)
def test_wrong_values_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChineseCLIPResNetConfig(**settings)
