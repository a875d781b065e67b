"""Exports that several tests read; tracing a model takes seconds, so each is made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from mmembed.export.onnx import export_onnx
from tests.export.tiny_exports import ROWS, copying, tiny_text_embedder
from tests.rerankers.tiny_rerankers import tiny_reranker
from tests.tiny_models import tiny_dual_encoder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    """A BERT that pools its first token, with a prompt for queries."""
    return tiny_text_embedder(tmp_path_factory.mktemp("text_model"))


@pytest.fixture(scope="session")
def text_export(text_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in fp32 and int8."""
    folder = tmp_path_factory.mktemp("text_export") / "onnx"
    export_onnx(text_model, folder, precisions=["fp32", "int8"], inputs=ROWS, show_progress_bar=False)
    return folder


@pytest.fixture(scope="session")
def dual_model() -> SentenceTransformer:
    """Two towers and a gate that fuses them; the image tower is a ResNet."""
    return tiny_dual_encoder(fusion="gated")


@pytest.fixture(scope="session")
def dual_export(dual_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export, text, image and fused, in fp32."""
    folder = tmp_path_factory.mktemp("dual_export") / "onnx"
    export_onnx(dual_model, folder, inputs=ROWS, show_progress_bar=False)
    return folder


@pytest.fixture(scope="session")
def reranker_model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """A BERT that scores pairs, cut as FlagEmbedding cuts them."""
    from mmembed.rerankers.text_pairs import load_text_reranker

    return load_text_reranker(tiny_reranker(tmp_path_factory.mktemp("reranker"), "bert"), device="cpu")


@pytest.fixture(scope="session")
def reranker_export(reranker_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in fp32."""
    folder = tmp_path_factory.mktemp("reranker_export") / "onnx"
    export_onnx(reranker_model, folder, inputs=ROWS, show_progress_bar=False)
    return folder


@pytest.fixture
def traced(text_export: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Instead of tracing, the graph of `text_export`, which a test may change."""
    return copying(monkeypatch, text_export / "text_fp32" / "model.onnx")
