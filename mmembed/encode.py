"""A model and ITEMS → vectors: batches of like lengths, read and decoded ahead while the model works on the one before."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import batch_to_device, truncate_embeddings
from tqdm.auto import tqdm

from mmembed.data.collators import ImageFeatures, with_activations
from mmembed.encoding_batches import USES, ItemRows, Reader, Use, batch_numbers, batches_ahead
from mmembed.images import ImagePolicy, ImageReader

__all__ = ["Reader", "Use", "encode_items", "reader_of"]

_ENCODE = SentenceTransformer.encode
_TEXTS_A_CALL = 64  # batches; a model that is more than a module sorts and batches so many itself


def encode_items(
    model: SentenceTransformer,
    items: Dataset,
    *,
    use: Use = "text",
    batch_size: int = 64,
    reader: Reader | None = None,
    prompt: str | None = None,
    image_features: ImageFeatures | None = None,
    num_workers: int | None = None,
    show_progress_bar: bool = False,
    on_encoded: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """One vector for each item.

    An item with `text_parts` stands for the weighted sum of its parts' vectors, normalised again; with use="fused" and an
    image, each part is fused with the image first. Which items share a batch is decided by the table and the batch size
    alone, so that the same items have the same bits wherever they are encoded.

    Args:
        model: Any `SentenceTransformer`, or what has its `encode`.
        items: ITEMS.
        use: "text", "image", or "fused": both where an item has both, else what is there.
        batch_size: Rows a forward pass.
        reader: Reads images. When None, paths are read below the folder that all of the items' paths have in common.
        prompt: Put before each text; None puts the model's own default before it, where it has one.
        image_features: Stored activations of a frozen vision tower to use instead of the images, see
            `mmembed.training.image_features`.
        num_workers: Processes that read, decode and tokenise ahead. 0 does it in threads of this one, and so does None
            where the model is on a CPU, which it needs itself; on another device None takes the free cores, at most 8.
        show_progress_bar: Show one.
        on_encoded: Called after each batch with the number of its items.

    Returns:
        float32 (items, dim), each row of length 1.

    Raises:
        ValueError: If an item lacks what is used, with the ids; or an image cannot be read.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> encode_items(model, Dataset.from_dict({"id": ["a", "b"], "text": ["red mug", "mug"]})).shape
        (2, 8)
    """
    if use not in USES:
        raise ValueError(f"use={use!r}; choose text, image or fused.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give at least 1.")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers={num_workers}; give at least 0.")
    wanted = ["id", *(["text", "text_parts"] if use != "image" else []), *(["image"] if use != "text" else [])]
    items = items.select_columns([name for name in wanted if name in items.column_names])
    with_images = "image" in items.column_names
    stored = image_features if with_images else None
    if stored is not None:
        reader = _StoredReader(stored)
    elif with_images and reader is None:
        reader = reader_of(items)
    in_steps = _runs_in_steps(model)
    if prompt is None and in_steps and model.default_prompt_name is not None:
        prompt = model.prompts.get(model.default_prompt_name)
    prepare = (
        partial(_prepared, model, prompt, batch_size, stored is not None) if in_steps else partial(model_inputs, model)
    )
    rows = ItemRows(items, use, reader if with_images else None, prepare)
    size = batch_size if in_steps or with_images else batch_size * _TEXTS_A_CALL
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, torch.nn.Module) else []
    vectors: np.ndarray | None = None
    ahead = batches_ahead(rows, batch_numbers(items, size), num_workers=_workers(model, num_workers))
    bar = tqdm(total=len(items), desc="encode", unit="item", disable=not show_progress_bar)
    try:
        for batch in ahead:
            if in_steps:
                found = _forward(model, batch.inputs)
            else:
                found = model.encode(
                    batch.inputs,
                    prompt=prompt,
                    batch_size=batch_size,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            encoded = _summed(np.asarray(found, dtype=np.float32), batch.owners, batch.weights)
            if vectors is None:
                vectors = np.empty((len(items), encoded.shape[1]), dtype=np.float32)
            vectors[batch.items] = encoded
            bar.update(len(batch.items))
            if on_encoded is not None:
                on_encoded(len(batch.items))
    finally:
        ahead.close()
        bar.close()
        for module, training in modes:
            module.training = training
    return vectors if vectors is not None else np.zeros((0, model.get_embedding_dimension() or 0), dtype=np.float32)


class _StoredReader:
    """Gives an item's stored activations where another reader gives its image."""

    def __init__(self, image_features: ImageFeatures) -> None:
        self.image_features = image_features

    def read(self, source: Any, id: str) -> Any:
        return self.image_features.load([id], [0])[0]


def _runs_in_steps(model: Any) -> bool:
    """Whether making tensors and running the modules may be two steps of ours.

    Not so for what only has an `encode`, or one of its own, nor while sentence-transformers' evaluators share an encoding
    among processes.
    """
    plain = isinstance(model, SentenceTransformer) and getattr(model.encode, "__func__", None) is _ENCODE
    return plain and getattr(model, "_distributed_inference", None) is None


def model_inputs(model: Any, rows: list[dict[str, Any]]) -> list[Any]:
    """Rows as the model takes them: a module of tokens alone, and what is no SentenceTransformer, texts as strings."""
    if isinstance(model, SentenceTransformer) and isinstance(model[0], Transformer):
        return rows
    return [row["text"] if "image" not in row else row for row in rows]


def _prepared(
    model: SentenceTransformer, prompt: str | None, batch_size: int, stored: bool, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The tensors of the rows, at most batch_size rows together: weighted parts make more rows than items."""
    preprocess = partial(model.preprocess, prompt=prompt)
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if stored:
        return [with_activations(part, preprocess) for part in parts]
    return [preprocess(model_inputs(model, part)) for part in parts]


@torch.inference_mode()
def _forward(model: SentenceTransformer, parts: list[dict[str, Any]]) -> np.ndarray:
    """(rows, dim), as `model.encode` makes them."""
    model.eval()
    found = []
    for features in parts:
        vectors = model(batch_to_device(features, model.device))["sentence_embedding"].float()
        if model.truncate_dim is not None:
            vectors = truncate_embeddings(vectors, model.truncate_dim)
        found.append(torch.nn.functional.normalize(vectors, dim=-1).cpu())
    return torch.cat(found).numpy()


def _workers(model: Any, num_workers: int | None) -> int:
    if num_workers is not None:
        return num_workers
    device = getattr(model, "device", torch.device("cpu"))
    if torch.device(device).type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(8, cores // local - 1))


def _summed(vectors: np.ndarray, owners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows, dim) → (items, dim)."""
    if len(owners) == owners[-1] + 1:  # one row an item
        return vectors
    total = np.zeros((owners[-1] + 1, vectors.shape[1]), dtype=np.float32)
    np.add.at(total, owners, vectors * weights[:, None])
    lengths = np.linalg.norm(total, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("the weighted parts of an item cancel out; give positive weights.")
    return total / lengths


def reader_of(items: Dataset) -> ImageReader:
    """A reader of the images of ITEMS and of nothing outside the folder that all of their paths have in common.

    Args:
        items: ITEMS with an `image` column.

    Returns:
        The reader.

    Raises:
        ValueError: If the paths have no folder in common.

    Example:
        >>> reader_of(Dataset.from_dict({"id": ["a"], "image": [{"bytes": None, "path": "/photos/a.jpg"}]})).policy.root
        '/photos'
    """
    return ImageReader(ImagePolicy(root=_common_folder(items)))


def _common_folder(items: Dataset) -> str | None:
    """The folder below which all image paths lie; None when there is no path."""
    folders = set()
    for batch in items.select_columns(["image"]).iter(1000):
        for image in batch["image"]:
            if isinstance(image, dict) and image.get("bytes") is None and image.get("path") is not None:
                folders.add(os.path.dirname(image["path"]))
    if not folders:
        return None
    try:
        common = os.path.commonpath(list(folders))
    except ValueError as error:
        raise ValueError(f"image paths are not all absolute ({error}); pass a reader.") from None
    if common in (os.sep, ""):
        raise ValueError("the images lie under no common folder; pass a reader whose policy names their root.")
    return common
