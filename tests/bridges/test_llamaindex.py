"""LlamaIndex with our models: its vectors are the model's own, it finds what the model finds, and its data is ours."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

llama_index = pytest.importorskip("llama_index.core")
from llama_index.core import Document, VectorStoreIndex  # noqa: E402
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding  # noqa: E402

from mmembed.bridges.llamaindex import MMEmbedEmbedding, qa_dataset_fields, read_qa_dataset  # noqa: E402
from mmembed.data.schema import DataError  # noqa: E402
from mmembed.images import ImageError  # noqa: E402
from tests.tiny_models import WORDS, tiny_bert, tiny_dual_encoder  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return tiny_dual_encoder()


@pytest.fixture(scope="module")
def bert():
    return tiny_bert()


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=1e-6)


def test_vectors_are_the_models_own_of_length_one(model) -> None:
    embedding = MMEmbedEmbedding(model, embed_batch_size=2)
    assert isinstance(embedding, MultiModalEmbedding)
    texts = ["red mug", "blue shirt word3", "a much longer text of a red mug and a blue one"]
    wanted = model.encode([{"text": text} for text in texts], normalize_embeddings=True)
    same(embedding.get_text_embedding_batch(texts), wanted)
    same(embedding.get_text_embedding(texts[1]), wanted[1])
    same(embedding.get_query_embedding(texts[2]), wanted[2])
    found = embedding.get_query_embedding("red")
    assert (
        isinstance(found, list) and isinstance(found[0], float) and np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    )


def test_asynchronous_is_the_same_and_many_at_once_do_not_collide(model) -> None:
    embedding = MMEmbedEmbedding(model, embed_batch_size=3)
    texts = [f"{word} {'mug ' * (n % 5)}" for n, word in enumerate(WORDS[:30])]
    wanted = model.encode([{"text": text} for text in texts], normalize_embeddings=True)

    async def all_at_once() -> Any:
        loop_thread = threading.get_ident()
        seen: list[int] = []
        hook = model.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
        try:
            queries = asyncio.gather(*(embedding.aget_query_embedding(text) for text in texts))
            return await asyncio.gather(queries, embedding.aget_text_embedding_batch(texts)), seen, loop_thread
        finally:
            hook.remove()

    (queries, batch), seen, loop_thread = asyncio.run(all_at_once())
    same(queries, wanted)
    same(batch, wanted)
    assert seen and loop_thread not in seen  # the event loop was free


def test_prompts_are_the_models_or_those_given(bert) -> None:
    bert.prompts = {"query": "find: ", "document": "about: "}
    try:
        plain = MMEmbedEmbedding(bert)
        same(
            plain.get_query_embedding("red mug"),
            bert.encode(["find: red mug"], prompt="")[0] / np.linalg.norm(bert.encode(["find: red mug"], prompt="")[0]),
        )
        same(plain.get_text_embedding("red mug"), bert.encode("red mug", prompt="about: ", normalize_embeddings=True))
        own = MMEmbedEmbedding(bert, query_prompt="blue ", text_prompt="")
        same(own.get_query_embedding("mug"), bert.encode("mug", prompt="blue ", normalize_embeddings=True))
        same(own.get_text_embedding("mug"), bert.encode("mug", prompt="", normalize_embeddings=True))
        assert not np.allclose(plain.get_query_embedding("red mug"), plain.get_text_embedding("red mug"), atol=1e-3)
    finally:
        bert.prompts = {}


def test_an_index_retrieves_what_brute_force_finds(bert) -> None:
    texts = [f"{word} number {n}" for n, word in enumerate(WORDS[:25])]
    embedding = MMEmbedEmbedding(bert)
    index = VectorStoreIndex.from_documents(
        [Document(text=text, id_=str(n)) for n, text in enumerate(texts)], embed_model=embedding
    )
    vectors = bert.encode(texts, normalize_embeddings=True)
    for query in ("word3 colour3 red", "blue shirt 17", "mug"):
        found = index.as_retriever(similarity_top_k=5).retrieve(query)
        best = np.argsort(-(vectors @ bert.encode(query, normalize_embeddings=True)))[:5]
        assert [int(node.node.ref_doc_id) for node in found] == best.tolist()
        same([node.score for node in found], np.sort(vectors @ bert.encode(query, normalize_embeddings=True))[::-1][:5])


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def test_images_are_read_below_their_root_or_from_a_stream(model, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(3):
        picture(seed).save(tmp_path / "images" / f"{seed}.png")
    paths = [str(tmp_path / "images" / f"{seed}.png") for seed in range(3)]
    embedding = MMEmbedEmbedding(model, image_root=tmp_path / "images")
    wanted = model.encode([picture(seed) for seed in range(3)], normalize_embeddings=True)
    same(embedding.get_image_embedding_batch(paths), wanted)
    same(embedding.get_image_embedding(io.BytesIO((tmp_path / "images" / "1.png").read_bytes())), wanted[1])
    same(asyncio.run(embedding.aget_image_embedding_batch(paths)), wanted)
    same(asyncio.run(embedding.aget_image_embedding(paths[2])), wanted[2])


@pytest.mark.security
def test_a_text_that_looks_like_an_image_is_a_text_and_a_path_needs_a_root(model, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "secret.png")
    path = str(tmp_path / "secret.png")
    embedding = MMEmbedEmbedding(model)
    for text in (path, "http://127.0.0.1:9/x.png", "data:image/png;base64,iVBORw0KGgo="):
        same(embedding.get_query_embedding(text), model.encode([{"text": text}], normalize_embeddings=True)[0])
        same(embedding.get_text_embedding(text), model.encode([{"text": text}], normalize_embeddings=True)[0])
    (tmp_path / "below").mkdir()
    for source, root in [(path, None), (path, tmp_path / "below"), ("http://127.0.0.1:9/x.png", tmp_path)]:
        with pytest.raises(ImageError):
            MMEmbedEmbedding(model, image_root=root).get_image_embedding(source)


class OnlyEncodes:
    """What an exported model offers at the least."""

    def __init__(self, model) -> None:
        self.model = model

    def encode(self, inputs, prompt=None, batch_size=32, normalize_embeddings=False, show_progress_bar=None):
        return self.model.encode(inputs, prompt=prompt, normalize_embeddings=normalize_embeddings)


def test_anything_with_an_encode_a_folder_and_nothing_else(bert, tmp_path: Path) -> None:
    wrapped = MMEmbedEmbedding(OnlyEncodes(bert), query_prompt="blue ", model_name="mine")
    same(wrapped.get_query_embedding("mug"), bert.encode("mug", prompt="blue ", normalize_embeddings=True))
    assert wrapped.model_name == "mine" and wrapped.to_payload()["class_name"] == "MMEmbedEmbedding"
    bert.save_pretrained(str(tmp_path / "bert"))
    loaded = MMEmbedEmbedding(str(tmp_path / "bert"))
    same(loaded.get_text_embedding("red mug"), bert.encode("red mug", normalize_embeddings=True))
    assert loaded.model_name == str(tmp_path / "bert")
    with pytest.raises(ValueError, match="a dict has no encode"):
        MMEmbedEmbedding({})


class EmbeddingQAFinetuneDataset(BaseModel):
    """With the fields and the methods of LlamaIndex's own, which its core no longer brings."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str]]
    mode: str = "text"

    def save_json(self, path: str) -> None:
        with open(path, "w") as f:
            json.dump(self.model_dump(), f, indent=4)


def test_fine_tuning_data_both_ways(tmp_path: Path) -> None:
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "红色杯子?", "q2": "hat?"},
        corpus={"d1": "一个红色的杯子", "d2": "a hat", "d3": "a lamp"},
        relevant_docs={"q1": ["d1"], "q2": ["d2", "d3"]},
    )
    collection = read_qa_dataset(dataset)
    assert collection.queries["text"][:] == ["红色杯子?", "hat?"] and collection.documents["id"][:] == [
        "d1",
        "d2",
        "d3",
    ]
    assert [row["positive_ids"] for row in collection.pairs] == [["d1"], ["d2", "d3"]]
    assert EmbeddingQAFinetuneDataset(**qa_dataset_fields(collection)) == dataset
    dataset.save_json(str(tmp_path / "qa.json"))
    assert qa_dataset_fields(read_qa_dataset(tmp_path / "qa.json")) == dataset.model_dump()
    with pytest.raises(DataError, match="field 'relevant_docs': no such key"):
        read_qa_dataset({"queries": {}, "corpus": {}})
    with pytest.raises(DataError, match="'d9' is not in the corpus"):
        read_qa_dataset({"queries": {"q": "x"}, "corpus": {"d": "y"}, "relevant_docs": {"q": ["d9"]}})


def test_the_seeds_data_comes_through(shared_data: Path) -> None:
    file = shared_data / "data" / "text" / "percent4_zh" / "doc_qa_test.json"
    collection = read_qa_dataset(file)
    assert (len(collection.queries), len(collection.documents)) == (321, 433)
    raw = json.loads(file.read_text(encoding="utf-8"))
    assert qa_dataset_fields(collection)["relevant_docs"] == raw["relevant_docs"]
