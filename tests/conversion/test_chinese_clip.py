"""Chinese-CLIP converted, against the original's own outputs and its published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from mmembed.conversion import chinese_clip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint, recognise
from mmembed.models.loading import load_model
from tests.conversion import tiny_chinese_clip as tiny
from tests.conversion import tiny_ruclip

VARIANTS = ("vit_b_16_rbt_base", "rn50_rbt3")
ROUNDED = "__official_fp16_rounded"
OPENAI_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
OPENAI_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)

# Of the README of OFA-Sys/Chinese-CLIP, in millions, and of cn_clip/clip/model_configs.
BASE = {"text_hidden_size": 768, "text_intermediate_size": 3072, "text_num_hidden_layers": 12}
LARGE = {"text_hidden_size": 1024, "text_intermediate_size": 4096, "text_num_hidden_layers": 24}
WORDS = {"vocab_size": 21128, "text_max_position_embeddings": 512}
PUBLISHED = {
    "vit-b-16": (188, 12, 12, {"embed_dim": 512, "vision_layers": 12, "vision_width": 768, **BASE}, 224, 16),
    "vit-l-14": (406, 16, 12, {"embed_dim": 768, "vision_layers": 24, "vision_width": 1024, **BASE}, 224, 14),
    "vit-l-14-336": (407, 16, 12, {"embed_dim": 768, "vision_layers": 24, "vision_width": 1024, **BASE}, 336, 14),
    "vit-h-14": (958, 16, 16, {"embed_dim": 1024, "vision_layers": 32, "vision_width": 1280, **LARGE}, 224, 14),
    "rn50": (
        77,
        32,
        12,
        {"embed_dim": 1024, "vision_layers": "[3,4,6,3]", "vision_width": 64, **BASE, "text_num_hidden_layers": 3},
        224,
        None,
    ),
}


def checkpoint(tensors: dict[str, Tensor], folder: Path = Path("nowhere"), **fields: Any) -> Checkpoint:
    return Checkpoint(folder / "clip_cn.pt", tensors, **fields)


@pytest.mark.parametrize("suffix", ["", ROUNDED])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_the_originals(variant: str, suffix: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "parity" / "chinese_clip" / variant
    config = json.loads((folder / "config.json").read_text())
    settings = {**config, "official_fp16_rounding": bool(suffix)}
    report = convert_checkpoint(None, folder / "original_checkpoint.pt", tmp_path / "out", config=settings)
    assert report["family"] == "chinese_clip" and len(report["mapped"]) == config["n_keys"] and not report["dropped"]
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")

    def close(value: Tensor, name: str, atol: float = 1e-5) -> None:
        torch.testing.assert_close(value.detach(), wanted[name + suffix], atol=atol, rtol=1e-5, msg=lambda m: name + m)

    text = model.get_text_features(given["input_ids"], attention_mask=given["attention_mask"])
    image = model.get_image_features(pixel_values=given["pixel_values"])
    close(text.last_hidden_state, "text_last_hidden")
    close(image.last_hidden_state, "vision_layer4" if variant == "rn50_rbt3" else "vision_last_hidden")
    close(text.pooler_output, "text_features")
    close(image.pooler_output, "image_features")
    texts, images = F.normalize(text.pooler_output, dim=-1), F.normalize(image.pooler_output, dim=-1)
    close(texts, "text_embeds_normalized")
    close(images, "image_embeds_normalized")
    scale = model.logit_scale.exp().reshape(())
    close(scale, "logit_scale_exp")
    logits = scale * images @ texts.T
    close(logits, "logits_per_image", 1e-4)
    close(logits.T, "logits_per_text", 1e-4)
    rows = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    close(loss, "loss", 1e-4)
    if suffix:
        return
    loss.backward()
    close(model.logit_scale.grad.reshape(()), "grad_logit_scale", 1e-4)
    close(model.text_projection.weight.grad.T, "grad_text_projection", 1e-4)
    kernel = dict(model.named_parameters()).get("vision_model.embeddings.patch_embedding.weight")
    kernel = model.vision_model.conv1.weight if kernel is None else kernel
    torch.testing.assert_close(kernel.grad.norm(), wanted["grad_visual_conv1_norm"], rtol=1e-4, atol=1e-4)
    if variant != "rn50_rbt3":
        names = ("input_ids", "attention_mask", "pixel_values")
        close(model(**{name: given[name] for name in names}, return_loss=True).loss, "loss", 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_are_squashed_as_the_original_does(variant: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "parity" / "chinese_clip" / variant
    config = json.loads((folder / "config.json").read_text())
    vocabulary = ["[PAD]", *(f"word{number}" for number in range(1, config["model_info"]["vocab_size"]))]
    vocabulary[100:103] = ["[UNK]", "[CLS]", "[SEP]"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    file = folder / "original_checkpoint.pt"
    report = convert_checkpoint("chinese_clip", file, tmp_path / "out", config=config, tokenizer=tmp_path / "vocab.txt")
    assert not report["missing"]
    raw = Image.fromarray(load_file(folder / "inputs.safetensors")["raw_image_uint8_hwc"].numpy())
    wanted = load_file(folder / "outputs.safetensors")["preprocessed"]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(images=[raw], return_tensors="pt")["pixel_values"][0]
    if pixels.dtype == torch.uint8:  # our own model normalises
        pixels = (pixels / 255 - OPENAI_MEAN) / OPENAI_STD
    # Pillow 13 scales the height first where that is cheaper, and so rounds other intermediate values.
    levels = ((pixels - wanted) * OPENAI_STD * 255).round().abs()
    assert levels.max() <= (1 if variant == "rn50_rbt3" else 0)
    torch.testing.assert_close(pixels, wanted, atol=0.016 if levels.any() else 1e-5, rtol=0)
    model = load_model(tmp_path / "out", device="cpu")
    with torch.no_grad():
        alone = F.normalize(model[0].model.get_image_features(pixel_values=pixels[None]).pooler_output, dim=-1)
    np.testing.assert_allclose(model.encode([{"image": raw}]), alone, atol=1e-5)
    words = processor.tokenizer("word9 word12", padding="max_length", truncation=True)
    assert words["input_ids"][:3] == [101, 9, 12] and processor.tokenizer.model_max_length == 24


def test_positions_are_resized_as_the_original_does(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "parity" / "chinese_clip" / "vit_b_16_rbt_base"
    config = json.loads((folder / "config.json").read_text())
    size = config["resized_model_image_resolution"]
    settings = {**config["model_info"], "image_resolution": size}
    report = convert_checkpoint("chinese_clip", folder / "original_checkpoint.pt", tmp_path / "out", config=settings)
    assert any("resized from 32 to 48" in note for note in report["notes"])
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    positions = model.vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(positions.detach(), wanted["resized_positional_embedding"], atol=1e-5, rtol=0)
    with torch.no_grad():
        vectors = model.get_image_features(pixel_values=given["pixel_values_resized_model"]).pooler_output
    torch.testing.assert_close(vectors, wanted["image_features_resized_model"], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_need_no_configuration(name: str) -> None:
    millions, vision_heads, text_heads, sizes, resolution, patch = PUBLISHED[name]
    config = {**sizes, **WORDS, "image_resolution": resolution, "vision_patch_size": patch}
    make = tiny.original_state_dict if patch else tiny.original_state_dict_resnet
    tensors = make(None, config)
    with torch.device("meta"):  # shapes without values
        conversion = chinese_clip.convert(checkpoint(tensors), None, None)
    made = conversion.model.config
    assert round(sum(p.numel() for p in conversion.model.parameters()) / 1e6) == millions
    text = made.text_config
    assert text.num_attention_heads == text_heads and text.num_hidden_layers == sizes["text_num_hidden_layers"]
    assert (text.layer_norm_eps, text.hidden_act) == (1e-12, "gelu")
    assert made.projection_dim == sizes["embed_dim"]
    if patch:
        vision = made.vision_config
        assert (vision.num_attention_heads, vision.image_size, vision.patch_size) == (vision_heads, resolution, patch)
        assert vision.hidden_act == "quick_gelu" and vision.num_hidden_layers == sizes["vision_layers"]
        # as in the preprocessor_config.json of OFA-Sys/chinese-clip-*
        images = conversion.image_processor
        assert images.do_resize and not images.do_center_crop and images.resample == 3
        assert dict(images.size) == {"height": resolution, "width": resolution}
    else:
        assert (made.vision_heads, made.vision_layers, made.image_size) == (vision_heads, [3, 4, 6, 3], resolution)
    assert "tokenizer" in conversion.missing[0]


@pytest.mark.parametrize("resnet", [False, True])
def test_halves_are_read_as_what_they_are(resnet: bool) -> None:
    config = tiny.CONFIG_RESNET if resnet else tiny.CONFIG
    tensors = tiny.original_state_dict_resnet() if resnet else tiny.original_state_dict()
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model = chinese_clip.convert(checkpoint(halves), config, None).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounded = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in halves.items()}
    same = chinese_clip.convert(checkpoint(rounded), config, None).model
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_pooler_is_dropped_and_said_to_be(tmp_path: Path) -> None:
    tensors = tiny.original_state_dict()
    tensors["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 15, "step": 3, "name": "run", "state_dict": state}, tmp_path / "epoch15.pt")
    report = convert_checkpoint(None, tmp_path / "epoch15.pt", tmp_path / "out", config=tiny.CONFIG)
    assert list(report["dropped"]) == ["bert.pooler.dense.weight"] and "never trained" in str(report["dropped"])
    assert len(report["mapped"]) == len(tensors) - 1


def test_the_training_checkpoint_of_cn_clip_is_read_with_its_optimizer_left_out(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in tiny.original_state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]}
    held = {"epoch": 1, "step": 2, "name": "muge", "state_dict": state, "optimizer": optimizer}
    torch.save(held, tmp_path / "epoch_latest.pt")
    read = read_checkpoint(tmp_path / "epoch_latest.pt")
    assert recognise(read) == "chinese_clip"
    assert "optimizer" in read.rest and not any("optim" in name for name in read.tensors)
    chinese_clip.convert(read, tiny.CONFIG, None)


def test_the_positions_of_a_texts_padding_do_not_matter(tmp_path: Path) -> None:
    words = tiny.write_tokenizer(tmp_path)
    conversion = chinese_clip.convert(checkpoint(tiny.original_state_dict()), tiny.CONFIG, words)
    texts = ["a red mug", "红色的杯子 jumps over the lazy dog"]
    batch = conversion.processor(text=texts, padding="max_length", truncation=True, return_tensors="pt")
    alone = conversion.processor(text=texts[:1], return_tensors="pt")
    with torch.no_grad():
        together = conversion.model.get_text_features(**batch).pooler_output[0]
        single = conversion.model.get_text_features(**alone).pooler_output[0]
    torch.testing.assert_close(together, single, atol=1e-6, rtol=0)
    assert batch["input_ids"].shape[1] == 32 == min(52, tiny.CONFIG["text_max_position_embeddings"])


def test_it_knows_its_own_keys_alone() -> None:
    assert chinese_clip.recognises(checkpoint(tiny.original_state_dict()))
    assert chinese_clip.recognises(checkpoint(tiny.original_state_dict_resnet()))
    assert not chinese_clip.recognises(checkpoint(tiny_ruclip.original_state_dict()))
    assert not chinese_clip.recognises(checkpoint({"bert.embeddings.word_embeddings.weight": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, None, r"text tower.*|image tower: a width of 24 is no multiple of 64.*vision_head_width"),
        ({}, {**tiny.CONFIG, "vision_width": 48}, "vision_width 48 instead of 24"),
        ({}, {**tiny.CONFIG, "vision_head_width": 7}, "24 is no multiple of 7"),
        ({}, {"model_info": [1]}, "model_info is a list"),
        ({}, {"vision_cfg": {"width": 24}}, r"none of cn_clip's settings .*\['vision_cfg'\]"),
        ({"visual.ln_post.bias": None}, tiny.CONFIG, r"1 missing: visual\.ln_post\.bias"),
        (
            {"bert.encoder.layer.1.attention.self.query.bias": None},
            tiny.CONFIG,
            r"1 missing: bert\.encoder\.layer\.1\.attention\.self\.query\.bias",
        ),
        ({"visual.queue": torch.zeros(1)}, tiny.CONFIG, "1 keys are not of the family chinese_clip: visual.queue"),
        ({"visual.ln_pre.bias": torch.zeros(9)}, tiny.CONFIG, r"1 of another shape.*\(9,\) instead of \(24,\)"),
        ({"visual.positional_embedding": torch.zeros(16, 24)}, tiny.CONFIG, "16 image positions"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], config: Any, message: str) -> None:
    tensors = {**tiny.original_state_dict(), **change}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ConversionError, match=message):
        chinese_clip.convert(checkpoint(tensors), config, None)


def test_a_resnet_keeps_its_resolution_and_names_bad_stages() -> None:
    tensors = tiny.original_state_dict_resnet()
    with pytest.raises(ConversionError, match="image_resolution 96.*is for 64.*ViTs only"):
        chinese_clip.convert(checkpoint(tensors), {**tiny.CONFIG_RESNET, "image_resolution": 96}, None)
    with pytest.raises(ConversionError, match="is no list of numbers"):
        chinese_clip.convert(checkpoint(tensors), {**tiny.CONFIG_RESNET, "vision_layers": "[1,2"}, None)


def test_settings_beside_the_checkpoint_are_found(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny.original_state_dict()}, tmp_path / "clip.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_info": tiny.CONFIG}))
    report = convert_checkpoint("chinese_clip", tmp_path / "clip.pt", tmp_path / "out")
    assert report["model"] == "ChineseCLIPModel"
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["vision_config"]["num_attention_heads"] == 3
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["do_center_crop"] is False
