"""Text embedders by `load_model`: each pooling reads only what is no padding, on either side, as counted by hand."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen2Config,
    Qwen2Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mmembed.models.loading import load_model

from .tiny_models import BERT, spread, tokenizer

TEXTS = ["a red mug", "the quick brown fox jumps over a lazy dog", "hat", "红色杯子 blue desk lamp"]
KINDS = ["bert", "xlm-roberta", "decoder"]
POOLINGS = ["cls", "mean", "lasttoken"]


def text_folder(kind: str, folder: Path, padding_side: str = "right") -> Path:
    """A plain transformers folder of a tiny text model."""
    torch.manual_seed(11)
    words = tokenizer()
    words.padding_side = words.init_kwargs["padding_side"] = padding_side
    if kind == "bert":
        model = BertModel(BertConfig(**BERT, vocab_size=len(words)))
    elif kind == "xlm-roberta":
        # Positions are counted over what is not padding, so its id must be the tokenizer's.
        config = {**BERT, "max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": words.pad_token_id}
        model = XLMRobertaModel(XLMRobertaConfig(**config, vocab_size=len(words)))
    else:
        config = {**BERT, "num_key_value_heads": 1, "pad_token_id": words.pad_token_id}
        model = Qwen2Model(Qwen2Config(**config, vocab_size=len(words)))
    spread(model).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector of length 1 a row, counted token by token."""
    rows = []
    for states, present in zip(hidden, mask.bool()):
        tokens = [state for state, there in zip(states, present) if there]
        rows.append({"cls": tokens[0], "lasttoken": tokens[-1], "mean": sum(tokens) / len(tokens)}[pooling])
    return F.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_poolings_are_those_counted_by_hand(kind: str, padding_side: str, tmp_path) -> None:
    folder = text_folder(kind, tmp_path / "plain", padding_side)
    words, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    tokens = words(TEXTS, padding=True, return_tensors="pt")
    assert tokens["attention_mask"][0, 0 if padding_side == "left" else -1] == 0
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    for pooling in POOLINGS:
        expected = pooled(hidden, tokens["attention_mask"], pooling).numpy()
        loaded = load_model(folder, device="cpu", pooling=pooling)
        assert [type(module).__name__ for module in loaded] == ["Transformer", "Pooling", "Normalize"]
        assert np.abs(loaded.encode(TEXTS) - expected).max() < 1e-6
        # What was saved with its modules keeps its pooling, in plain sentence-transformers too.
        loaded.save_pretrained(str(tmp_path / pooling))
        for again in (load_model(tmp_path / pooling, device="cpu"), SentenceTransformer(str(tmp_path / pooling))):
            assert np.abs(again.encode(TEXTS) - expected).max() < 1e-6


# BERT padded on the left is left out: it counts its positions over the padding.
@pytest.mark.parametrize(("kind", "padding_side"), [("bert", "right"), *product(KINDS[1:], ("right", "left"))])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_has_the_same_vector_alone(kind: str, pooling: str, padding_side: str, tmp_path) -> None:
    model = load_model(text_folder(kind, tmp_path, padding_side), device="cpu", pooling=pooling)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert np.abs(model.encode(TEXTS) - alone).max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_prompt_is_a_part_of_what_is_pooled(pooling: str, tmp_path) -> None:
    model = load_model(text_folder("bert", tmp_path), device="cpu", pooling=pooling)
    assert np.abs(model.encode(["mug"], prompt="red ") - model.encode(["red mug"])).max() < 1e-6


def test_flag_embeddings_poolings(shared_data, tmp_path) -> None:
    folder = shared_data / "parity" / "flag_embedder"
    config = BertConfig(**json.loads((folder / "config.json").read_text())["model_config"])
    bert = BertModel(config)
    bert.load_state_dict(load_file(folder / "original_state_dict.safetensors"))
    bert.save_pretrained(tmp_path)
    tokenizer(config.max_position_embeddings).save_pretrained(tmp_path)
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    for pooling, recorded in zip(POOLINGS, ("cls", "mean", "last_token")):
        model = load_model(tmp_path, device="cpu", pooling=pooling)
        features = {name: inputs[f"query_{name}"] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            vectors = model(features)["sentence_embedding"]
        torch.testing.assert_close(vectors, outputs[f"q_reps_{recorded}"], atol=1e-5, rtol=0)
