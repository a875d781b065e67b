"""Every family that has a verb exports it, and the folder gives the model's vectors: rows of each kind, mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import LlamaConfig, LlamaModel, XLMRobertaConfig, XLMRobertaModel

from mmembed.export.onnx import export_onnx
from mmembed.export.onnx_embedder import OnnxEmbedder
from mmembed.export.onnx_files import read_export
from mmembed.export.onnx_verbs import verbs_of
from mmembed.export.parity_inputs import ParityInputs
from mmembed.models.loading import load_model
from tests.conversion.test_family_contract import FAMILIES, converted  # noqa: F401
from tests.models.tiny_models import BERT, TWO_TOWERS, build, spread, tokenizer
from tests.rerankers.tiny_rerankers import roberta_tokenizer
from tests.tiny_models import tiny_dual_encoder

THINGS = ["mug", "desk lamp", "wool hat", "quick brown fox", "lazy dog"]
COLOURS = ["red", "blue", "green", "红色"]
TEXTS = [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS] + [
    "dog",
    "a red mug over a lazy dog jumps the fox",
]
IMAGES = [
    # Noise of several sizes and brightnesses: random towers tell plain colours hardly apart.
    torch.randint(
        0, 64 + 9 * row, (20 + row, 31, 3), generator=torch.Generator().manual_seed(row), dtype=torch.uint8
    ).numpy()
    for row in range(16)
]


def pictures() -> list[Any]:
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in IMAGES]


def check(model: SentenceTransformer, folder: Path, verbs: list[str] | None = None) -> OnnxEmbedder:
    known = verbs_of(model)
    images = pictures()
    inputs = ParityInputs(texts=TEXTS, images=images, source="tiny rows")
    found = export_onnx(model, folder, verbs=verbs, inputs=inputs, show_progress_bar=False)
    assert [parity.name for parity in found] == [f"{verb}_fp32" for verb in verbs or known]
    assert all(parity.max_difference <= 1e-5 for parity in found)
    embedder = OnnxEmbedder(folder, threads=1)
    kinds = {
        "text": [{"text": text} for text in TEXTS[:3]],
        "image": [{"image": image} for image in images[:3]],
        "fused": [{"text": text, "image": image} for text, image in zip(TEXTS[:3], images[3:6])],
    }
    rows = [row for triple in zip(*(kinds[verb] for verb in embedder.verbs)) for row in triple]
    np.testing.assert_allclose(embedder.encode(rows), model.encode(rows), atol=1e-5)
    return embedder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_converted_families(family, converted, tmp_path):  # noqa: F811
    model = load_model(converted(family), device="cpu")
    verbs = verbs_of(model)
    assert ("text" in verbs, "image" in verbs) == (family.text, family.image)
    check(model, tmp_path / "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("family", TWO_TOWERS)
def test_stock_two_towers(family, tmp_path):
    model, processor = build(family)
    spread(model).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    check(load_model(tmp_path / "model", device="cpu"), tmp_path / "onnx")


def test_texts_of_a_fixed_width(tmp_path):
    """SigLIP reads padding as text: every text has one length, and the graph takes no other."""
    model, processor = build("siglip")
    spread(model).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    check(load_model(tmp_path / "model", device="cpu"), tmp_path / "onnx", ["text"])
    about, graphs = read_export(tmp_path / "onnx")
    assert about["fixed_length"] is True
    assert graphs[0].inputs == {"input_ids": {"dtype": "int64", "shape": ["batch", 32]}}


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["weighted_sum", "concat", "mlp"])
def test_ways_of_fusing(fusion, tmp_path):
    check(tiny_dual_encoder(fusion=fusion, text_pooling="last"), tmp_path / "onnx", ["text", "fused"])


def text_folder(folder: Path, kind: str) -> Path:
    torch.manual_seed(3)
    if kind == "xlm-roberta":
        words = roberta_tokenizer()
        config: Any = XLMRobertaConfig(**{**BERT, "max_position_embeddings": 34}, vocab_size=len(words), pad_token_id=1)
        model: Any = XLMRobertaModel(config)
    else:
        words = tokenizer()
        words.padding_side = "left" if kind == "llama, left" else "right"
        small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaModel(LlamaConfig(**small, vocab_size=len(words), max_position_embeddings=32, pad_token_id=0))
        model.config.architectures = ["LlamaForCausalLM"]
    spread(model).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("xlm-roberta", "mean"), ("xlm-roberta", "cls"), ("llama, right", "lasttoken"), ("llama, left", "lasttoken")],
)
def test_text_embedders(kind, pooling, tmp_path):
    model = load_model(text_folder(tmp_path / "model", kind), device="cpu", pooling=pooling)
    embedder = check(model, tmp_path / "onnx")
    assert embedder.about["pooling"] == pooling


@pytest.mark.slow
def test_dense_layers_are_part_of_the_graph(tmp_path):
    from sentence_transformers.base.modules import Dense

    model = load_model(text_folder(tmp_path / "model", "xlm-roberta"), device="cpu", pooling="mean")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = Dense(16, 5)
    wide = SentenceTransformer(modules=[model[0], model[1], dense, model[2]], device="cpu")
    assert check(wide, tmp_path / "onnx").encode("mug").shape == (5,)


@pytest.mark.slow
def test_a_model_in_half_precision_is_exported_in_full(tmp_path):
    model, processor = build("clip")
    spread(model).half().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    half = load_model(tmp_path / "model", device="cpu", model_kwargs={"dtype": torch.float16})
    inputs = ParityInputs(texts=TEXTS, source="tiny rows")
    found = export_onnx(half, tmp_path / "onnx", verbs=["text"], inputs=inputs, show_progress_bar=False)
    assert found[0].passed and half.dtype == torch.float16
    whole = load_model(tmp_path / "model", device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(OnnxEmbedder(tmp_path / "onnx", threads=1).encode(TEXTS), whole.encode(TEXTS), atol=1e-5)
