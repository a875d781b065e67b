"""A folder of an export is what was written, and leads nowhere else: before anything is opened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mmembed.export.onnx_embedder import OnnxEmbedder
from mmembed.export.onnx_files import (
    MANIFEST,
    check_files,
    external_data,
    plain_file,
    read_export,
    sha256,
    write_manifest,
)
from mmembed.export.onnx_sessions import OnnxRuntimeSession
from mmembed.export.onnx_verbs import ExportError
from tests.export.tiny_exports import save_with_external_data

WEIGHTS = np.arange(4, dtype=np.float32).tobytes()


@pytest.fixture
def no_session(monkeypatch):
    """Opening a graph in ONNX Runtime fails the test: what is hostile is refused before."""

    def opened(*args, **kwargs):
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)


def test_weights_beside_the_graph_are_read(tmp_path):
    path = save_with_external_data(tmp_path / "model.onnx", "model.onnx.data")
    (tmp_path / "model.onnx.data").write_bytes(WEIGHTS)
    assert external_data(path) == ["model.onnx.data"]
    session = OnnxRuntimeSession(path, threads=1)
    assert session.run({"x": np.ones(4, np.float32)})[0].tolist() == [1, 2, 3, 4]


@pytest.mark.security
@pytest.mark.parametrize(
    "location",
    ["../x", "a/../../x", "/etc/hostname", "sub/x", "..", ".", "", "..\\x", "C:\\x", "x\x00y", "file:///etc/hostname"],
)
def test_weights_elsewhere_are_refused_before_a_session_is_made(tmp_path, no_session, location):
    folder = tmp_path / "graph"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "x", folder / "sub" / "x"):
        place.write_bytes(WEIGHTS)
    path = save_with_external_data(folder / "model.onnx", location)
    with pytest.raises(ExportError, match="own folder only|plain name"):
        OnnxRuntimeSession(path)


@pytest.mark.security
@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "missing", "graph symlink", "graph hard link"])
def test_links_are_refused_before_a_session_is_made(tmp_path, no_session, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS)
    folder = tmp_path / "graph"
    folder.mkdir()
    data = folder / "data.bin"
    path = save_with_external_data(folder / "model.onnx", "data.bin")
    if kind == "symlink":
        data.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, data)
    elif kind == "folder":
        data.mkdir()
    elif kind.startswith("graph"):
        data.write_bytes(WEIGHTS)
        moved = path.rename(tmp_path / "elsewhere.onnx")
        path.symlink_to(moved) if kind == "graph symlink" else os.link(moved, path)
    with pytest.raises(ExportError, match="link|missing|no plain file"):
        OnnxRuntimeSession(path)


@pytest.mark.security
def test_weights_hidden_inside_of_nodes_are_found(tmp_path, no_session):
    """In a branch of an If, in an attribute, in a sparse tensor, in a function."""

    def tensor():
        found = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
        found.data_location = onnx.TensorProto.EXTERNAL
        found.external_data.add(key="location", value="../x")
        return found

    constant = onnx.NodeProto(op_type="Constant", output=["y"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor())
    mislabelled = onnx.NodeProto(op_type="Constant", output=["y"])
    mislabelled.attribute.add(name="value", type=onnx.AttributeProto.INT, t=tensor())
    branch = onnx.NodeProto(op_type="If", input=["c"], output=["y"])
    inner = onnx.GraphProto(name="inner")
    inner.initializer.append(tensor())
    branch.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=inner)
    sparse = onnx.NodeProto(op_type="Constant", output=["y"])
    sparse.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(
        tensor()
    )
    for number, node in enumerate((constant, mislabelled, branch, sparse)):
        model = onnx.ModelProto(ir_version=10)
        model.graph.node.append(node)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ExportError, match="own folder only"):
            OnnxRuntimeSession(path)
    model = onnx.ModelProto(ir_version=10)
    function = model.functions.add(name="f", domain="d")
    function.node.append(constant)
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="own folder only"):
        OnnxRuntimeSession(tmp_path / "f.onnx")


@pytest.mark.security
@pytest.mark.parametrize(
    ("offset", "length"), [("0", "17"), ("16", "4"), ("-4", "4"), ("0", "-1"), ("x", "4"), ("0", "1e9")]
)
def test_weights_past_the_end_of_their_file_are_refused(tmp_path, no_session, offset, length):
    path = save_with_external_data(tmp_path / "model.onnx", "data.bin")
    (tmp_path / "data.bin").write_bytes(WEIGHTS)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = {"offset": offset, "length": length}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="past the end|no whole offset"):
        OnnxRuntimeSession(path)


@pytest.mark.security
def test_what_is_no_graph_is_an_error(tmp_path):
    for number, data in enumerate([b"", b"PK\x03\x04", b"\x08" * 100, bytes(range(256)) * 40]):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(data)
        with pytest.raises(ExportError):
            OnnxRuntimeSession(path)


@pytest.mark.security
@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c", "a/../x", "", ".", "..", ".hidden", "a//b", "a\\b", "a\x00"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "x").write_text("x")
    with pytest.raises(ExportError, match="no plain name"):
        plain_file(tmp_path / "folder", name)


@pytest.mark.security
def test_a_file_behind_a_linked_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.onnx").write_text("x")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "text_fp32").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="is a link"):
        check_files(tmp_path / "export", {"text_fp32/model.onnx": sha256(tmp_path / "elsewhere" / "model.onnx")})


@pytest.fixture
def copied(text_export, tmp_path) -> Path:
    return Path(shutil.copytree(text_export, tmp_path / "copy"))


@pytest.mark.security
@pytest.mark.parametrize("file", ["text_fp32/model.onnx", "tokenizer.json", "config.json"])
def test_a_changed_file_is_refused(copied, file, no_session):
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(data)
    with pytest.raises(ExportError, match="SHA-256 differs"):
        OnnxEmbedder(copied)


@pytest.mark.security
def test_a_graph_may_not_read_files_that_the_manifest_does_not_name(copied, no_session):
    graph = copied / "text_fp32" / "model.onnx"
    save_with_external_data(graph, "data.bin")
    (graph.parent / "data.bin").write_bytes(WEIGHTS)
    manifest = json.loads((copied / MANIFEST).read_text())
    for entry in manifest["graphs"]:
        if entry["path"] == "text_fp32/model.onnx":
            entry["files"] = {"text_fp32/model.onnx": sha256(graph)}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="does not name"):
        OnnxEmbedder(copied, precision="fp32")


@pytest.mark.security
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["graphs"][0].update(path="../model.onnx"), "no SHA-256"),
        (lambda m: m["graphs"][0]["files"].update({"../x": "0" * 64}), "expected a plain name"),
        (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "expected a plain name"),
        (lambda m: m["files"].update({"a": "short"}), "expected a plain name"),
        (lambda m: m.update(format="other"), "no format"),
        (lambda m: m.update(version=99), "version 99"),
        (lambda m: m.update(graphs={}), "no list"),
        (lambda m: m["graphs"][0].update(verb="speech"), "verb 'speech'"),
        (lambda m: m["graphs"][0].update(extra=1), "other fields"),
        (lambda m: m["graphs"][0].update(inputs=[]), "inputs of a graph"),
        (lambda m: m.update(dim="16"), "dim is '16'"),
        (lambda m: m.update(kind="reranker"), "open it with"),
    ],
)
def test_a_strange_manifest_is_refused(copied, change, message):
    manifest = json.loads((copied / MANIFEST).read_text())
    change(manifest)
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match=message):
        OnnxEmbedder(copied)


@pytest.mark.security
@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": "mmembed-onnx"}', "[" * 100_000, "\xff"])
def test_a_broken_manifest_is_an_error(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ExportError):
        read_export(tmp_path)


def test_a_folder_without_an_export_says_so(tmp_path):
    with pytest.raises(ExportError, match="holds no export"):
        read_export(tmp_path)
    with pytest.raises(ExportError, match="does not exist"):
        read_export(tmp_path / "nowhere")


def test_the_manifest_reads_back(text_export, tmp_path):
    about, graphs = read_export(text_export)
    write_manifest(tmp_path, {**about}, graphs)
    assert read_export(tmp_path) == (about, graphs)
    assert {graph.name for graph in graphs} == {"text_fp32", "text_int8"}
    assert list(graphs[0].inputs) == ["input_ids", "attention_mask"]
    assert graphs[0].inputs["input_ids"] == {"dtype": "int64", "shape": ["batch", "length"]}
    assert graphs[0].outputs == {"sentence_embedding": {"dtype": "float32", "shape": ["batch", 16]}}
    for graph in graphs:
        for name, digest in graph.files.items():
            assert sha256(text_export / name) == digest
