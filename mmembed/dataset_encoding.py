"""A model and ITEMS → `Embeddings` in a folder: shard by shard, going on where an interrupted run stopped.

While the work lasts, plan.json says what is being encoded, by what and how, and shard-00000.json that a shard is whole.
The processes of a launch therefore each write some of the shards; when all are whole the first one writes the manifest,
and with it the folder is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mmembed.data.keys import items_keys
from mmembed.data.schema import DataError
from mmembed.embeddings import (
    DTYPES,
    MANIFEST,
    Embeddings,
    check_shard_entry,
    read_manifest,
    read_shard,
    write_manifest,
    write_shard,
)
from mmembed.encode import Reader, Use, encode_items, reader_of
from mmembed.encoding_batches import USES
from mmembed.encoding_ranks import Ranks, ranks_together
from mmembed.whole_files import write_whole

PLAN = "plan.json"

# What each line of the plan is called in a message.
_PLANNED = {
    "model_fingerprint": "another model (its weights, modules or tokenizer differ)",
    "items": "other items (ids, texts or images differ)",
    "count": "another number of items",
    "use": "another use",
    "prompt": "another prompt",
    "dtype": "another dtype",
    "shard_rows": "another shard_rows",
    "dim": "another dimension",
}
_LEFT_BEHIND = re.compile(r"\.(ids|vectors|shard|plan|manifest)(-\d{5,})?\.(jsonl|npy|json)-\w{8}")
_ROWS_AT_ONCE = 10_000


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
    whole = write_dataset_vectors(
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
    # What this run wrote or looked at it has hashed.
    return Embeddings.load(folder, verify=whole)


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
        Whether the folder was whole before; nothing of it was read then but the manifest.
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
        return _begin(folder, found, revision)

    with ranks_together(across_ranks) as ranks:
        plan = ranks.from_first(begun)
        if ranks.number and plan["model_fingerprint"] != model_fingerprint(model):
            raise DataError(f"process {ranks.number} has another model than the first one; load the same in each")
        if plan.pop("whole"):
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
        entry = _whole_shard(folder, number, ids_of(number), plan)
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
            try:
                made[number] = write_shard(folder, number, ids_of(number), vectors.astype(plan["dtype"], copy=False))
                _write_json(os.path.join(folder, _receipt(number)), made[number])
            except OSError as error:
                message = f"cannot be written ({error.strerror or error}); make room, and the same command goes on"
                raise DataError(message, file=folder) from error
    for some in ranks.gather(made):
        there.update(some)

    def finish() -> None:
        write_manifest(folder, plan, [there[number] for number in numbers])
        _tidy(folder)

    ranks.from_first(finish)


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


def _config(model: SentenceTransformer) -> Any:
    return getattr(getattr(model[0], "auto_model", None), "config", None)


def _name(model: SentenceTransformer) -> str | None:
    card = getattr(model, "model_card_data", None)
    return getattr(card, "base_model", None) or getattr(_config(model), "_name_or_path", None) or None


# --- plan and receipts -------------------------------------------------------------------------------------------


def _begin(folder: str, plan: dict[str, Any], revision: str | None) -> dict[str, Any]:
    """Write the plan, or check that what is there was begun with the same; with "whole": whether nothing is to be done."""
    for name, whole in ((MANIFEST, True), (PLAN, False)):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            found = read_manifest(folder) if whole else _read_json(path)
            if plan["shard_rows"] is None:
                plan["shard_rows"] = found.get("shard_rows")
            _check_plan(found, plan, path, whole=whole, revision=revision)
            if whole:
                _tidy(folder)
            # What an earlier run called the model stays.
            return {**plan, **{name: found.get(name, plan[name]) for name in ("model", "revision")}, "whole": whole}
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise DataError("holds something other than embeddings; give an empty or new folder", file=folder)
    if plan["shard_rows"] is None:
        plan["shard_rows"] = min(max(-(-plan["count"] // 32), 1024), 65_536)
    _write_json(os.path.join(folder, PLAN), plan)
    return {**plan, "whole": False}


def _tidy(folder: str) -> None:
    """Remove what only the work needed, and what a process that was killed left half written."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name == PLAN or re.fullmatch(r"shard-\d{5,}\.json", name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        elif _LEFT_BEHIND.fullmatch(name) and os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)


def _check_plan(found: dict[str, Any], plan: dict[str, Any], path: str, *, whole: bool, revision: str | None) -> None:
    wanted = dict(_PLANNED)
    if revision is not None:  # one that was asked for, not the commit that a model happens to be of
        wanted["revision"] = "another revision"
    for field, what in wanted.items():
        if found.get(field) != plan[field]:
            state = "holds embeddings" if whole else "was begun"
            values = f": {found.get(field)!r} there, {plan[field]!r} now" if field not in ("items",) else ""
            message = f"the folder {state} with {what}{values}; give another folder, or delete this one"
            raise DataError(message, file=path, field=field)


def _whole_shard(folder: str, number: int, ids: list[str], plan: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of a shard that an earlier run wrote whole; None for one that is still to be written."""
    path = os.path.join(folder, _receipt(number))
    if not os.path.exists(path):
        return None
    try:
        entry = check_shard_entry(_read_json(path), path)
        found, _ = read_shard(folder, entry, dim=plan["dim"], dtype=plan["dtype"], verify=True)
    except DataError:
        return None  # damaged since: written again
    return entry if found == ids else None


def _receipt(number: int) -> str:
    return f"shard-{number:05d}.json"


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); delete the folder and encode again", file=path) from None
    if not isinstance(found, dict):
        raise DataError("not a JSON object; delete the folder and encode again", file=path)
    return found


def _write_json(path: str, value: dict[str, Any]) -> None:
    def write(new: str) -> None:
        with open(new, "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=2)

    write_whole(path, write)
