"""A model and ITEMS → `Embeddings` in a folder: shard by shard, going on where an interrupted run stopped.

While the work lasts, plan.json says what is being encoded, by what and how, and shard-00000.json that a shard is whole.
The processes of a launch therefore each write some of the shards; when all are whole the first one writes the manifest,
and with it the folder is complete.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.embeddings import (
    DTYPES,
    Embeddings,
    check_unit_length,
    read_manifest,
    read_shard,
    write_manifest,
    write_shard,
)
from mmembed.encode import Reader, Use, encode_items, reader_of
from mmembed.encoding_batches import USES
from mmembed.encoding_fingerprints import check_complete, check_ids, items_fingerprint, model_fingerprint
from mmembed.encoding_plan import begin_folder, receipt_name, tidy_folder, whole_shard, write_json
from mmembed.encoding_ranks import Ranks, ranks_together

__all__ = ["encode_dataset", "items_fingerprint", "model_fingerprint", "write_dataset_vectors"]


def encode_dataset(
    model: SentenceTransformer,
    items: Dataset,
    folder: str | os.PathLike,
    *,
    use: Use = "text",
    batch_size: int = 64,
    reader: Reader | None = None,
    prompt: str | None = None,
    dtype: str = "float32",
    shard_rows: int | None = None,
    num_workers: int | None = None,
    model_name: str | None = None,
    revision: str | None = None,
    across_ranks: bool = True,
    show_progress_bar: bool = True,
) -> Embeddings:
    """Encode items into a folder of memory-mapped vectors; a folder that is complete already is checked and loaded.

    In a process group (`accelerate launch`, `torchrun`) every process calls this with the same arguments and a folder that
    all of them see; each encodes its share of the shards, and the files are those that one process writes.

    Args:
        model: Any `SentenceTransformer`.
        items: ITEMS of n rows.
        folder: where the vectors go. What an interrupted run left there is used if it was of the same model, items and
            options; anything else there is refused.
        use: "text", "image", or "fused": both where an item has both, else what is there.
        batch_size: rows a forward pass; may differ between the runs that share a folder.
        reader: reads images; when None, paths are read below the folder that all of them have in common. It is not part
            of the plan: a run that goes on must be given the same.
        prompt: put before each text.
        dtype: of the stored vectors, "float32" or "float16".
        shard_rows: rows a file; no more than this many vectors are in memory at once, and no more are encoded twice after
            an interruption. None: as the folder was begun, else a thirty-second of the items, from 1,024 to 65,536.
        num_workers: processes that read and decode ahead, see `encode_items`.
        model_name: how the manifest calls the model; the name that it was loaded by when None.
        revision: which version of the model that is; the commit of the Hub when None and known.
        across_ranks: share the work in a process group; False: this process does all of it, whatever the others do.
        show_progress_bar: show one, of the first process's share.

    Returns:
        The embeddings, in the order of the items.

    Raises:
        DataError: If the folder holds other embeddings or something else, with what differs; an id occurs twice, or an
            item lacks what is encoded.
        LaunchError: If another process of the group ended before its share was done.
        ValueError: As `encode_items`.

    Example:
        >>> import tempfile
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> items = Dataset.from_dict({"id": ["a", "b"], "text": ["red mug", "mug"]})
        >>> folder = tempfile.mkdtemp() + "/vectors"
        >>> encode_dataset(model, items, folder, show_progress_bar=False).vectors.shape
        (2, 8)
    """
    write_dataset_vectors(
        model,
        items,
        folder,
        use=use,
        batch_size=batch_size,
        reader=reader,
        prompt=prompt,
        dtype=dtype,
        shard_rows=shard_rows,
        num_workers=num_workers,
        model_name=model_name,
        revision=revision,
        across_ranks=across_ranks,
        show_progress_bar=show_progress_bar,
    )
    return Embeddings.load(folder, verify=False)  # every file was hashed when it was written, or looked at just now


def write_dataset_vectors(
    model: SentenceTransformer,
    items: Dataset,
    folder: str | os.PathLike,
    *,
    use: Use = "text",
    batch_size: int = 64,
    reader: Reader | None = None,
    prompt: str | None = None,
    dtype: str = "float32",
    shard_rows: int | None = None,
    num_workers: int | None = None,
    model_name: str | None = None,
    revision: str | None = None,
    across_ranks: bool = True,
    show_progress_bar: bool = True,
) -> bool:
    """As `encode_dataset`, for more items than one wants the ids of in memory: nothing is loaded afterwards.

    Args:
        model: see `encode_dataset`, as all others.

    Returns:
        Whether the folder was whole before; it was checked then and nothing was encoded.
    """
    if use not in USES:
        raise ValueError(f"use={use!r}; choose text, image or fused.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; choose {' or '.join(DTYPES)}.")
    for name, value in (("shard_rows", shard_rows), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; give at least 1.")
    folder = os.fspath(folder)
    encoding: dict[str, Any] = {"batch_size": batch_size, "prompt": prompt, "num_workers": num_workers}

    def begun() -> dict[str, Any]:
        check_ids(items)
        check_complete(items, use)
        found = {
            "model": model_name if model_name is not None else _name(model),
            "revision": revision if revision is not None else getattr(_config(model), "_commit_hash", None),
            "metric": "cosine",
            "model_fingerprint": model_fingerprint(model),
            "items": items_fingerprint(items, use, show_progress_bar=show_progress_bar),
            "count": len(items),
            "use": use,
            "prompt": prompt,
            "dtype": dtype,
            "shard_rows": shard_rows,
            "dim": model.get_embedding_dimension(),
        }
        return begin_folder(folder, found, revision)

    with ranks_together(across_ranks) as ranks:
        plan = ranks.from_first(begun)
        if ranks.number and plan["model_fingerprint"] != model_fingerprint(model):
            raise DataError(f"process {ranks.number} has another model than the first one; load the same in each")
        if plan.pop("whole"):
            shards = read_manifest(folder)["shards"]
            for number in ranks.share(list(range(len(shards)))):
                read_shard(folder, shards[number], dim=plan["dim"], dtype=dtype, verify=True)
            return True
        if reader is None and use != "text" and "image" in items.column_names:
            reader = reader_of(items)
        _encode_share(ranks, model, items, folder, plan, {**encoding, "reader": reader}, show_progress_bar)
    return False


def _encode_share(
    ranks: Ranks,
    model: SentenceTransformer,
    items: Dataset,
    folder: str,
    plan: dict[str, Any],
    encoding: dict[str, Any],
    show_progress_bar: bool,
) -> None:
    """Encode this process's share of what is missing; the first process finishes the folder when all is there."""
    size = plan["shard_rows"]
    numbers = list(range(max(1, -(-len(items) // size))))
    shard_rows = {number: range(number * size, min((number + 1) * size, len(items))) for number in numbers}
    ids = items.select_columns(["id"])

    def ids_of(number: int) -> list[str]:
        rows = shard_rows[number]
        return [str(one) for one in ids[rows.start : rows.stop]["id"]]

    entries: dict[int, dict[str, Any]] = {}
    for number in ranks.share(numbers):
        entry = whole_shard(folder, number, ids_of(number), plan)
        if entry is not None:
            entries[number] = entry
    there = {number: entry for some in ranks.gather(entries) for number, entry in some.items()}
    mine = ranks.share([number for number in numbers if number not in there])
    done = sum(len(shard_rows[number]) for number in there) if ranks.count == 1 else 0
    bar = tqdm(
        total=done + sum(len(shard_rows[number]) for number in mine),
        initial=done,
        desc="encode" if ranks.count == 1 else f"encode, process {ranks.number + 1} of {ranks.count}",
        unit="item",
        disable=not show_progress_bar or ranks.number > 0,
    )
    made: dict[int, dict[str, Any]] = {}
    with bar:
        for number in mine:
            rows = shard_rows[number]
            vectors = encode_items(model, items.select(rows), use=plan["use"], **encoding, on_encoded=bar.update)
            _check_lengths(vectors, rows.start, items)
            try:
                made[number] = write_shard(folder, number, ids_of(number), vectors.astype(plan["dtype"], copy=False))
                write_json(os.path.join(folder, receipt_name(number)), made[number])
            except OSError as error:
                message = f"cannot be written ({error.strerror or error}); make room, and the same command goes on"
                raise DataError(message, file=folder) from error
    for some in ranks.gather(made):
        there.update(some)

    def finish() -> None:
        write_manifest(folder, plan, [there[number] for number in numbers])
        tidy_folder(folder)

    ranks.from_first(finish)


def _check_lengths(vectors: np.ndarray, first: int, items: Dataset) -> None:
    try:
        check_unit_length(vectors, "items")
    except DataError as error:
        row = first + (error.row or 0)
        message = f"the model makes no vector of {items[row]['id']!r:.80}, but NaN or infinity; look at its weights, or use float32"
        raise DataError(message, file="items", row=row) from None


def _config(model: Any) -> Any:
    first = model[0] if isinstance(model, SentenceTransformer) else None
    return getattr(getattr(first, "auto_model", None), "config", None)


def _name(model: Any) -> str | None:
    card = getattr(model, "model_card_data", None)
    return getattr(card, "base_model", None) or getattr(_config(model), "_name_or_path", None) or None
