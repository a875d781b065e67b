"""The settings of an image tower: kept through saving, refused where they cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, ResNetConfig

import mmembed.models  # noqa: F401, makes the type known
from mmembed.models import ImageTowerConfig


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    config = ImageTowerConfig(
        ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16]),
        pooling="gem",
        embedding_dim=None,
        feature_width=16,
        dropout=0.3,
    )
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is ImageTowerConfig and again.backbone_config.hidden_sizes == [8, 16]
    assert (again.pooling, again.dropout, again.projection_dim, again.hidden_size) == ("gem", 0.3, 16, 16)
    assert again.image_mean == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "max"}, "pooling='max'; choose one of avg, gem, cls, pooler"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"embedding_dim": 0}, "embedding_dim=0"),
        ({"backbone_config": {"depths": [1]}}, "needs 'model_type'"),
    ],
)
def test_what_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageTowerConfig(**settings)
