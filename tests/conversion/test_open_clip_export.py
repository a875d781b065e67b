"""Back to open_clip: the very bits that were converted, and the settings that they were converted with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, CLIPModel, SiglipModel

from mmembed.conversion import open_clip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint
from mmembed.conversion.open_clip_export import export_open_clip, open_clip_config, open_clip_state_dict

from . import tiny_open_clip as tiny

PUBLISHED = {"embed_dim": 768, "vision_cfg": {"image_size": 32}, "text_cfg": {"heads": 2}}


def converted(state: dict[str, torch.Tensor], config: Any) -> Any:
    return open_clip.convert(Checkpoint(Path("weights.pt"), state), config, None).model


def same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape and torch.equal(got[name], tensor), name


@pytest.mark.parametrize("name", ["clip_vit_gelu", "clip_vit_quickgelu", "siglip"])
def test_the_fixtures_come_back_bit_for_bit(shared_data: Path, name: str) -> None:
    folder = shared_data / "parity" / "open_clip" / name
    original = load_file(folder / "original_state_dict.safetensors")
    config = json.loads((folder / "config.json").read_text())
    checkpoint = read_checkpoint(folder / "original_state_dict.safetensors")
    same(open_clip_state_dict(open_clip.convert(checkpoint, config, None).model), original)


@pytest.mark.parametrize(
    ("state", "config"),
    [(tiny.original_state_dict(5), tiny.CONFIG), (tiny.original_state_dict_siglip(5), tiny.CONFIG_SIGLIP)],
    ids=["clip", "siglip"],
)
def test_the_tensors_come_back_bit_for_bit(state: dict[str, torch.Tensor], config: Any) -> None:
    model = converted(state, config)
    same(open_clip_state_dict(model), state)
    halves = {name: tensor.half() for name, tensor in state.items()}
    same({name: t.half() for name, t in open_clip_state_dict(converted(halves, config)).items()}, halves)


@pytest.mark.parametrize("quick", [True, False])
def test_a_clip_folder_comes_back_whole(quick: bool, tmp_path: Path) -> None:
    """With image settings and tokenizer, through the folder that sentence-transformers saves, and converted again."""
    config = {**tiny.CONFIG, "quick_gelu": quick}
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}
    save_file(tiny.original_state_dict(), tmp_path / "weights.safetensors")
    given = {"model_cfg": config, "preprocess_cfg": preprocess}
    tokenizer = tiny.write_tokenizer(tmp_path)
    convert_checkpoint(
        "open_clip", tmp_path / "weights.safetensors", tmp_path / "out", config=given, tokenizer=tokenizer
    )
    SentenceTransformer(str(tmp_path / "out"), device="cpu").save_pretrained(
        str(tmp_path / "again"), create_model_card=False
    )

    back = export_open_clip(tmp_path / "again", tmp_path / "back")
    assert sorted(path.name for path in back.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    same(load_file(back / "open_clip_model.safetensors"), tiny.original_state_dict())
    written = json.loads((back / "open_clip_config.json").read_text())
    assert written["preprocess_cfg"] == preprocess
    assert written["model_cfg"] == config

    report = convert_checkpoint(None, back, tmp_path / "third")
    assert report["family"] == "open_clip" and not report["notes"]
    first, third = CLIPModel.from_pretrained(tmp_path / "out"), CLIPModel.from_pretrained(tmp_path / "third")
    same(third.state_dict(), first.state_dict())
    assert third.config.vision_config.to_dict() == first.config.vision_config.to_dict()


def test_a_published_siglip_has_its_configuration() -> None:
    """What open_clip's own ViT-B-16-SigLIP.json says, from a model of one layer that says it had twelve."""
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = {**vision, "vocab_size": 32000, "max_position_embeddings": 64, "hidden_act": "gelu", "projection_size": 768}
    with torch.device("meta"):
        model = SiglipModel(
            SiglipModel.config_class(
                text_config=text, vision_config={**vision, "image_size": 256, "patch_size": 16, "hidden_act": "gelu"}
            )
        )
    config = open_clip_config(model)
    assert config["vision_cfg"] == {
        "image_size": 256,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    assert config["text_cfg"] == {
        "context_length": 64,
        "vocab_size": 32000,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 768,
        "heads": 12,
        "layers": 12,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-06},
    }
    assert (config["embed_dim"], config["custom_text"], config["init_logit_bias"]) == (768, True, -10)


def test_settings_other_than_the_defaults_are_written() -> None:
    model = converted(tiny.original_state_dict(), tiny.CONFIG)
    model.config.vision_config.intermediate_size = 100
    model.config.text_config.layer_norm_eps = 1e-6
    model.config.text_config.eos_token_id = 7
    for tower in (model.config.vision_config, model.config.text_config):
        tower.hidden_act = "gelu_pytorch_tanh"
    config = open_clip_config(model)
    assert int(24 * config["vision_cfg"]["mlp_ratio"]) == 100 and "mlp_ratio" not in config["text_cfg"]
    assert config["text_cfg"]["norm_kwargs"] == {"eps": 1e-6}
    assert (config["text_cfg"]["pool_type"], config["text_cfg"]["eos_id"]) == ("eos", 7)
    assert not config["quick_gelu"] and config["text_cfg"]["act_kwargs"] == {"approximate": "tanh"}


def test_what_open_clip_has_no_place_for_is_named(tmp_path: Path) -> None:
    clip = converted(tiny.original_state_dict(), tiny.CONFIG)
    clip.config.text_config.hidden_act = "gelu"
    with pytest.raises(ConversionError, match="quick_gelu and gelu; open_clip has one for both"):
        export_open_clip(clip, tmp_path / "out")
    clip.config.text_config.hidden_act = "relu"
    with pytest.raises(ConversionError, match="hidden_act='relu'"):
        export_open_clip(clip, tmp_path / "out")
    with pytest.raises(ConversionError, match="none that timm has a name for"):
        export_open_clip(converted(tiny.original_state_dict_siglip(), tiny.CONFIG_SIGLIP), tmp_path / "out")
    bert = BertModel(BertConfig(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ConversionError, match="a BertModel is neither"):
        export_open_clip(bert, tmp_path / "out")
    with pytest.raises(ConversionError, match="cannot be loaded"):
        export_open_clip(tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = converted(tiny.original_state_dict(), tiny.CONFIG)
    export_open_clip(clip, tmp_path / "out", dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "out" / "open_clip_model.safetensors").values()} == {torch.float16}
    with pytest.raises(ConversionError, match="not an empty folder"):
        export_open_clip(clip, tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("mmembed.conversion.open_clip_export.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        export_open_clip(clip, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
