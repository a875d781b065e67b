"""What makes vectors what they are: hashes of a model and of items, and what must hold of items before they are encoded."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.data.keys import items_keys
from mmembed.data.schema import DataError
from mmembed.encoding_batches import Use

_ROWS_AT_ONCE = 10_000


def model_fingerprint(model: torch.nn.Module) -> str:
    """A hash of what makes a model's vectors: its weights, its modules, its tokenizer and its prompts.

    Args:
        model: any `SentenceTransformer` or module.

    Returns:
        32 hexadecimal digits, equal on every machine and device.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> model_fingerprint(layer) == model_fingerprint(layer)
        True
    """
    state = xxhash.xxh3_128()
    prompts = (getattr(model, "prompts", None), getattr(model, "default_prompt_name", None))
    lengths = (getattr(model, "truncate_dim", None), getattr(model, "max_seq_length", None))
    state.update(repr((type(model).__name__, prompts, lengths)).encode())
    for name, module in model.named_modules():
        state.update(f"{name} {type(module).__name__} {module.extra_repr()}".encode())
        for reader in ("tokenizer", "processor"):
            state.update(_as_text(getattr(module, reader, None)).encode("utf-8", "surrogatepass"))
        if hasattr(module, "get_config_dict"):
            state.update(json.dumps(module.get_config_dict(), sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            values = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(values.view(torch.uint8).numpy().data if values.numel() else b"")
    return state.hexdigest()


def items_fingerprint(items: Dataset, use: Use, *, show_progress_bar: bool = False) -> str:
    """A hash of the ids of ITEMS, in order, and of what of them is encoded: exact texts, weighted parts, image bytes.

    Args:
        items: ITEMS.
        use: "text", "image" or "fused".
        show_progress_bar: show one over image files that take long.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(use.encode())
    texts = [name for name in ("text", "text_parts") if use != "image" and name in items.column_names]
    for batch in items.select_columns(["id", *texts]).iter(_ROWS_AT_ONCE):
        for row in zip(*(batch[name] for name in ("id", *texts)), strict=True):
            digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    if use != "text" and "image" in items.column_names:
        images = items.select_columns(["image"])
        # Block by block, so that the paths of a large table are never all in memory.
        starts = range(0, len(items), _ROWS_AT_ONCE)
        bar = tqdm(total=len(items), desc="hash images", unit="item", delay=2.0, disable=not show_progress_bar)
        with bar:
            for start in starts:
                rows = range(start, min(start + _ROWS_AT_ONCE, len(items)))
                keys = items_keys(images.select(rows), show_progress_bar=False)[:, 2]
                digest.update(np.ascontiguousarray(keys).tobytes())
                bar.update(len(rows))
    return digest.hexdigest()


def check_ids(items: Dataset) -> None:
    """Refuse a table in which an id occurs twice.

    Args:
        items: ITEMS.

    Raises:
        DataError: With the id and its rows.

    Example:
        >>> check_ids(Dataset.from_dict({"id": ["a", "b", "a"]}))
        Traceback (most recent call last):
        mmembed.data.schema.DataError: items: row 2: field 'id': an id occurs twice; ids are unique: 'a', also in row 0
    """
    ids = items.select_columns(["id"])
    hashes = np.empty(len(items), dtype=np.uint64)  # eight bytes an id, where a set of them takes a hundred
    start = 0
    for batch in ids.iter(_ROWS_AT_ONCE):
        for one in batch["id"]:
            hashes[start] = xxhash.xxh3_64_intdigest(str(one).encode("utf-8", "surrogatepass"))
            start += 1
    order = np.argsort(hashes, kind="stable")
    again = hashes[order[1:]] == hashes[order[:-1]]
    for row, before in zip(order[1:][again].tolist(), order[:-1][again].tolist()):
        if str(ids[row]["id"]) == str(ids[before]["id"]):
            message = f"an id occurs twice; ids are unique: {ids[row]['id']!r:.80}, also in row {before}"
            raise DataError(message, file="items", row=row, field="id")


def check_complete(items: Dataset, use: Use) -> None:
    """Refuse a table in which an item lacks what is to be encoded, before any is.

    Args:
        items: ITEMS.
        use: "text", "image" or "fused".

    Raises:
        DataError: With the first of them.

    Example:
        >>> check_complete(Dataset.from_dict({"id": ["a", "b"], "text": ["hat", None]}), "text")
        Traceback (most recent call last):
        mmembed.data.schema.DataError: items: row 1: 1 items have no text, first: 'b'; leave them out or use another modality
    """
    of = {"text": ("text", "text_parts"), "image": ("image",), "fused": ("text", "text_parts", "image")}[use]
    columns = [name for name in of if name in items.column_names]
    lacking, first, start = 0, None, 0
    for table in items.select_columns(["id", *columns]).with_format("arrow").iter(_ROWS_AT_ONCE // 10):
        none = np.ones(table.num_rows, dtype=bool)
        for name in columns:
            column = table.column(name)
            if name == "text_parts":
                none &= np.array([not parts for parts in column.to_pylist()], dtype=bool)
            else:
                none &= column.is_null().to_numpy()
        if none.any() and first is None:
            row = int(np.flatnonzero(none)[0])
            first = start + row, table.column("id")[row].as_py()
        lacking += int(none.sum())
        start += table.num_rows
    if first is not None:
        what = "neither a text nor an image" if use == "fused" else f"no {use}"
        message = f"{lacking} items have {what}, first: {first[1]!r:.80}; leave them out or use another modality"
        raise DataError(message, file="items", row=first[0])


def _as_text(reader: Any) -> str:
    """A tokenizer or a processor as its settings; "" for none."""
    if reader is None:
        return ""
    parts = [type(reader).__name__]
    backend = getattr(reader, "backend_tokenizer", reader)
    if hasattr(backend, "to_str"):
        settings = json.loads(backend.to_str())
        # How the last batch was cut and padded is kept here too; that is no property of the model.
        parts.append(json.dumps({name: settings[name] for name in settings if name not in ("truncation", "padding")}))
    if hasattr(reader, "to_json_string"):
        parts.append(_without_code(reader.to_json_string()))
    for part in ("tokenizer", "image_processor"):
        if part in vars(reader):
            parts.append(_as_text(vars(reader)[part]))
    return "\n".join(parts)


def _without_code(settings: str) -> str:
    """A processor's settings without `auto_map`, which saving a model adds to the one in memory and loading takes off."""
    read = json.loads(settings)
    if "auto_map" not in read:
        return settings
    del read["auto_map"]
    return json.dumps(read, indent=2, sort_keys=True) + "\n"
