"""A graph is kept only if it gives what the model gives; what is wrong is refused, whatever makes it wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

import mmembed.export.onnx as exporting
from mmembed.export.onnx import export_onnx, quantize_onnx
from mmembed.export.onnx_embedder import OnnxEmbedder
from mmembed.export.onnx_files import MANIFEST, read_export
from mmembed.export.onnx_graph import save_ir, write_graph
from mmembed.export.onnx_quantization import Quantization
from mmembed.export.onnx_verbs import ExportError, exportable, verb_features, verbs_of
from mmembed.export.parity_gate import LIMITS, ParityError, ParityLimits
from mmembed.export.parity_inputs import Judgements, ParityInputs
from tests.export.tiny_exports import IMAGES, ROWS, TEXTS, reverse_batch, tiny_text_embedder
from tests.tiny_models import tiny_bert, tiny_dual_encoder

QUIET = {"inputs": ROWS, "show_progress_bar": False}


def refused(folder: Path, name: str = "text_fp32") -> str:
    """Nothing of the graph is in the folder, and the report says why."""
    assert not (folder / name).exists() and not list(folder.glob(".aside-*"))
    assert name not in {graph.name for graph in read_export(folder)[1]}
    report = {entry["name"]: entry for entry in json.loads((folder / "parity.json").read_text())["graphs"]}
    assert report[name]["passed"] is False and report[name]["reasons"]
    text = (folder / "parity.txt").read_text()
    assert f"{name}: {report[name]['reasons'][0]}" in text and "NO" in text and "rows: tiny rows" in text
    return report[name]["reasons"][0]


# --- what was exported ---------------------------------------------------------------------------------------------


def test_the_graph_gives_the_models_vectors_in_plain_onnx_runtime(text_model, text_export):
    """Without mmembed: the saved tokenizer and ONNX Runtime, any number of rows and any length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_export)
    session = onnxruntime.InferenceSession(text_export / "text_fp32" / "model.onnx")
    for texts in (["word1"], TEXTS[:3], TEXTS[:17], ["word1 " * 60, "mug"]):
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        given = {value.name: tokens[value.name] for value in session.get_inputs()}
        vectors = session.run(["sentence_embedding"], given)[0]
        np.testing.assert_allclose(vectors, text_model.encode(texts), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_images_and_both_are_graphs_too(dual_model, dual_export):
    features = dual_model.preprocess([{"text": text, "image": image} for text, image in zip(TEXTS[:5], IMAGES[:5])])
    arrays = {name: value.numpy() for name, value in features.items() if isinstance(value, torch.Tensor)}
    expected = {"image": dual_model.encode(IMAGES[:5]), "text": dual_model.encode(TEXTS[:5])}
    expected["fused"] = dual_model.encode(
        [{"text": text, "image": image} for text, image in zip(TEXTS[:5], IMAGES[:5])]
    )
    for verb, vectors in expected.items():
        session = onnxruntime.InferenceSession(dual_export / f"{verb}_fp32" / "model.onnx")
        found = session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})[0]
        np.testing.assert_allclose(found, vectors, atol=1e-5)
    image = onnxruntime.InferenceSession(dual_export / "image_fp32" / "model.onnx").get_inputs()
    assert [(value.name, value.type, value.shape) for value in image] == [
        ("pixel_values", "tensor(uint8)", ["batch", 3, 32, 32])
    ]


def test_the_folder_says_what_it_holds(text_model, text_export):
    about, graphs = read_export(text_export)
    assert about["dim"] == 16 and about["pooling"] == "cls" and about["normalized"] is True
    assert about["prompts"]["query"] == "red " and about["max_length"] == text_model.max_seq_length
    assert set(about["versions"]) >= {"torch", "onnx", "onnxruntime", "mmembed"}
    exact, small = graphs
    assert exact.parity["max_difference"] <= 1e-5 and small.parity["min_cosine"] >= 0.99
    assert small.quantization["method"] == "dynamic" and small.quantization["per_channel"] is True
    assert exact.parity["source"] == "tiny rows" and exact.parity["passed"] is True


def test_nothing_in_the_folder_tells_of_this_machine(text_export, dual_export):
    here = str(Path(__file__).resolve().parents[2]).encode()
    for folder in (text_export, dual_export):
        for path in folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert here not in data and b"site-packages" not in data and b"/tmp/" not in data, path
        assert not list(folder.rglob("*.py"))
    graph = onnx.load(text_export / "text_fp32" / "model.onnx")
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


def test_the_model_is_given_back_as_it_was(text_model):
    text_model.train()
    inner = text_model[0].model
    before = inner.config._attn_implementation
    try:
        with pytest.raises(ZeroDivisionError), exportable(text_model) as traced:
            assert not traced.training and inner.config._attn_implementation == "eager"
            raise ZeroDivisionError
        assert text_model.training and inner.config._attn_implementation == before != "eager"
    finally:
        text_model.eval()


# --- planted faults -------------------------------------------------------------------------------------------------


def test_a_graph_that_reverses_its_batches_is_refused(text_model, tmp_path, traced):
    traced(reverse_batch)
    with pytest.raises(ParityError, match="text_fp32: a component differs") as caught:
        export_onnx(text_model, tmp_path / "onnx", **QUIET)
    assert "differs by" in refused(tmp_path / "onnx")
    assert str(tmp_path / "onnx" / "parity.txt") in str(caught.value)


@pytest.mark.parametrize("pooling", ["lasttoken", pytest.param("mean", marks=pytest.mark.slow)])
def test_a_graph_that_pools_another_token_is_refused(text_model, tmp_path, monkeypatch, pooling):
    """The same weights, traced with a pooling that is not the model's."""
    wrong = SentenceTransformer(modules=[text_model[0], Pooling(16, pooling), text_model[2]], device="cpu")

    def write(model, verb, features, folder, **options):
        return write_graph(wrong, verb, features, folder, **options)

    monkeypatch.setattr(exporting, "write_graph", write)
    with pytest.raises(ParityError, match="a component differs"):
        export_onnx(text_model, tmp_path / "onnx", **QUIET)
    refused(tmp_path / "onnx")


def first_weight(path: Path, change) -> None:
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    values = onnx.numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(values).astype(np.float32), tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values + 1e-2 * np.sin(np.arange(values.size).reshape(values.shape)), "a component differs"),
        (lambda values: np.where(values == values.max(), np.nan, values) * np.nan, "not finite"),
    ],
)
def test_a_graph_with_other_weights_is_refused(text_model, tmp_path, traced, change, reason):
    traced(lambda path: first_weight(path, change))
    with pytest.raises(ParityError):
        export_onnx(text_model, tmp_path / "onnx", **QUIET)
    assert reason in refused(tmp_path / "onnx")


def test_a_graph_of_a_fixed_number_of_rows_is_refused(text_model, tmp_path, traced):
    def fix(path):
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 3
        onnx.save(model, path)

    traced(fix)
    with pytest.raises(ParityError, match="1 rows cannot be run"):
        export_onnx(text_model, tmp_path / "onnx", **QUIET)
    refused(tmp_path / "onnx")


def test_a_refused_graph_does_not_take_the_others_with_it(text_model, tmp_path, traced):
    traced()
    limits = {"int8": ParityLimits(None, 1.0, 1.0)}
    with pytest.raises(ParityError, match="text_int8") as caught:
        export_onnx(text_model, tmp_path / "onnx", precisions=["fp32", "int8"], limits=limits, **QUIET)
    assert {parity.name: parity.passed for parity in caught.value.parities} == {"text_fp32": True, "text_int8": False}
    assert "text_int8" in str(caught.value) and "text_fp32" not in str(caught.value)
    refused(tmp_path / "onnx", "text_int8")
    assert OnnxEmbedder(tmp_path / "onnx", threads=1).encode("mug").shape == (16,)


def test_a_ranking_that_falls_is_refused(text_model, tmp_path, traced):
    """Judgements by the model's own neighbours; vectors of other weights find others, though no limit is set on them."""
    vectors = text_model.encode(TEXTS)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    judgements = Judgements(TEXTS, TEXTS, [[int(row.argmax())] for row in scores])
    inputs = ParityInputs(texts=TEXTS, judgements=judgements, source="tiny rows")
    loose = {"fp32": ParityLimits(None, -1.0, 0.0)}
    traced(lambda path: first_weight(path, lambda values: np.random.default_rng(0).normal(size=values.shape)))
    with pytest.raises(ParityError, match=r"NDCG@10 falls from 0\.\d+ to 0\.\d+"):
        export_onnx(text_model, tmp_path / "onnx", inputs=inputs, limits=loose, show_progress_bar=False)
    traced()
    found = export_onnx(text_model, tmp_path / "onnx", inputs=inputs, limits=loose, show_progress_bar=False)
    assert found[0].ndcg == pytest.approx(found[0].ndcg_model) and found[0].queries == 20


# --- the folder -----------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(text_model, text_export, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(text_export, tmp_path / "onnx"))
    before = (folder / "text_fp32" / "model.onnx").stat().st_mtime_ns

    def write(*args, **kwargs):
        raise AssertionError("traced again")

    monkeypatch.setattr(exporting, "write_graph", write)
    found = export_onnx(text_model, folder, precisions=["fp32", "int8"], **QUIET)
    assert [parity.name for parity in found] == ["text_fp32", "text_int8"] and all(parity.passed for parity in found)
    assert (folder / "text_fp32" / "model.onnx").stat().st_mtime_ns == before
    (folder / "text_fp32" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="traced again"):
        export_onnx(text_model, folder, **QUIET)


def test_an_interrupted_export_leaves_no_graph_and_is_gone_on_with(text_model, tmp_path, traced, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    traced()
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "quantize_graph", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(text_model, tmp_path / "onnx", precisions=["fp32", "int8"], **QUIET)
    assert {path.name for path in (tmp_path / "onnx").iterdir() if path.is_dir()} == {"text_fp32"}
    export_onnx(text_model, tmp_path / "onnx", precisions=["fp32", "int8"], **QUIET)
    assert {graph.name for graph in read_export(tmp_path / "onnx")[1]} == {"text_fp32", "text_int8"}


def test_another_model_has_another_folder(text_export, tmp_path, traced):
    folder = Path(shutil.copytree(text_export, tmp_path / "onnx"))
    other = tiny_text_embedder(tmp_path / "other", seed=1)
    with pytest.raises(ExportError, match="export of another model"):
        export_onnx(other, folder, **QUIET)
    assert OnnxEmbedder(folder, threads=1).verbs == ["text"]
    traced()
    with pytest.raises(ParityError):  # the copied graph is not the other model's
        export_onnx(other, folder, overwrite=True, **QUIET)
    assert read_export(folder)[1] == [] and not (folder / "text_int8" / "model.onnx").exists()


def test_a_folder_of_something_else_is_left_alone(text_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds something else"):
        export_onnx(text_model, tmp_path, overwrite=True, **QUIET)
    with pytest.raises(ExportError, match="is a file"):
        export_onnx(text_model, tmp_path / "notes.txt", **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_large_weights_lie_beside_the_graph(text_model, text_export, tmp_path, monkeypatch):
    """As for models of more than 2 GB, here from the first byte on; quantised from there too."""

    def write(model, verb, features, folder, *, opset, external_data_above):
        path = Path(folder) / "model.onnx"
        save_ir(onnx_ir.load(text_export / "text_fp32" / "model.onnx"), path, external_data_above=external_data_above)
        return path

    monkeypatch.setattr(exporting, "write_graph", write)
    folder = tmp_path / "onnx"
    export_onnx(text_model, folder, precisions=["fp32", "int8"], external_data_above=0, **QUIET)
    assert {path.name for path in (folder / "text_fp32").iterdir()} == {"model.onnx", "model.onnx.data"}
    assert set(read_export(folder)[1][0].files) == {"text_fp32/model.onnx", "text_fp32/model.onnx.data"}
    np.testing.assert_allclose(OnnxEmbedder(folder, threads=1).encode(TEXTS), text_model.encode(TEXTS), atol=1e-5)
    (folder / "text_fp32" / "model.onnx.data").write_bytes(b"x")
    with pytest.raises(ExportError, match="SHA-256"):
        OnnxEmbedder(folder)


# --- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verbs": ["image"]}, "verbs=.*choose of text"),
        ({"verbs": []}, "verbs="),
        ({"precisions": ["int4"]}, "precisions="),
        ({"precisions": "fp32"}, "precisions="),
        ({"backends": ["tensorrt"]}, "backends="),
        ({"inputs": ParityInputs(texts=TEXTS[:5])}, "5 rows for the text verb"),
        ({"inputs": ParityInputs(texts=["mug"] * 50)}, "1 rows for the text verb"),
        ({"inputs": ParityInputs()}, "0 rows for the text verb"),
    ],
)
def test_wrong_options_are_said_before_anything_is_written(text_model, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(text_model, tmp_path / "onnx", **{**QUIET, **options})
    assert not (tmp_path / "onnx").exists()


def test_models_of_which_no_graph_is_made_say_why(text_model):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = SentenceTransformer(modules=[StaticEmbedding(text_model.tokenizer, embedding_dim=4)], device="cpu")
    with pytest.raises(ExportError, match="StaticEmbedding"):
        verbs_of(static)
    without = SentenceTransformer(modules=[text_model[0], Pooling(16, "mean", include_prompt=False)], device="cpu")
    with pytest.raises(ExportError, match="leaves its prompt out"):
        verbs_of(without)


def test_what_a_model_reads_is_what_is_exported():
    assert verbs_of(tiny_dual_encoder(fusion="none")) == ["text", "image"]
    assert verbs_of(tiny_dual_encoder(fusion="concat")) == ["text", "image", "fused"]
    assert verbs_of(tiny_bert()) == ["text"]


def test_rows_of_a_verb_are_only_what_it_takes(dual_model):
    both = [{"text": text, "image": image} for text, image in zip(TEXTS[:3], IMAGES[:3])]
    assert list(verb_features(dual_model, "text", TEXTS[:3])) == ["input_ids", "attention_mask"]
    assert list(verb_features(dual_model, "image", IMAGES[:3])) == ["pixel_values"]
    assert list(verb_features(dual_model, "fused", both)) == ["input_ids", "attention_mask", "pixel_values"]


# --- quantised later ------------------------------------------------------------------------------------------------


def test_an_export_is_quantised_without_the_model(text_export, text_model, tmp_path):
    folder = Path(shutil.copytree(text_export, tmp_path / "onnx"))
    shutil.rmtree(folder / "text_int8")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["precision"] == "fp32"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    found = quantize_onnx(folder, precisions=["fp16", "int8"], **QUIET)
    assert [parity.name for parity in found] == ["text_fp16", "text_int8"]
    for precision, least in (("fp16", 0.9999), ("int8", LIMITS["int8"].min_cosine)):
        vectors = OnnxEmbedder(folder, precision=precision, threads=1).encode(TEXTS, normalize_embeddings=True)
        assert (vectors * text_model.encode(TEXTS)).sum(axis=1).min() > least
    names = {graph.name for graph in read_export(folder)[1]}
    assert names == {"text_fp32", "text_fp16", "text_int8"}
    assert OnnxEmbedder(folder, threads=1).tokenizer is not None  # the reader's files are still in the manifest


def test_quantising_needs_exact_graphs(tmp_path, text_export):
    with pytest.raises(ExportError, match="holds no export"):
        quantize_onnx(tmp_path, **QUIET)
    with pytest.raises(ExportError, match="precisions="):
        quantize_onnx(text_export, precisions=["fp32"], **QUIET)


def test_convolutions_are_calibrated(dual_model, dual_export, tmp_path):
    folder = Path(shutil.copytree(dual_export, tmp_path / "onnx"))
    loose = {"int8": ParityLimits(None, 0.9, 0.5)}
    settings = Quantization(keep_float=0)
    found = quantize_onnx(folder, verbs=["image"], quantization=settings, limits=loose, **QUIET)
    graph = next(graph for graph in read_export(folder)[1] if graph.name == "image_int8")
    assert found[0].passed and graph.quantization["method"] == "static" and graph.quantization["calibration_rows"] == 10
    kinds = {node.op_type for node in onnx.load(folder / "image_int8" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    vectors = OnnxEmbedder(folder, precision={"image": "int8", "text": "fp32"}, threads=1).encode(IMAGES)
    assert (vectors * dual_model.encode(IMAGES)).sum(axis=1).min() > 0.9
