"""Pairs that score enough, more than memory holds: shards in a folder, going on where an interrupted run stopped.

plan.json         what is compared: hashes of queries and documents, the threshold, documents a shard
hits-00000.npy    the pairs of the first documents: query row, document row, score
manifest.json     how many pairs each shard has; with it the folder is complete
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mmembed.data.schema import DataError, shown
from mmembed.search.threshold_search import Hits, threshold_search
from mmembed.search.vectors import Rows, Vectors, as_rows
from mmembed.whole_files import write_whole

FORMAT = "mmembed-threshold-search"
VERSION = 1
#: A pair as it is stored: 16 bytes.
PAIR = np.dtype([("query", "<i4"), ("document", "<i8"), ("score", "<f4")])

_PLAN, _MANIFEST = "plan.json", "manifest.json"
_FLOATS_A_BLOCK = 2**22
_PAIRS_A_BLOCK = 2**20


def write_threshold_search(
    queries: np.ndarray,
    documents: Vectors,
    threshold: float,
    folder: str | os.PathLike,
    *,
    documents_a_shard: int = 2**16,
    show_progress_bar: bool = True,
) -> int:
    """Write all pairs whose score reaches a threshold; what an earlier run with the same arguments wrote is kept.

    Args:
        queries: float32 (q, dim), in memory.
        documents: n vectors, such as memory-mapped `Embeddings`.
        threshold: the lowest score.
        folder: where to.
        documents_a_shard: documents whose pairs lie in one file.
        show_progress_bar: show one, in documents.

    Returns:
        How many pairs there are.

    Raises:
        DataError: the folder holds something else, or was begun with other vectors or another threshold.
        ValueError: as `threshold_search`.

    Example:
        >>> import tempfile
        >>> folder, eye = tempfile.mkdtemp() + "/pairs", np.eye(3, dtype=np.float32)
        >>> write_threshold_search(eye[:2], eye, 0.5, folder, show_progress_bar=False)
        2
        >>> [hits.documents.tolist() for hits in read_threshold_search(folder)]
        [[0, 1]]
    """
    if documents_a_shard < 1:
        raise ValueError(f"documents_a_shard={documents_a_shard}; give at least 1")
    folder, rows = os.fspath(folder), as_rows(documents)
    plan = {
        "format": FORMAT,
        "version": VERSION,
        "queries": _fingerprint(as_rows(queries)),
        "documents": _fingerprint(rows),
        "threshold": float(threshold),
        "documents_a_shard": documents_a_shard,
    }
    _begin(folder, plan)
    counts = []
    bar = tqdm(total=len(rows), desc="compare", unit="document", disable=not show_progress_bar)
    with bar:
        for number, start in enumerate(range(0, len(rows), documents_a_shard)):
            path, stop = os.path.join(folder, _shard(number)), min(start + documents_a_shard, len(rows))
            if not os.path.exists(path):
                stream = threshold_search(queries, rows, threshold, start=start, stop=stop)
                write_whole(path, lambda new, stream=stream: _write_hits(new, stream))  # type: ignore[misc]
            counts.append(len(_hits(path)))
            bar.update(stop - start)
    _write_json(os.path.join(folder, _MANIFEST), {**plan, "pairs": counts})
    return sum(counts)


def read_threshold_search(folder: str | os.PathLike) -> Iterator[Hits]:
    """The pairs that `write_threshold_search` wrote, block by block.

    Args:
        folder: a complete folder.

    Yields:
        Blocks of pairs; within a shard sorted as `threshold_search` gives them.

    Raises:
        DataError: the folder is not complete, or a shard is damaged.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, _MANIFEST)
    found = _read_json(path) if os.path.exists(path) else None
    if found is None or found.get("format") != FORMAT or not isinstance(found.get("pairs"), list):
        raise DataError("no complete threshold search; run write_threshold_search to its end", file=folder)
    for number, count in enumerate(found["pairs"]):
        shard = os.path.join(folder, _shard(number))
        pairs = _hits(shard)
        if len(pairs) != count:
            raise DataError(f"{len(pairs)} pairs, the manifest says {shown(count)}; run it again", file=shard)
        for start in range(0, len(pairs), _PAIRS_A_BLOCK):
            some = np.array(pairs[start : start + _PAIRS_A_BLOCK])
            yield Hits(some["query"].astype(np.int64), some["document"].astype(np.int64), some["score"].copy())


def _begin(folder: str, plan: dict[str, Any]) -> None:
    path = os.path.join(folder, _PLAN)
    if os.path.exists(path):
        found = _read_json(path)
        for field, value in plan.items():
            if found.get(field) != value:
                message = (
                    f"the folder was begun with {shown(found.get(field))}, now it is {value!r}; give another folder"
                )
                raise DataError(message, file=path, field=field)
    elif os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise DataError("holds something other than a threshold search; give another folder", file=folder)
    else:
        _write_json(path, plan)


def _write_hits(path: str, stream: Iterator[Hits]) -> None:
    """An .npy file whose length is known when it is written: numpy leaves room for it in the header."""
    header: dict[str, Any] = {"descr": PAIR.descr, "fortran_order": False, "shape": (0,)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        begin, count = file.tell(), 0
        for hits in stream:
            some = np.empty(len(hits.scores), dtype=PAIR)
            some["query"], some["document"], some["score"] = hits
            file.write(some.tobytes())
            count += len(some)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count,)})
        assert file.tell() == begin


def _hits(path: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r" if os.path.getsize(path) > 128 else None, allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise DataError(f"not a whole .npy file ({error}); delete it and run again", file=path) from None
    if found.dtype != PAIR or found.ndim != 1:
        raise DataError(f"found {found.dtype} {found.shape}, expected pairs; delete it and run again", file=path)
    return found


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256(f"{len(rows)} × {rows.dim}".encode())
    size = max(1, _FLOATS_A_BLOCK // rows.dim)
    for start in range(0, len(rows), size):
        digest.update(np.ascontiguousarray(rows.block(start, start + size)).data)
    return digest.hexdigest()


def _shard(number: int) -> str:
    return f"hits-{number:05d}.npy"


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); delete the folder and run again", file=path) from None
    if not isinstance(found, dict):
        raise DataError("not a JSON object; delete the folder and run again", file=path)
    return found


def _write_json(path: str, value: dict[str, Any]) -> None:
    def write(new: str) -> None:
        with open(new, "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=2)

    write_whole(path, write)
