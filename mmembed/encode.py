"""ITEMS → vectors: images are decoded a chunk at a time while the model works on the chunk before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.images import ImagePolicy, ImageReader

if TYPE_CHECKING:
    from mmembed.data.collators import ImageFeatures

_BATCHES_A_CHUNK = 4


def encode_items(
    model: SentenceTransformer,
    items: Dataset,
    *,
    use: Literal["text", "image", "fused"] = "fused",
    batch_size: int = 64,
    reader: ImageReader | None = None,
    prompt: str | None = None,
    image_features: ImageFeatures | None = None,
    show_progress_bar: bool = False,
) -> np.ndarray:
    """Encode a table of items.

    Args:
        model: The model.
        items: ITEMS of n rows. With a column `text_parts` a text's vector is the weighted sum of its parts' vectors,
            renormalised; such items cannot be fused.
        use: "text", "image", or "fused": text and image where an item has both, else what it has.
        batch_size: Rows a forward pass.
        reader: Reads images; by default only from under the folder that all the items' image paths have in common.
        prompt: Put before each text.
        image_features: Stored activations to use instead of images.
        show_progress_bar: Show one.

    Returns:
        float32 (n, dim), each row L2-normalised, in the order of the items.

    Raises:
        DataError: If an item lacks what is to be encoded; names the first.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red shirt"] * 4, text_width=16, projection_dim=8, image_size=32)
        >>> items = Dataset.from_dict({"id": ["a", "b"], "text": ["red shirt", "blue mug"], "image": [None, None]})
        >>> encode_items(model, items, use="text").shape
        (2, 8)
    """
    _check(items, use)
    columns = [name for name in ("id", "text", "text_parts", "image") if name in items.column_names]
    table = items.select_columns(columns)
    reader = reader if reader is not None else ImageReader(ImagePolicy(root=_common_folder(items)))
    size = batch_size * _BATCHES_A_CHUNK
    bounds = [range(start, min(start + size, len(table))) for start in range(0, len(table), size)]
    vectors = []
    bar = tqdm(total=len(table), desc=f"encode {use}", unit="item", disable=not show_progress_bar)
    stored = image_features if use != "text" else None
    for rows in _read_ahead(table, bounds, use, reader if stored is None else None):
        if "text_parts" in columns and use == "text":
            chunk = _encode_parts(model, rows, batch_size, prompt)
        elif stored is not None:
            chunk = _encode_stored(model, rows, stored, batch_size, prompt)
        else:
            inputs = [row["input"] for row in rows]
            chunk = model.encode(inputs, batch_size=batch_size, prompt=prompt, show_progress_bar=False)
        vectors.append(np.asarray(chunk, dtype=np.float32))
        bar.update(len(rows))
    bar.close()
    if not vectors:
        return np.zeros((0, model.get_embedding_dimension() or 0), dtype=np.float32)
    joined = np.concatenate(vectors)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)


def _read_ahead(
    table: Dataset, bounds: list[range], use: str, reader: ImageReader | None
) -> Iterator[list[dict[str, Any]]]:
    """Rows of each chunk with their decoded inputs; the next chunk is decoded while this one is encoded."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:

        def read(rows: range) -> list[Any]:
            batch = table[rows.start : rows.stop]
            items = [{name: batch[name][i] for name in batch} for i in range(len(rows))]
            return [pool.submit(_input, item, use, reader) for item in items]

        ahead = read(bounds[0]) if bounds else []
        for number in range(len(bounds)):
            here, ahead = ahead, read(bounds[number + 1]) if number + 1 < len(bounds) else []
            yield [future.result() for future in here]


def _input(item: dict[str, Any], use: str, reader: ImageReader | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if use != "image" and item.get("text") is not None:
        row["text"] = item["text"]
    if use != "text" and item.get("image") is not None and reader is not None:
        image = reader.read(item["image"], id=item["id"])
        if image is None:
            raise DataError(
                f"the image of item {item['id']!r} cannot be read; scan and leave it out first", field="image"
            )
        row["image"] = image
    return {**item, "input": row}


def _encode_parts(
    model: SentenceTransformer, rows: list[dict[str, Any]], batch_size: int, prompt: str | None
) -> np.ndarray:
    parts = [(number, part) for number, row in enumerate(rows) for part in row["text_parts"]]
    inputs = [{"text": part["text"]} for _, part in parts]
    vectors = model.encode(
        inputs, batch_size=batch_size, prompt=prompt, show_progress_bar=False, normalize_embeddings=True
    )
    summed = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    for (number, part), vector in zip(parts, vectors):
        summed[number] += part["weight"] * vector
    return summed


@torch.inference_mode()
def _encode_stored(
    model: SentenceTransformer, rows: list[dict[str, Any]], stored: ImageFeatures, batch_size: int, prompt: str | None
) -> np.ndarray:
    was_training = model.training
    model.eval()
    chunks = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        texts = [number for number, row in enumerate(batch) if "text" in row["input"]]
        features: dict[str, Any] = {
            "input_ids": torch.zeros(len(batch), 1, dtype=torch.int64),
            "attention_mask": torch.zeros(len(batch), 1, dtype=torch.int64),
        }
        if texts:
            tokens = model.preprocess([{"text": batch[number]["text"]} for number in texts], prompt=prompt)
            for name, value in tokens.items():
                if isinstance(value, torch.Tensor):
                    features[name] = value.new_zeros((len(batch), *value.shape[1:]))
                    features[name][texts] = value
        shown = [row.get("image") is not None for row in batch]
        ids = [row["id"] for row, show in zip(batch, shown) if show]
        if ids:
            features["pixel_values"] = stored.load(ids, [0] * len(ids))
            features["num_images_per_sample"] = torch.tensor(shown, dtype=torch.int64)
        features = {name: value.to(model.device) for name, value in features.items()}
        chunks.append(model({**features, "modality": "message"})["sentence_embedding"].float().cpu().numpy())
    model.train(was_training)
    return np.concatenate(chunks)


def _check(items: Dataset, use: str) -> None:
    if use not in ("text", "image", "fused"):
        raise ValueError(f"use={use!r}; it must be 'text', 'image' or 'fused'.")
    if use == "fused" and "text_parts" in items.column_names and "image" in items.column_names:
        if not items.with_format("arrow")[:]["image"].null_count == len(items):
            raise DataError(
                "items with text_parts and images cannot be fused; encode text and image apart", field="text_parts"
            )
    wanted = ["text", "image"] if use == "fused" else [use]
    missing = np.ones(len(items), dtype=bool)
    for name in wanted:
        if name in items.column_names:
            missing &= items.select_columns([name]).with_format("arrow")[:][name].is_null().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise DataError(
            f"{int(missing.sum())} items have no {' and no '.join(wanted)} to encode, first {items[row]['id']!r}",
            row=row,
            field=wanted[0],
        )


def _common_folder(items: Dataset) -> str | None:
    if "image" not in items.column_names:
        return None
    column = items.select_columns(["image"]).with_format("arrow")[:]["image"].combine_chunks()
    if column.null_count == len(column) or not hasattr(column.type, "get_field_index"):
        return None
    paths = [path for path in column.field("path").drop_null().to_pylist() if os.path.isabs(path)]
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else None
