"""A saved pipeline is the same pipeline; one that was changed, exchanged or made up is refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification

pytest.importorskip("bm25s")
pytest.importorskip("faiss")

from mmembed.data.reading import read_items
from mmembed.data.schema import DataError, validate_items
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.rerankers.text_pairs import load_text_reranker
from mmembed.search.chunks import ChunkedIndex
from mmembed.search.fusion import FittedOn, Fusion
from mmembed.search.index import Index
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.query_expansion import Rocchio, TermExpansion
from mmembed.search.rewriting import FileRewrites
from tests.tiny_models import WORDS, tiny_dual_encoder

IDS = [f"item{number:02d}" for number in range(len(WORDS))]
ITEMS = validate_items(
    Dataset.from_dict({"id": IDS, "text": WORDS, "price": list(range(60)), "tags": [["new"], ["old"]] * 30})
)
QUERIES = ["word7 red", ["colour3 mug", "is it blue? no"], Image.new("RGB", (32, 32), "red")]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> CrossEncoder:
    folder = str(tmp_path_factory.mktemp("reranker"))
    words = train_tokenizer(WORDS, vocab_size=200, max_length=32)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return load_text_reranker(folder, device="cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_dual_encoder()


@pytest.fixture(scope="module")
def whole(model, reranker) -> SearchPipeline:
    vectors = Embeddings(IDS, encode_items(model, ITEMS), {"model": "mine"})
    return SearchPipeline(
        lexical=LexicalIndex.build(IDS, WORDS), index=Index.build(vectors, kind="binary"), vectors=vectors, model=model,
        reranker=reranker, items=ITEMS, fusion=Fusion("z_score", {"lexical": 0.4}, fitted_on=FittedOn(("k",), "ndcg@10", 3)),
        rerank_fusion=Fusion(k=10), depth=40, rerank_depth=6, rocchio=Rocchio(documents=3), text_weight=0.25,
        term_expansion=TermExpansion(terms=3), rewriter=FileRewrites({"word7 red": ["word8"]}), keep_query=False,
        query_prompt="red ", dialogue_tokens=12,
    )  # fmt: skip


def test_saved_and_loaded_finds_the_same(whole: SearchPipeline, tmp_path: Path) -> None:
    whole.save(tmp_path / "pipeline")
    loaded = SearchPipeline.load(tmp_path / "pipeline", device="cpu")
    for filters in (None, {"price": (10, 40)}, {"tags": "new"}):
        assert loaded.search(QUERIES, filters=filters) == whole.search(QUERIES, filters=filters)
    names = (
        "fusion",
        "rerank_fusion",
        "depth",
        "rerank_depth",
        "rocchio",
        "term_expansion",
        "text_weight",
        "keep_query",
    )
    assert all(getattr(loaded, name) == getattr(whole, name) for name in (*names, "query_prompt", "dialogue_tokens"))
    suffixes = {path.suffix for path in (tmp_path / "pipeline").rglob("*") if path.is_file()}
    # the code of our own models stands beside their weights for the Hub; nothing here runs it
    assert suffixes <= {".json", ".jsonl", ".npy", ".faiss", ".parquet", ".safetensors", ".txt", ".py"}
    # a saved pipeline is replaced, something else is left alone
    whole.save(tmp_path / "pipeline")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="something other than a search pipeline"):
        whole.save(tmp_path / "mine")


def test_models_can_be_named_or_given(whole: SearchPipeline, model, reranker, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "named"), create_model_card=False)
    whole.save(tmp_path / "p", model_name=str(tmp_path / "named"), reranker_name="elsewhere/reranker")
    assert not (tmp_path / "p" / "model").exists() and not (tmp_path / "p" / "reranker").exists()
    loaded = SearchPipeline.load(tmp_path / "p", reranker=reranker, device="cpu")
    assert loaded.search(QUERIES) == whole.search(QUERIES)
    other = tiny_dual_encoder(projection_dim=8, text_layers=2)
    with pytest.raises(DataError, match="the model is another than the pipeline was saved with"):
        SearchPipeline.load(tmp_path / "p", model=other, reranker=reranker)


def test_a_pipeline_of_words_alone(tmp_path: Path) -> None:
    pipeline = SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS))
    pipeline.save(tmp_path / "p")
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["lexical", "pipeline.json"]
    assert SearchPipeline.load(tmp_path / "p").search(["word3"]) == pipeline.search(["word3"])


def test_an_index_over_parts_finds_documents_again(model, tmp_path: Path) -> None:
    parts = Embeddings([f"{id}#{half}" for id in IDS[:30] for half in range(2)], encode_items(model, ITEMS))
    index = ChunkedIndex(Index.build(parts), parts.ids)
    pipeline = SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS), index=index, model=model, items=ITEMS)
    assert {hit.id for hit in pipeline.search(["red"], filters={"price": (0, 9)}, k=60)[0]} == set(IDS[:10])
    pipeline.save(tmp_path / "p")
    loaded = SearchPipeline.load(tmp_path / "p", device="cpu")
    assert loaded.search(QUERIES) == pipeline.search(QUERIES) and isinstance(loaded.index, ChunkedIndex)


def test_a_rewriter_that_is_no_file_is_given_again(tmp_path: Path) -> None:
    pipeline = SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS), rewriter=lambda text: "word9")
    pipeline.save(tmp_path / "p")
    with pytest.raises(DataError, match="give it as rewriter"):
        SearchPipeline.load(tmp_path / "p")
    loaded = SearchPipeline.load(tmp_path / "p", rewriter=lambda text: "word9")
    assert loaded.search(["word3"]) == pipeline.search(["word3"])


def test_images_are_looked_for_below_a_root_of_this_machine(model, tmp_path: Path) -> None:
    photos = tmp_path / "here" / "photos"
    photos.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(photos / f"{number}.png")
    rows = "\n".join(json.dumps({"id": str(n), "text": WORDS[n], "image": f"{n}.png"}) for n in range(3))
    (tmp_path / "items.jsonl").write_text(rows)
    items = read_items(tmp_path / "items.jsonl", image_root=photos)
    seen: list = []

    class Looks(CrossEncoder):
        def __init__(self, reranker: CrossEncoder) -> None:
            self.__dict__.update(reranker.__dict__)

        def predict(self, pairs, **options):
            seen.extend(np.asarray(document).mean() for _, document in pairs)
            return np.zeros(len(pairs))

    vectors = Embeddings(["0", "1", "2"], encode_items(model, items))
    pipeline = SearchPipeline(vectors=vectors, model=model, items=items)
    pipeline.save(tmp_path / "p")
    assert str(tmp_path) not in (tmp_path / "p" / "pipeline.json").read_text()
    with pytest.raises(DataError, match="give image_root"):
        SearchPipeline.load(tmp_path / "p")
    shutil.move(tmp_path / "here", tmp_path / "there")
    loaded = SearchPipeline.load(tmp_path / "p", image_root=tmp_path / "there" / "photos", device="cpu")
    assert loaded.items is not None
    assert [Path(image["path"]).parent for image in loaded.items["image"]] == [tmp_path / "there" / "photos"] * 3
    read = SearchPipeline(
        vectors=loaded.vectors, model=loaded.model, items=loaded.items, reader=loaded.reader, rerank_use="image",
        rerank_query_use="text", reranker=Looks.__new__(Looks),
    )  # fmt: skip
    assert len(read.search(["red"])[0]) == 3 and sorted(seen) == pytest.approx([0, 80 / 3, 160 / 3])


def test_images_as_bytes_need_no_root(model, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(stream, "PNG")
    image = {"bytes": stream.getvalue(), "path": None}
    items = validate_items(Dataset.from_dict({"id": ["a"], "text": ["red"], "image": [image]}))
    SearchPipeline(vectors=Embeddings(["a"], encode_items(model, items)), model=model, items=items).save(tmp_path / "p")
    loaded = SearchPipeline.load(tmp_path / "p", device="cpu")
    assert loaded.items is not None and loaded.items[0]["image"] == image


def test_what_is_not_saved(model, tmp_path: Path) -> None:
    class Own:
        def search(self, queries, k=10, *, allowed=None):
            return [{}]

    with pytest.raises(ValueError, match="a Own, which has no save"):
        SearchPipeline(index=Own(), model=model).save(tmp_path / "p")
    with pytest.raises(ValueError, match="a Own, which has no save"):
        SearchPipeline(index=ChunkedIndex(Own(), ["a#0"]), model=model).save(tmp_path / "p")
    with pytest.raises(ValueError, match="reranker_kind='txt'"):
        SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS)).save(tmp_path / "p", reranker_kind="txt")
    assert not (tmp_path / "p").exists()


@pytest.mark.security
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.update(format="x"), "no format"),
        (lambda about: about.update(version=2), "reads version 1"),
        (lambda about: about["parts"].update({"../../etc": "0"}), "no part of a pipeline"),
        (lambda about: about["parts"].update(lexical="0" * 64), "SHA-256 differs"),
        (lambda about: about["parts"].pop("lexical"), "nothing to search with"),
        (lambda about: about["parts"].update(vectors="0" * 64), "missing"),
        (lambda about: about["settings"].update(trust_remote_code=True), "no setting of a pipeline"),
        (lambda about: about["settings"].update(depth="9"), "no setting of a pipeline"),
        (lambda about: about["settings"].update(depth=0), "depth=0"),
        (lambda about: about["settings"].update(depth=True), "no setting of a pipeline"),
        (lambda about: about.update(settings=[]), "expected an object"),
        (lambda about: about.update(fusion={"method": "rrf"}), "no fusion"),
        (lambda about: about.update(rocchio={"beta": -1}), "at least 0"),
        (lambda about: about.update(rocchio={"exec": 1}), "exec"),
        (lambda about: about.update(rewriter="import os"), "field 'rewriter'"),
        (lambda about: about.update(chunked="yes"), "field 'chunked'"),
        (lambda about: about["models"].update(model={"name": 3, "fingerprint": "0"}), "which no model is"),
        (
            lambda about: about["models"].update(model={"name": None, "fingerprint": "0"}),
            "folder of the model is missing",
        ),
        (lambda about: about["models"].update(critic={"name": None, "fingerprint": "0"}), "which no model is"),
    ],
)
def test_a_made_up_description_is_refused(tmp_path: Path, change, message: str) -> None:
    SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS)).save(tmp_path / "p")
    path = tmp_path / "p" / "pipeline.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(DataError, match=message):
        SearchPipeline.load(tmp_path / "p")


@pytest.mark.security
@pytest.mark.parametrize(
    "attack", ["not json", "deep", "link", "part link", "exchanged", "damaged", "no folder", "array"]
)
def test_a_hostile_or_damaged_folder_is_refused(tmp_path: Path, attack: str) -> None:
    folder = tmp_path / "p"
    SearchPipeline(lexical=LexicalIndex.build(IDS, WORDS)).save(folder)
    path, proof = folder / "pipeline.json", folder / "lexical" / "lexical.json"
    if attack == "not json":
        path.write_bytes(b"\xff\xfe")
    elif attack == "deep":
        path.write_text("[" * 100_000)
    elif attack == "array":
        path.write_text("[1]")
    elif attack in ("link", "part link"):
        here = path if attack == "link" else proof
        here.rename(tmp_path / "elsewhere.json")
        here.symlink_to(tmp_path / "elsewhere.json")
    elif attack == "exchanged":
        SearchPipeline(lexical=LexicalIndex.build(["x"], ["red"])).save(tmp_path / "other")
        shutil.rmtree(folder / "lexical")
        shutil.copytree(tmp_path / "other" / "lexical", folder / "lexical")
    elif attack == "damaged":
        array = folder / "lexical" / "data.csc.index.npy"
        array.write_bytes(array.read_bytes()[:-4])
    else:
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="p"):
        SearchPipeline.load(folder)
