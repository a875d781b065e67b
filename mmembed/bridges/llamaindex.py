"""LlamaIndex: a model as its embedding of queries, texts and images, and its fine-tuning data as a `Collection`, both ways."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from mmembed.data.collection import Collection
from mmembed.data.formats import qa_json
from mmembed.encode import model_inputs
from mmembed.images import ImagePolicy, load_image
from mmembed.models.loading import load_model

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
except ImportError:
    raise ImportError("LlamaIndex needs its core: pip install 'mmembed[llamaindex]'") from None


class MMEmbedEmbedding(MultiModalEmbedding):
    """Any model of ours, or an export of one, where LlamaIndex takes an embedding.

    Vectors are of length 1. Queries and texts get the prompts that the model has for them, unless others are given. A
    text is always a text, also one that names an image. An image is a path below `image_root`, or a stream of its bytes.

    Args:
        model: a `SentenceTransformer`, what has its `encode`, or what `load_model` takes.
        query_prompt: put before each query; None: the model's own "query" prompt, if it has one.
        text_prompt: put before each text; None: the model's own "document", "passage" or "corpus" prompt.
        image_root: the folder that images may be read from; None reads no path.
        model_name: what LlamaIndex calls the model; None: the name it was loaded by, if that is known.
        embed_batch_size: rows a forward pass.
        **kwargs: further fields of LlamaIndex's `BaseEmbedding`: callback_manager, embeddings_cache, …

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> len(MMEmbedEmbedding(model).get_query_embedding("a red mug"))
        8
    """

    query_prompt: str | None = None
    text_prompt: str | None = None
    _model: Any = PrivateAttr()
    _policy: ImagePolicy = PrivateAttr()
    _one_at_a_time: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def __init__(
        self,
        model: Any,
        *,
        query_prompt: str | None = None,
        text_prompt: str | None = None,
        image_root: str | os.PathLike | None = None,
        model_name: str | None = None,
        embed_batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        name = str(model) if isinstance(model, (str, os.PathLike)) else None
        model = load_model(model) if name is not None else model
        if not hasattr(model, "encode"):
            raise ValueError(f"a {type(model).__name__} has no encode; give a SentenceTransformer, or its name")
        if name is None:
            name = getattr(getattr(model, "model_card_data", None), "base_model", None)
        super().__init__(
            model_name=model_name or name or type(model).__name__,
            embed_batch_size=embed_batch_size,
            query_prompt=query_prompt,  # type: ignore[call-arg]
            text_prompt=text_prompt,  # type: ignore[call-arg]
            **kwargs,
        )
        self._model = model
        self._policy = ImagePolicy(root=image_root)

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex records."""
        return "MMEmbedEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encode([{"text": query}], self.query_prompt, "encode_query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encode([{"text": text} for text in texts], self.text_prompt, "encode_document")

    def _get_image_embedding(self, img_file_path: str | io.BytesIO) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[str | io.BytesIO]) -> list[list[float]]:
        sources = [one.getvalue() if isinstance(one, io.BytesIO) else one for one in img_file_paths]
        return self._encode([{"image": load_image(one, policy=self._policy)} for one in sources], "", "encode_document")

    # An event loop goes on while a thread encodes.

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: str | io.BytesIO) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[str | io.BytesIO]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    def _encode(self, rows: list[dict[str, Any]], prompt: str | None, verb: str) -> list[list[float]]:
        # The model's own prompts are chosen by the verb; what has only an `encode` knows none.
        encode = getattr(self._model, verb) if isinstance(self._model, SentenceTransformer) else self._model.encode
        options = {"batch_size": self.embed_batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        with self._one_at_a_time:  # a tokenizer cannot be used by two threads at once
            found = encode(model_inputs(self._model, rows), prompt=prompt, **options)
        return np.asarray(found, dtype=np.float32).tolist()


def read_qa_dataset(dataset: Any) -> Collection:
    """Fine-tuning data of LlamaIndex → a `Collection`.

    Args:
        dataset: an `EmbeddingQAFinetuneDataset` of LlamaIndex, whatever package it is from; a dictionary of its fields
            `queries`, `corpus` and `relevant_docs`; or the path of what its `save_json` wrote.

    Returns:
        Queries, documents and pairs, with the dataset's ids.

    Raises:
        DataError: a fault in the data, as `mmembed.data.formats.qa_json.read` names it.

    Example:
        >>> fields = {"queries": {"q": "hat?"}, "corpus": {"d": "a hat"}, "relevant_docs": {"q": ["d"]}}
        >>> read_qa_dataset(fields).pairs[0]["positive_ids"]
        ['d']
    """
    if isinstance(dataset, (str, os.PathLike)):
        return qa_json.read(dataset)
    names = ("queries", "corpus", "relevant_docs")
    if isinstance(dataset, Mapping):
        fields: dict[str, Any] = {name: dataset[name] for name in names if name in dataset}
    else:
        fields = {name: getattr(dataset, name) for name in names if hasattr(dataset, name)}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "EmbeddingQAFinetuneDataset.json")
        with open(file, "w", encoding="utf-8") as opened:
            json.dump({**fields, "mode": getattr(dataset, "mode", "text")}, opened)
        return qa_json.read(file)


def qa_dataset_fields(collection: Collection) -> dict[str, Any]:
    """A `Collection` of texts → the fields of LlamaIndex's `EmbeddingQAFinetuneDataset`.

    Args:
        collection: queries, documents and pairs of texts; negatives, scores and prompts are left out with a warning.

    Returns:
        `queries`, `corpus`, `relevant_docs` and `mode`: `EmbeddingQAFinetuneDataset(**qa_dataset_fields(collection))`.

    Raises:
        DataError: an item without a text or with an image.

    Example:
        >>> fields = {"queries": {"q": "hat?"}, "corpus": {"d": "a hat"}, "relevant_docs": {"q": ["d"]}, "mode": "text"}
        >>> qa_dataset_fields(read_qa_dataset(fields)) == fields
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "EmbeddingQAFinetuneDataset.json")
        qa_json.write(collection, file)
        with open(file, encoding="utf-8") as opened:
            return json.load(opened)
