"""An export stands in the place of its model: the same calls, the same vectors."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer

from mmembed.dataset_encoding import encode_dataset, model_fingerprint
from mmembed.encode import encode_items
from mmembed.export.onnx_embedder import OnnxEmbedder, OnnxReranker, is_export, load_export
from mmembed.export.onnx_verbs import ExportError
from tests.export.tiny_exports import IMAGES, TEXTS


@pytest.fixture(scope="module")
def text(text_export) -> OnnxEmbedder:
    return OnnxEmbedder(text_export, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def dual(dual_export) -> OnnxEmbedder:
    return OnnxEmbedder.load(dual_export, threads=1)


def same(left, right, atol=1e-5) -> None:
    np.testing.assert_allclose(np.asarray(left), np.asarray(right), atol=atol)


def test_it_is_a_sentence_transformer(text, text_model):
    assert isinstance(text, SentenceTransformer)
    assert text.get_embedding_dimension() == text_model.get_embedding_dimension() == 16
    assert text.max_seq_length == text_model.max_seq_length and text.similarity_fn_name == "cosine"
    assert text.device == torch.device("cpu") and text.modalities == ["text"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 3},
        {"batch_size": 1},
        {"prompt": "blue "},
        {"prompt_name": "query"},
        {"normalize_embeddings": True},
        {"truncate_dim": 5},
        {"truncate_dim": 5, "normalize_embeddings": True},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"precision": "int8"},
        {"show_progress_bar": True, "batch_size": 7},
    ],
    ids=str,
)
def test_encode_takes_what_sentence_transformers_takes(text, text_model, options):
    theirs, ours = text_model.encode(TEXTS, **options), text.encode(TEXTS, **options)
    assert type(ours) is type(theirs) and len(ours) == len(theirs)
    if options.get("precision"):
        assert ours.dtype == theirs.dtype and (np.abs(ours.astype(int) - theirs.astype(int)) <= 1).all()
    else:
        same([np.asarray(one) for one in ours], [np.asarray(one) for one in theirs])


def test_a_single_text_no_text_and_dict_rows(text, text_model):
    same(text.encode("mug"), text_model.encode("mug"))
    same(text.encode([{"text": "mug"}, "red"]), text_model.encode([{"text": "mug"}, "red"]))
    assert text.encode([]).shape == text_model.encode([]).shape
    same(text.encode("word1 " * 100), text_model.encode("word1 " * 100))
    same(text.encode(Dataset.from_dict({"text": TEXTS})["text"]), text_model.encode(TEXTS))


def test_queries_have_their_prompt(text, text_model):
    same(text.encode_query(TEXTS), text_model.encode_query(TEXTS))
    same(text.encode_document(TEXTS), text_model.encode_document(TEXTS))
    assert np.abs(text.encode_query(TEXTS) - text.encode_document(TEXTS)).max() > 0.01
    with pytest.raises(ValueError, match="not found in the configured prompts"):
        text.encode(TEXTS, prompt_name="passage")


def test_similarity_is_the_models(text, text_model):
    vectors = text.encode(TEXTS)
    same(text.similarity(vectors, vectors), text_model.similarity(vectors, vectors))


def test_rows_of_every_kind_may_be_mixed(dual, dual_model):
    rows = []
    for number in range(12):
        row = {"text": TEXTS[number], "image": IMAGES[number]}
        rows.append([TEXTS[number], IMAGES[number], row, {"image": IMAGES[number]}][number % 4])
    same(dual.encode(rows, batch_size=5), dual_model.encode(rows, batch_size=5))
    same(dual.encode(rows[::-1], batch_size=12), dual_model.encode(rows)[::-1])
    same(dual.encode(IMAGES[0]), dual_model.encode(IMAGES[0]))
    same(dual.encode({"text": "mug", "image": IMAGES[1]}), dual_model.encode({"text": "mug", "image": IMAGES[1]}))


def test_a_kind_of_row_without_a_graph_is_refused(dual_export, text, tmp_path):
    folder = Path(shutil.copytree(dual_export, tmp_path / "onnx"))
    import json

    manifest = json.loads((folder / "mmembed_onnx.json").read_text())
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["verb"] == "text"]
    (folder / "mmembed_onnx.json").write_text(json.dumps(manifest))
    only_text = OnnxEmbedder(folder, threads=1)
    assert only_text.encode("mug").shape == (8,)
    with pytest.raises((ExportError, ValueError), match="export that verb too|not supported"):
        only_text.encode([{"text": "mug", "image": IMAGES[0]}])
    with pytest.raises(ValueError, match="image"):
        only_text.encode([IMAGES[0]])
    with pytest.raises(ValueError):
        text.encode([IMAGES[0]])


@pytest.mark.security
def test_a_text_that_looks_like_an_image_is_a_text_and_nothing_is_opened(dual, dual_model, tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    texts = [
        str(tmp_path / "a.png"),
        "https://example.org/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "file:///etc/passwd",
    ]
    expected = dual_model.encode([{"text": text} for text in texts])

    def opened(*args, **kwargs):
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", opened)
    same(dual.encode(texts), expected)


def test_tables_are_encoded_and_measured(dual, dual_model, tmp_path):
    from mmembed.evaluation.retrieval import evaluate_retrieval
    from mmembed.images import ImageReader

    def bytes_of(image: Image.Image) -> bytes:
        import io

        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    ids = [f"i{number}" for number in range(20)]
    items = Dataset.from_dict(
        {"id": ids, "text": TEXTS, "image": [{"bytes": bytes_of(image), "path": None} for image in IMAGES]}
    )
    for use in ("text", "image", "fused"):
        same(
            encode_items(dual, items, use=use, reader=ImageReader()),
            encode_items(dual_model, items, use=use, reader=ImageReader()),
        )
    ours, theirs = (
        evaluate_retrieval(model, items, items, reader=ImageReader(), ks=(1, 5), bootstrap_samples=0)
        for model in (dual, dual_model)
    )
    assert ours == pytest.approx(theirs)
    stored = encode_dataset(dual, items, tmp_path / "vectors", show_progress_bar=False)
    same(stored.vectors, dual_model.encode(TEXTS))


def test_a_store_of_vectors_tells_exports_apart(text_export, text):
    small = OnnxEmbedder(text_export, precision="int8", threads=1)
    assert model_fingerprint(small) != model_fingerprint(text)
    assert model_fingerprint(OnnxEmbedder(text_export, precision="fp32")) == model_fingerprint(text)


def test_precisions_are_chosen_for_all_or_for_each_verb(text_export, dual_export, text_model):
    small = OnnxEmbedder(text_export, precision="int8", threads=1)
    assert small.graphs["text"].precision == "int8" and OnnxEmbedder(text_export).graphs["text"].precision == "fp32"
    cosines = (small.encode(TEXTS) * text_model.encode(TEXTS)).sum(axis=1)
    assert 0.99 < cosines.min() and np.abs(small.encode(TEXTS) - text_model.encode(TEXTS)).max() > 1e-5
    with pytest.raises(ExportError, match="no int8 graph of image"):
        OnnxEmbedder(dual_export, precision={"text": "fp32", "image": "int8"})
    with pytest.raises(ExportError, match="no graph of precision int4"):
        OnnxEmbedder(text_export, precision="int4")
    with pytest.raises(ExportError, match="for openvino"):
        OnnxEmbedder(text_export, backend="openvino")
    with pytest.raises(ExportError, match="threads=0"):
        OnnxEmbedder(text_export, threads=0)


def test_it_goes_to_other_processes_and_into_copies(text, text_export):
    for other in (pickle.loads(pickle.dumps(text)), copy.deepcopy(text)):  # our own, of this moment
        same(other.encode(TEXTS), text.encode(TEXTS), atol=0)
    assert text.graphs["text"].files


def test_it_is_saved_as_the_folder_it_is(text, tmp_path):
    text.save_pretrained(str(tmp_path / "copy"))
    same(OnnxEmbedder(tmp_path / "copy", threads=1).encode(TEXTS), text.encode(TEXTS), atol=0)
    with pytest.raises(ExportError, match="is there already"):
        text.save_pretrained(str(tmp_path / "copy"))


def test_what_is_an_export(text_export, reranker_export, tmp_path):
    assert is_export(text_export) and not is_export(tmp_path)
    assert isinstance(load_export(text_export), OnnxEmbedder) and isinstance(load_export(reranker_export), OnnxReranker)
    with pytest.raises(ExportError, match="open it with OnnxEmbedder"):
        OnnxReranker(text_export)


def test_weights_are_not_in_memory(text):
    assert not list(text.parameters()) and not list(text.buffers())


# --- rerankers ------------------------------------------------------------------------------------------------------

PAIRS = [("red mug", "a red mug"), ("blue lamp", "the quick brown fox " * 20), ("wool " * 60, "hat"), ("mug", "mug")]


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 1}, {"activation_fn": torch.nn.Sigmoid()}, {"convert_to_tensor": True}, {"prompt": "blue "}],
    ids=str,
)
def test_a_reranker_predicts_as_its_model(reranker_export, reranker_model, options):
    ours, theirs = (
        OnnxReranker(reranker_export, threads=1).predict(PAIRS, **options),
        reranker_model.predict(PAIRS, **options),
    )
    assert type(ours) is type(theirs)
    same(ours, theirs)


def test_a_reranker_ranks_as_its_model(reranker_export, reranker_model):
    reranker = OnnxReranker.load(reranker_export, threads=1)
    documents = ["a red mug", "blue desk lamp", "green wool hat"]
    ours, theirs = reranker.rank("red mug", documents), reranker_model.rank("red mug", documents)
    assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
    same(reranker.predict(("red", "mug")), reranker_model.predict(("red", "mug")))
    assert reranker.num_labels == 1 and reranker.max_seq_length == reranker_model.max_seq_length
    same(pickle.loads(pickle.dumps(reranker)).predict(PAIRS), reranker_model.predict(PAIRS))


def test_a_rerankers_graph_gives_scores_alone_too(reranker_export, reranker_model):
    import onnxruntime

    session = onnxruntime.InferenceSession(reranker_export / "reranker_fp32" / "model.onnx")
    features = {name: value.numpy() for name, value in reranker_model.preprocess(PAIRS).items() if name != "modality"}
    scores, logits = session.run(
        ["scores", "logits"], {value.name: features[value.name] for value in session.get_inputs()}
    )
    same(scores, reranker_model.predict(PAIRS))
    assert logits.shape == (4, 1)
    assert os.path.isfile(reranker_export / "tokenizer.json")
