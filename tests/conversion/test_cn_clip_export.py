"""Chinese-CLIP back in cn_clip's layouts: the very bits, the names that cn_clip's own code makes of one another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from mmembed.conversion import chinese_clip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.cn_clip_export import cn_clip_state_dict, export_cn_clip
from mmembed.conversion.converting import convert_checkpoint
from tests.conversion import tiny_chinese_clip as tiny

VARIANTS = {
    "vit": (tiny.original_state_dict, tiny.CONFIG),
    "resnet": (tiny.original_state_dict_resnet, tiny.CONFIG_RESNET),
}


def flash_layout(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What cn_clip's convert_state_dict makes of the standard layout, written down name by name."""
    flash = dict(tensors)
    for layer in range(2):
        block, text = f"visual.transformer.resblocks.{layer}.attn", f"bert.encoder.layer.{layer}.attention"
        for kind in ("weight", "bias"):
            if f"{block}.in_proj_{kind}" in flash:
                flash[f"{block}.Wqkv.{kind}"] = flash.pop(f"{block}.in_proj_{kind}")
            parts = [flash.pop(f"{text}.self.{name}.{kind}") for name in ("query", "key", "value")]
            flash[f"{text}.self.Wqkv.{kind}"] = torch.cat(parts)
            flash[f"{text}.self.out_proj.{kind}"] = flash.pop(f"{text}.output.dense.{kind}")
    return flash


def assert_same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert set(one) == set(two), set(one) ^ set(two)
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and tensor.shape == two[name].shape, name
        assert torch.equal(tensor, two[name]), name


def model_of(tensors: dict[str, Tensor], config: dict) -> nn.Module:
    return chinese_clip.convert(Checkpoint(Path("clip.pt"), tensors), config, None).model


@pytest.mark.parametrize("variant", VARIANTS)
def test_back_in_the_standard_layout_it_has_the_same_bits(variant: str) -> None:
    make, config = VARIANTS[variant]
    tensors = make()
    assert_same_bits(cn_clip_state_dict(model_of(tensors, config)), tensors)


@pytest.mark.parametrize("variant", VARIANTS)
def test_flash_attentions_layout_is_read_and_written(variant: str) -> None:
    make, config = VARIANTS[variant]
    tensors = make()
    flash = flash_layout(tensors)
    model = model_of(flash, config)
    standard = model_of(tensors, config).state_dict()
    assert_same_bits(dict(model.state_dict()), dict(standard))
    assert_same_bits(cn_clip_state_dict(model, layout="flash"), flash)
    assert_same_bits(cn_clip_state_dict(model), tensors)


@pytest.mark.parametrize("layout", ["standard", "flash"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_goes_there_and_back(variant: str, layout: str, tmp_path: Path) -> None:
    make, config = VARIANTS[variant]
    state = {f"module.{name}": tensor for name, tensor in make(3).items()}
    original = {"epoch": 15, "step": 15000, "name": "muge", "state_dict": state}
    torch.save(original, tmp_path / "original.pt")
    convert_checkpoint(None, tmp_path / "original.pt", tmp_path / "model", config=config)
    written = export_cn_clip(
        tmp_path / "model", tmp_path / "back" / "epoch15.pt", layout=layout, epoch=15, step=15000, name="muge"
    )
    back = torch.load(written, weights_only=True)
    assert {name: back[name] for name in ("epoch", "step", "name")} == {"epoch": 15, "step": 15000, "name": "muge"}
    if layout == "standard":
        assert_same_bits(back["state_dict"], state)
    assert all(name.startswith("module.") for name in back["state_dict"])
    assert [entry.name for entry in written.parent.iterdir()] == ["epoch15.pt"]
    convert_checkpoint(None, written, tmp_path / "again", config=config)
    report = json.loads((tmp_path / "again" / "conversion_report.json").read_text())
    assert report["source"]["nesting"] == ["state_dict", "module."]
    first, second = (read_checkpoint(tmp_path / name).tensors for name in ("model", "again"))
    assert_same_bits(first, second)


@pytest.mark.parametrize("variant", ["vit_b_16_rbt_base", "rn50_rbt3"])
def test_the_originals_file_comes_back(variant: str, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "parity" / "chinese_clip" / variant / "original_checkpoint.pt"
    convert_checkpoint("chinese_clip", file, tmp_path / "model")
    original = torch.load(file, weights_only=True)
    rest = {name: original[name] for name in ("epoch", "step", "name")}
    back = torch.load(export_cn_clip(tmp_path / "model", tmp_path / "back.pt", **rest), weights_only=True)
    assert_same_bits(back["state_dict"], dict(original["state_dict"]))
    assert {name: back[name] for name in back if name != "state_dict"} == rest


def test_halves_come_back_as_halves(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in tiny.original_state_dict().items()}
    written = export_cn_clip(model_of(halves, tiny.CONFIG), tmp_path / "half.pt", dtype=torch.float16)
    assert_same_bits(read_checkpoint(written).tensors, halves)
    resnet = export_cn_clip(
        model_of(tiny.original_state_dict_resnet(), tiny.CONFIG_RESNET), tmp_path / "rn.pt", dtype=torch.float16
    )
    counts = [t for n, t in read_checkpoint(resnet).tensors.items() if n.endswith("num_batches_tracked")]
    assert counts and {tensor.dtype for tensor in counts} == {torch.int64}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    model = model_of(tiny.original_state_dict(), tiny.CONFIG)
    with pytest.raises(ConversionError, match="layout='torch'; choose one of standard, flash"):
        export_cn_clip(model, tmp_path / "out.pt", layout="torch")
    (tmp_path / "there.pt").write_text("mine")
    with pytest.raises(ConversionError, match="there.pt exists"):
        export_cn_clip(model, tmp_path / "there.pt")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    clip = CLIPModel(CLIPConfig(text_config={**small, "vocab_size": 9}, vision_config={**small, "image_size": 32}))
    with pytest.raises(ConversionError, match="CLIPModel is no Chinese-CLIP"):
        export_cn_clip(clip, tmp_path / "out.pt")
    with pytest.raises(ConversionError, match="nowhere cannot be loaded"):
        export_cn_clip(tmp_path / "nowhere", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
