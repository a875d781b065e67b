"""ruCLIP converted, against the original's own outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor, AutoTokenizer, CLIPModel

from mmembed.conversion import ruclip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint
from mmembed.models.loading import load_model
from tests.conversion import tiny_chinese_clip
from tests.conversion import tiny_ruclip as tiny

# ruclip-vit-base-patch32-224 and ruclip-vit-large-patch14-336, of their config.json.
PUBLISHED = [
    (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    (768, 336, 24, 1024, 14, 77, 49408, 768, 12, 12),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As on the hub, but tiny."""
    path = tmp_path / "ruclip-vit-tiny"
    path.mkdir()
    torch.save(tiny.original_state_dict(), path / "pytorch_model.bin")
    (path / "config.json").write_text(json.dumps(tiny.CONFIG))
    tiny.write_tokenizer(path)
    return path


def checkpoint(tensors: dict[str, Tensor], **fields: Any) -> Checkpoint:
    return Checkpoint(Path("nowhere/pytorch_model.bin"), tensors, **fields)


def test_outputs_are_the_originals(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "parity" / "ruclip"
    report = convert_checkpoint(None, source, tmp_path / "out")
    assert report["family"] == "ruclip" and not report["missing"] and not report["dropped"]
    assert len(report["mapped"]) == len(read_checkpoint(source).tensors)
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(model) is CLIPModel
    given, wanted = load_file(source / "inputs.safetensors"), load_file(source / "outputs.safetensors")

    def close(value: Tensor, name: str, atol: float = 1e-5) -> None:
        torch.testing.assert_close(value, wanted[name], atol=atol, rtol=1e-5, msg=lambda text: f"{name}: {text}")

    with torch.no_grad():
        text = model.get_text_features(given["input_ids"], output_hidden_states=True)
        image = model.get_image_features(given["pixel_values"])
        both = model(input_ids=given["input_ids"], pixel_values=given["pixel_values"])
        first = model(input_ids=given["input_ids"][:3], pixel_values=given["pixel_values"], return_loss=True)
    close(text.hidden_states[-1], "text_transformer_out")
    close(image.last_hidden_state, "vision_transformer_out")
    close(text.pooler_output, "text_features")
    close(image.pooler_output, "image_features")
    close(both.logits_per_image, "logits_per_image", 1e-4)
    close(both.logits_per_text, "logits_per_text", 1e-4)
    close(model.logit_scale.exp().detach(), "logit_scale_exp", 1e-4)
    close(first.loss, "clip_loss_first3", 1e-4)


def test_texts_and_images_are_read_as_the_original_does(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "parity" / "ruclip"
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    convert_checkpoint("ruclip", source / "pytorch_model.bin", tmp_path / "out", config=config)
    given, wanted = load_file(source / "inputs.safetensors"), load_file(source / "outputs.safetensors")
    raw = [Image.fromarray(given[f"raw{number}_uint8_hwc"].numpy()) for number in range(3)]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(images=raw, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, given["pixel_values"], atol=1e-5, rtol=0)
    ids = processor(text=config["texts"], padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, given["input_ids"])

    model = load_model(tmp_path / "out", device="cpu")
    # padded to the longest of the batch, with a mask: the original has neither
    np.testing.assert_allclose(
        model.encode(config["texts"]), F.normalize(wanted["text_features"], dim=-1), atol=1e-5, rtol=0
    )
    images = model.encode([{"image": image} for image in raw])
    np.testing.assert_allclose(images, wanted["predictor_image_latents"], atol=1e-5, rtol=0)
    # Its predictor: the mean of the templates' vectors as they are, and only then of length one.
    labels = [label.lower().strip() for label in config["predictor_labels"]]
    with torch.no_grad():
        latents = torch.stack(
            [
                model[0].model.get_text_features(**processor(text=row, padding=True, return_tensors="pt")).pooler_output
                for row in ([template.format(label) for label in labels] for template in config["predictor_templates"])
            ]
        ).mean(dim=0)
    torch.testing.assert_close(F.normalize(latents, dim=-1), wanted["predictor_text_latents"], atol=1e-5, rtol=0)


def test_a_folder_converts_whole(folder: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(None, folder, tmp_path / "out")
    assert report["family"] == "ruclip" and not report["missing"]
    model = load_model(tmp_path / "out", device="cpu")
    assert model.encode(["red mug", "кошка"]).shape == (2, 12)
    config = model[0].model.config.text_config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)
    assert config.hidden_act == model[0].model.config.vision_config.hidden_act == "quick_gelu"
    assert model.max_seq_length == tiny.CONFIG["context_length"]


def test_a_texts_vector_is_that_of_its_end_whatever_follows(folder: Path) -> None:
    conversion = ruclip.convert(read_checkpoint(folder), None, None)
    model, words = conversion.model, conversion.processor.tokenizer
    highest = len(words) - 1  # where the end would be the highest id, as in OpenAI's CLIP, this token would be pooled
    ids = torch.tensor([[2, 5, highest, 3, 0, 0, 0], [2, 5, 6, 7, 8, 9, 3]])
    with torch.no_grad():
        batch = model.get_text_features(ids, attention_mask=(ids != 0).long(), output_hidden_states=True)
        alone = model.get_text_features(ids[:1, :4])
        states = model.text_model.final_layer_norm(batch.hidden_states[-1])
        by_hand = model.text_projection(states[torch.arange(2), torch.tensor([3, 6])])
    torch.testing.assert_close(batch.pooler_output, by_hand, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.pooler_output[:1], alone.pooler_output, atol=1e-6, rtol=0)


def test_images_are_cut_to_a_square_and_then_scaled(folder: Path) -> None:
    processor = ruclip.convert(read_checkpoint(folder), None, None).processor
    pixels = np.random.default_rng(0).integers(0, 256, (90, 57, 3), dtype=np.uint8)
    made = processor(images=[Image.fromarray(pixels)], do_normalize=False, return_tensors="pt")["pixel_values"][0]
    square = Image.fromarray(pixels[16 : 16 + 57]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(made.permute(1, 2, 0), np.asarray(square) / 255, atol=1e-6)
    other = {**tiny.CONFIG, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    images = ruclip.convert(read_checkpoint(folder), other, None).image_processor
    assert (list(images.image_mean), list(images.image_std)) == (other["mean"], other["std"])


def test_the_weights_alone_lack_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(folder / "pytorch_model.bin", tmp_path / "alone")
    file = tmp_path / "alone" / "pytorch_model.bin"
    report = convert_checkpoint("ruclip", file, tmp_path / "out", config=tiny.CONFIG)
    assert "bpe.model" in report["missing"][0]
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["resample"] == 2
    for number, tokenizer in enumerate((folder, folder / "bpe.model")):
        out = tmp_path / f"out{number}"
        assert not convert_checkpoint("ruclip", file, out, config=tiny.CONFIG, tokenizer=tokenizer)["missing"]
        assert AutoTokenizer.from_pretrained(out)("red")["input_ids"][0] == 2
    again = convert_checkpoint("ruclip", file, tmp_path / "again", config=tiny.CONFIG, tokenizer=tmp_path / "out0")
    assert not again["missing"]


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("sizes", PUBLISHED)
def test_published_sizes_need_no_configuration(sizes: tuple[int, ...]) -> None:
    names = ("embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size", "context_length")
    names += ("vocab_size", "transformer_width", "transformer_heads", "transformer_layers")
    config = dict(zip(names, sizes, strict=True))
    tensors = tiny.original_state_dict(None, config)
    with torch.device("meta"):  # shapes without values
        made = ruclip.convert(checkpoint(tensors), None, None).model.config
    assert made.text_config.num_attention_heads == config["transformer_heads"]
    assert made.vision_config.num_attention_heads == config["vision_width"] // 64
    assert made.vision_config.image_size == config["image_resolution"]
    assert made.projection_dim == config["embed_dim"]


def test_it_is_told_from_openai_by_what_lies_beside(folder: Path, tmp_path: Path) -> None:
    assert ruclip.recognises(read_checkpoint(folder))
    (folder / "bpe.model").unlink()
    assert ruclip.recognises(read_checkpoint(folder))  # by its configuration
    (folder / "config.json").unlink()
    assert not ruclip.recognises(read_checkpoint(folder))
    tiny.write_tokenizer(folder)
    assert ruclip.recognises(read_checkpoint(folder))
    torch.save(tiny_chinese_clip.original_state_dict(), folder / "pytorch_model.bin")
    assert not ruclip.recognises(read_checkpoint(folder))


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {}, "text tower: a width of 16 is no multiple of 64.*config.json"),
        ({}, {"vision_cfg": {"width": 64}}, r"none of ruCLIP's settings .*\['vision_cfg'\]"),
        ({}, {**tiny.CONFIG, "context_length": 77}, "context_length 77 instead of 20"),
        ({}, {**tiny.CONFIG, "image_resolution": 224}, "image_resolution 224 instead of 32"),
        ({"ln_final.weight": None}, tiny.CONFIG, r"1 missing: ln_final\.weight"),
        ({"visual.attnpool.c_proj.bias": torch.zeros(1)}, tiny.CONFIG, "1 keys are not of the family ruclip"),
        ({"visual.positional_embedding": torch.zeros(16, 64)}, tiny.CONFIG, "16 image positions"),
        ({"ln_final.weight": torch.zeros(9)}, tiny.CONFIG, r"1 of another shape.*\(9,\) instead of \(16,\)"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], config: Any, message: str) -> None:
    tensors = {**tiny.original_state_dict(), **change}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ConversionError, match=message):
        ruclip.convert(checkpoint(tensors), config, None)


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    read = read_checkpoint(folder)
    bpe = folder / "bpe.model"
    swapped = bpe.read_text().replace("1 0 2 3\n", "1 0 3 2\n")
    (tmp_path / "swapped.model").write_text(swapped)
    with pytest.raises(ConversionError, match="0, 3 and 2; ruCLIP pools at id 3"):
        ruclip.convert(read, None, tmp_path / "swapped.model")
    small = {**read.tensors, "token_embedding.weight": read.tensors["token_embedding.weight"][:-1]}
    with pytest.raises(ConversionError, match=r"has \d+ tokens, and"):
        ruclip.convert(checkpoint(small), {**tiny.CONFIG, "vocab_size": None}, bpe)
    with pytest.raises(ConversionError, match="neither a bpe.model nor a tokenizer"):
        ruclip.convert(read, None, tmp_path / "absent")
