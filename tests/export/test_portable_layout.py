"""The older spelling is the same model, and what the other servers' loaders ask for is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from mmembed.export.hub import save_model
from mmembed.export.portable_layout import is_of_texts_alone, least_versions, portable_layout
from mmembed.export.published_files import choose_files
from mmembed.export.serving_fit import serving_fit
from tests.tiny_models import tiny_bert, tiny_clip, tiny_dual_encoder

TEXTS = ["red mug", "a blue shirt colour3 word7", " ".join(["colour1 word5 mug"] * 40), "?"]


def pooled(folder: Path, mode: Any) -> SentenceTransformer:
    """A tiny BERT with this pooling, saved by sentence-transformers itself."""
    tiny_bert().save_pretrained(str(folder), create_model_card=False)
    transformer = Transformer(str(folder))
    model = SentenceTransformer(modules=[transformer, Pooling(16, pooling_mode=mode), Normalize()], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return model


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max", "weightedmean", ("max", "cls")])
def test_the_older_spelling_is_the_same_model(tmp_path: Path, mode: Any) -> None:
    model = pooled(tmp_path / "model", mode)
    out = save_model(tmp_path / "model", tmp_path / "out")
    again = SentenceTransformer(str(out), device="cpu")
    assert again[1].pooling_mode == mode and again.max_seq_length == model.max_seq_length == 16
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def read_by_tei(folder: Path) -> str:
    """text-embeddings-inference 1.9.3 (router/src/lib.rs): what it parses on the way to a pooling, key by key."""
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config["architectures"], list) and isinstance(config["model_type"], str)
    assert isinstance(config["max_position_embeddings"], int)
    assert isinstance(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"], int)
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text()).get("prompts")
    assert prompts is None or all(isinstance(text, str) for text in prompts.values())
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    if pooling["pooling_mode_cls_token"]:
        return "cls"
    if pooling["pooling_mode_mean_tokens"]:
        return "mean"
    if pooling.get("pooling_mode_lasttoken", False):
        return "lasttoken"
    raise ValueError("not supported")


def read_by_vllm(folder: Path) -> str | None:
    """vLLM before 2026 (transformers_utils/config.py, get_pooling_config): what it takes for the pooling."""
    modules = json.loads((folder / "modules.json").read_text())
    pooling = next((one for one in modules if one["type"] == "sentence_transformers.models.Pooling"), None)
    if pooling is None:
        return None
    for key, value in json.loads((folder / pooling["path"] / "config.json").read_text()).items():
        if value is True and key.startswith("pooling_mode_"):
            name = key.removeprefix("pooling_mode_")
            return name.split("_", 1)[0]
    return None


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_the_other_servers_read_the_pooling_from_it(tmp_path: Path, mode: str) -> None:
    pooled(tmp_path / "model", mode)
    with pytest.raises(KeyError):  # as sentence-transformers 6 saves it
        read_by_tei(tmp_path / "model")
    assert read_by_vllm(tmp_path / "model") is None
    out = save_model(tmp_path / "model", tmp_path / "out")
    assert read_by_tei(out) == read_by_vllm(out) == mode
    fits = {fit.server: fit for fit in serving_fit(choose_files(out)[0])}
    assert fits["text-embeddings-inference"].fits and fits["vLLM"].fits
    before = {fit.server: fit for fit in serving_fit(choose_files(tmp_path / "model")[0])}
    assert before["text-embeddings-inference"].against == (
        "sentence_bert_config.json has no max_seq_length",
        "1_Pooling/config.json has no pooling_mode_cls_token",
    )


@pytest.mark.parametrize("make", [tiny_clip, tiny_dual_encoder])
def test_a_model_of_images_keeps_its_spelling(tmp_path: Path, make) -> None:
    make().save_pretrained(str(tmp_path / "model"), create_model_card=False)
    files, _ = choose_files(tmp_path / "model")
    assert not is_of_texts_alone(files)
    written = portable_layout(files)
    assert written["modules.json"] == files["modules.json"]
    assert written["sentence_bert_config.json"] == files["sentence_bert_config.json"]


def test_the_least_versions_are_checked_before_anything_is_loaded(tmp_path: Path, monkeypatch) -> None:
    tiny_bert().save_pretrained(str(tmp_path / "model"), create_model_card=False)
    out = save_model(tmp_path / "model", tmp_path / "out")
    config = json.loads((out / "config_sentence_transformers.json").read_text())
    assert config["requirements"] == least_versions() and set(least_versions()) == {
        "sentence-transformers",
        "transformers",
    }
    monkeypatch.setattr("sentence_transformers.util.environment.get_installed_version", lambda name: "4.0.0")
    with pytest.raises(ImportError, match="sentence-transformers>=6.2, but sentence-transformers==4.0.0"):
        SentenceTransformer(str(out))


def test_what_is_not_understood_is_left_as_it_is() -> None:
    files = {
        "modules.json": b"{}",
        "sentence_bert_config.json": b'{"modality_config": {"audio": {}}}',
        "config_sentence_transformers.json": b"[]",
        "config.json": b"no json",
    }
    assert portable_layout(files) == files
    assert portable_layout({}) == {}
