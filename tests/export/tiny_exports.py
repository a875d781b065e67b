"""Tiny models, rows for them, and graphs that are wrong on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

import mmembed.export.onnx as exporting
from mmembed.export.parity_inputs import ParityInputs
from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.models.loading import load_model
from tests.tiny_models import WORDS

TEXTS = [" ".join(f"word{(7 * row + place) % 60} mug" for place in range(1 + row % 6)) for row in range(20)]
IMAGES = [
    Image.fromarray(np.random.default_rng(row).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((40 + row, 33))
    for row in range(20)
]
ROWS = ParityInputs(texts=TEXTS, images=IMAGES, source="tiny rows")


def tiny_text_embedder(folder: Path, pooling: str = "cls", seed: int = 0, layers: int = 1) -> SentenceTransformer:
    """A BERT whose tokens differ much, so that another token pooled is another vector."""
    words = train_tokenizer(WORDS, vocab_size=200, max_length=24)
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": layers}
    config = BertConfig(**small, vocab_size=len(words), max_position_embeddings=24, initializer_range=0.5)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    words.save_pretrained(folder)
    model = load_model(folder, device="cpu", pooling=pooling)
    model.prompts["query"] = "red "
    return model


def copying(monkeypatch: pytest.MonkeyPatch, graph: Path) -> Callable[..., None]:
    """Tracing takes seconds: what this returns has a graph copied instead, and changed on the way by what it is given."""

    def install(change: Callable[[Path], object] = lambda path: None) -> None:
        def write(model: Any, verb: str, features: Any, folder: Path, **options: Any) -> Path:
            path = Path(shutil.copy(graph, folder))
            change(path)
            return path

        monkeypatch.setattr(exporting, "write_graph", write)

    return install


def reverse_batch(path: Path) -> None:
    """Turn a graph's rows round: the last row's vector comes first."""
    model = onnx.load(path)
    last = model.graph.node[-1]
    name = model.graph.output[0].name
    assert name in last.output
    last.output[list(last.output).index(name)] = "in_order"
    numbers = {"starts": [-1], "ends": [-(2**62)], "axes": [0], "steps": [-1]}
    for key, value in numbers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), key))
    model.graph.node.append(onnx.helper.make_node("Slice", ["in_order", *numbers], [name]))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def save_with_external_data(path: Path, location: str) -> Path:
    """A graph that adds a tensor which lies in another file, at any location that is written here."""
    tensor = onnx.TensorProto(name="weight", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "weight"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
        [tensor],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path
