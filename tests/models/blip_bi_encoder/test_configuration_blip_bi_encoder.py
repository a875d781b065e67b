"""Settings: BLIP's own where nothing is said, and the way through JSON."""

from __future__ import annotations

from transformers import AutoConfig, BlipTextConfig, BlipVisionConfig

from mmembed.models import BlipBiEncoderConfig


def test_what_is_not_said_is_as_blip_was_trained() -> None:
    for config in (BlipBiEncoderConfig(), BlipBiEncoderConfig(vision_config={"image_size": 224})):
        assert config.vision_config.layer_norm_eps == 1e-6 and config.text_config.layer_norm_eps == 1e-12
        assert config.projection_dim == config.hidden_size == 256
    assert BlipBiEncoderConfig(vision_config=BlipVisionConfig(layer_norm_eps=1e-3)).vision_config.layer_norm_eps == 1e-3


def test_the_text_tower_has_no_cross_attention_whatever_its_settings_say() -> None:
    given = BlipTextConfig(is_decoder=True, hidden_size=48, num_attention_heads=4)
    config = BlipBiEncoderConfig(given, {"hidden_size": 96})
    assert not config.text_config.is_decoder and config.text_config.hidden_size == 48
    assert config.text_config.encoder_hidden_size == 96
    assert given.is_decoder  # the caller's own is left alone


def test_settings_survive_json(tmp_path) -> None:
    saved = BlipBiEncoderConfig({"hidden_size": 48}, {"image_size": 64}, projection_dim=24, image_mean=[0.1, 0.2, 0.3])
    saved.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, BlipBiEncoderConfig) and loaded.image_size == 64
    first, second = saved.to_dict(), loaded.to_dict()
    for of in (first, second):  # written when saving
        for name in ("auto_map", "_name_or_path"):
            of.pop(name, None)
    assert first == second
