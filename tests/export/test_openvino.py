"""A graph on OpenVINO gives what the model gives, and passes the same gate."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openvino")

from mmembed.export.onnx import export_onnx
from mmembed.export.onnx_embedder import OnnxEmbedder
from mmembed.export.onnx_files import read_export
from mmembed.export.onnx_verbs import ExportError
from mmembed.export.openvino import OpenVinoSession, write_openvino
from mmembed.export.parity_gate import ParityError
from tests.export.tiny_exports import ROWS, TEXTS, reverse_batch, save_with_external_data


def test_openvino_gives_the_models_vectors(text_model, tmp_path, traced):
    traced()
    found = export_onnx(
        text_model, tmp_path / "onnx", precisions=["fp32", "fp16"], backends=["onnxruntime", "openvino"], inputs=ROWS,
        show_progress_bar=False,
    )  # fmt: skip
    names = ["text_fp32", "text_fp32_openvino", "text_fp16", "text_fp16_openvino"]
    assert [parity.name for parity in found] == names
    for name in ("text_fp32_openvino", "text_fp16_openvino"):
        assert {path.name for path in (tmp_path / "onnx" / name).iterdir()} == {"model.xml", "model.bin"}
    exact = OnnxEmbedder(tmp_path / "onnx", backend="openvino", threads=1)
    np.testing.assert_allclose(exact.encode(TEXTS), text_model.encode(TEXTS), atol=1e-5)
    assert exact.graphs["text"].backend == "openvino"
    (tmp_path / "onnx" / "text_fp32_openvino" / "model.bin").write_bytes(b"")
    with pytest.raises(ExportError, match="SHA-256"):
        OnnxEmbedder(tmp_path / "onnx", backend="openvino")


def test_the_gate_is_the_same(text_model, tmp_path, traced):
    traced(reverse_batch)
    with pytest.raises(ParityError, match="text_fp32_openvino: a component differs"):
        export_onnx(text_model, tmp_path / "onnx", backends=["openvino"], inputs=ROWS, show_progress_bar=False)
    assert read_export(tmp_path / "onnx")[1] == []


@pytest.mark.security
def test_weights_elsewhere_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "graph").mkdir()
    save_with_external_data(tmp_path / "graph" / "model.onnx", "../secret")
    with pytest.raises(ExportError, match="own folder only"):
        write_openvino(tmp_path / "graph")


@pytest.mark.security
@pytest.mark.parametrize(
    "text", [b"", b"<net", b"<?xml version='1.0'?><net name='x' version='11'></net>", b"\xff" * 99]
)
def test_what_is_no_graph_is_an_error(tmp_path, text):
    (tmp_path / "model.xml").write_bytes(text)
    (tmp_path / "model.bin").write_bytes(b"\0" * 8)
    with pytest.raises(ExportError):
        OpenVinoSession(tmp_path / "model.xml")


def test_wrong_inputs_are_errors(text_model, tmp_path, traced):
    traced()
    export_onnx(text_model, tmp_path / "onnx", backends=["openvino"], inputs=ROWS, show_progress_bar=False)
    session = OpenVinoSession(tmp_path / "onnx" / "text_fp32_openvino" / "model.xml", threads=1)
    with pytest.raises(ExportError, match="attention_mask is not there"):
        session.run({"input_ids": np.ones((1, 2), np.int64)})
    with pytest.raises(ExportError, match="the graph takes int64"):
        session.run({"input_ids": np.ones((1, 2), np.float32), "attention_mask": np.ones((1, 2), np.int64)})
    with pytest.raises(ExportError, match="threads=0"):
        OpenVinoSession(tmp_path / "onnx" / "text_fp32_openvino" / "model.xml", threads=0)
