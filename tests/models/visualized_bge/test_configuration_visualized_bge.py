"""What the settings derive, refuse, and keep through a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, BertConfig, CLIPConfig, XLMRobertaConfig

from mmembed.models.visualized_bge.configuration_visualized_bge import EvaVisionConfig, VisualizedBGEConfig

L14 = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14}


def test_a_text_is_cut_where_it_still_fits_beside_an_image() -> None:
    base = VisualizedBGEConfig(BertConfig(), EvaVisionConfig())
    m3 = VisualizedBGEConfig(
        XLMRobertaConfig(max_position_embeddings=8194, hidden_size=1024), EvaVisionConfig(**L14), empty_text_ids=[0, 2]
    )
    assert (base.max_text_length, base.max_tokens, base.hidden_size) == (512 - 196, 512, 768)
    assert (m3.max_text_length, m3.max_tokens, m3.hidden_size) == (8192 - 256, 8192, 1024)


def test_it_is_the_same_after_a_file(tmp_path: Path) -> None:
    config = VisualizedBGEConfig(
        XLMRobertaConfig(hidden_size=24, num_attention_heads=2),
        EvaVisionConfig(24, 1, 2, 40, image_size=32, patch_size=8, patch_dropout=0.25, rope_grid=7),
        pooling="mean",
        normalize=False,
        empty_text_ids=(0, 2),
    )
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is VisualizedBGEConfig
    assert again.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}
    assert type(again.text_config) is XLMRobertaConfig and again.vision_config.patch_dropout == 0.25
    assert (again.pooling, again.normalize, again.empty_text_ids) == ("mean", False, [0, 2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EvaVisionConfig(18, 1, 3, 8), "multiple of 4"),
        (lambda: EvaVisionConfig(image_size=30, patch_size=8), "no multiple of patch_size=8"),
        (lambda: EvaVisionConfig(patch_dropout=1.0), "patch_dropout=1.0"),
        (lambda: VisualizedBGEConfig(BertConfig(), EvaVisionConfig(), pooling="last"), "choose one of cls, mean"),
        (lambda: VisualizedBGEConfig(CLIPConfig(), EvaVisionConfig()), "choose one of bert, xlm-roberta"),
        (lambda: VisualizedBGEConfig({"model_type": "clip"}, EvaVisionConfig()), "choose one of bert, xlm-roberta"),
        (lambda: VisualizedBGEConfig(BertConfig(max_position_embeddings=197)), "no room for a text"),
    ],
)
def test_what_cannot_be_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
