"""Ids and their vectors in a folder: memory-mapped shards that are whole, and a manifest that says what they are.

    manifest.json        what made the vectors, and the SHA-256 of every file
    ids-00000.jsonl      the ids of shard 0, one JSON string a line
    vectors-00000.npy    its vectors, (rows, dim) float32 or float16, each of length 1

Shards hold consecutive rows, so that several processes can each write some of them. Nothing here is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmembed.data.schema import DataError, check_id, shown
from mmembed.whole_files import write_whole

MANIFEST = "manifest.json"
FORMAT = "mmembed-embeddings"
VERSION = 1
DTYPES = ("float32", "float16")

# How far from 1 a vector's length may be, after it was rounded to its dtype.
UNIT_TOLERANCE = {"float32": 1e-3, "float16": 5e-3}

_ROWS_AT_ONCE = 2**13
_NAMES = {"ids": re.compile(r"ids-\d{5,}\.jsonl"), "vectors": re.compile(r"vectors-\d{5,}\.npy")}


class ShardedVectors:
    """The vectors of several shards as one (n, dim) array: rows are read where they lie, when they are asked for.

    Args:
        shards: arrays (rows, dim) of one width and dtype, in order.

    Example:
        >>> vectors = ShardedVectors([np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)])
        >>> vectors.shape, vectors[1:3].tolist(), vectors[[3, 0]].tolist()
        ((4, 2), [[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    """

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = list(shards)
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])
        self.shape = (int(self.starts[-1]), self.shards[0].shape[1])
        self.dtype = self.shards[0].dtype
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._slice(start, stop)
            rows = np.arange(start, stop, step)
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of {wanted.shape} for {len(self)} rows")
            wanted = np.flatnonzero(wanted)
        if wanted.size == 0:
            return np.zeros((*wanted.shape, self.shape[1]), dtype=self.dtype)
        if not np.issubdtype(wanted.dtype, np.integer):
            raise IndexError(f"rows are picked by integers, a slice or a mask, found {wanted.dtype}")
        if wanted.min() < -len(self) or wanted.max() >= len(self):
            raise IndexError(f"row {wanted.max()} of {len(self)}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        picked = np.empty((*wanted.shape, self.shape[1]), dtype=self.dtype)
        for owner in np.unique(owners).tolist():
            here = owners == owner
            picked[here] = self.shards[owner][wanted[here] - self.starts[owner]]
        return picked

    def _slice(self, start: int, stop: int) -> np.ndarray:
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        pieces = []
        while start < stop:
            end = min(stop, int(self.starts[first + 1]))
            if end > start:
                pieces.append(self.shards[first][start - self.starts[first] : end - self.starts[first]])
            start, first = end, first + 1
        if len(pieces) == 1:
            return pieces[0]  # still in the file
        return np.concatenate(pieces) if pieces else np.zeros((0, self.shape[1]), dtype=self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("several shards are one array only as a copy")
        return np.concatenate(self.shards).astype(dtype or self.dtype, copy=False)


class Embeddings:
    """Ids and their vectors, in memory or memory-mapped from a folder.

    Args:
        ids: n distinct ids.
        vectors: (n, dim) float32 or float16, each row of length 1, or of zeros where a model found nothing.
        manifest: what is known of the vectors: `model`, `revision`, `use`, …

    Raises:
        DataError: If ids and vectors do not belong together, or a vector is not of length 1; names the row.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp() + "/vectors"
        >>> Embeddings(["a", "b"], np.eye(2, dtype=np.float32), {"model": "mine"}).save(folder)
        >>> loaded = Embeddings.load(folder)
        >>> loaded.ids, loaded.vectors.shape, loaded.manifest["model"], loaded.rows(["b"]).tolist()
        (['a', 'b'], (2, 2), 'mine', [1])
    """

    def __init__(
        self, ids: Sequence[str], vectors: np.ndarray | ShardedVectors, manifest: dict[str, Any] | None = None
    ) -> None:
        if not isinstance(vectors, ShardedVectors):
            vectors = np.asanyarray(vectors)
        _check_array(vectors, "vectors")
        check_unit_length(vectors, "vectors")
        self._set(list(ids), vectors, manifest)

    def _set(self, ids: list[str], vectors: np.ndarray | ShardedVectors, manifest: dict[str, Any] | None) -> None:
        """Take what has been checked row by row already."""
        if len(ids) != len(vectors):
            raise DataError(f"{len(ids)} ids for {len(vectors)} vectors; give one id a vector", file="embeddings")
        self.ids = ids
        self.vectors = vectors
        self._rows: dict[str, int] = {}
        for row, one in enumerate(ids):
            if not isinstance(one, str):
                raise DataError(f"found {shown(one)}, expected a string", file="embeddings", row=row, field="id")
            if self._rows.setdefault(one, row) != row:
                message = f"id {one!r} is also the id of row {self._rows[one]}; ids are unique"
                raise DataError(message, file="embeddings", row=row, field="id")
        self.manifest: dict[str, Any] = {
            "metric": "cosine",
            **(manifest or {}),
            "count": len(ids),
            "dim": int(vectors.shape[1]),
            "dtype": str(vectors.dtype),
        }

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        made_by = f", model={self.manifest['model']!r}" if "model" in self.manifest else ""
        return f"Embeddings({len(self)} × {self.vectors.shape[1]} {self.vectors.dtype}{made_by})"

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each id.

        Args:
            ids: ids in any order, repeated or not.

        Returns:
            int64 (len(ids),).

        Raises:
            DataError: If an id has no vector.
        """
        found = np.fromiter((self._rows.get(one, -1) for one in ids), dtype=np.int64, count=len(ids))
        if (found < 0).any():
            missing = [ids[at] for at in np.flatnonzero(found < 0).tolist()]
            message = f"{len(missing)} ids have no vector, such as {missing[0]!r}; encode the items that are used"
            raise DataError(message, file="embeddings", field="id")
        return found

    def save(self, folder: str | os.PathLike, *, shard_rows: int = 2**20) -> None:
        """Write a folder that is whole or not there; one that holds embeddings already is replaced.

        Args:
            folder: where to.
            shard_rows: rows a file.

        Raises:
            DataError: If the folder holds something else.
        """
        if shard_rows < 1:
            raise ValueError(f"shard_rows={shard_rows}; give at least 1")
        if os.path.lexists(folder) and not os.path.exists(os.path.join(folder, MANIFEST)):
            if not os.path.isdir(folder) or os.listdir(folder):
                raise DataError("holds something other than embeddings; give another folder", file=folder)

        def write(new: str) -> None:
            os.mkdir(new)
            shards: list[dict[str, Any]] = []
            for start in range(0, max(1, len(self)), shard_rows):
                rows = slice(start, start + shard_rows)
                shards.append(write_shard(new, len(shards), self.ids[rows], self.vectors[rows]))
            write_manifest(new, self.manifest, shards)

        write_whole(folder, write)

    @classmethod
    def load(cls, folder: str | os.PathLike, *, verify: bool = True) -> Embeddings:
        """Read a folder; its vectors stay in their files.

        Args:
            folder: as `save` or `encode_dataset` wrote it.
            verify: read every file once and compare its SHA-256; without it only sizes, types and ids are looked at.

        Returns:
            The ids, and the vectors memory-mapped.

        Raises:
            DataError: If a file is missing, damaged, cut short, exchanged for another, or not what the manifest says.
        """
        folder = os.fspath(folder)
        manifest = read_manifest(folder)
        dim, dtype, count = manifest["dim"], manifest["dtype"], manifest["count"]
        ids: list[str] = []
        arrays = []
        for shard in manifest["shards"]:
            some_ids, vectors = read_shard(folder, shard, dim=dim, dtype=dtype, verify=verify)
            ids += some_ids
            arrays.append(vectors)
        if len(ids) != count:
            raise DataError(f"{count} vectors by the manifest, {len(ids)} in its shards", file=_at(folder, MANIFEST))
        embeddings = cls.__new__(cls)
        try:
            embeddings._set(ids, arrays[0] if len(arrays) == 1 else ShardedVectors(arrays), manifest)
        except DataError as error:
            raise DataError(str(error), file=folder) from None
        return embeddings


def read_rows(vectors: np.ndarray | ShardedVectors, start: int, stop: int) -> np.ndarray:
    """Rows start … stop − 1; of a mapped file they are read, not mapped, so that no more than these become resident.

    Args:
        vectors: (n, dim).
        start: the first row.
        stop: the row after the last, at most n.

    Returns:
        (stop − start, dim) of the same dtype.
    """
    if isinstance(vectors, ShardedVectors):
        pieces = []
        for shard, first in zip(vectors.shards, vectors.starts[:-1].tolist()):
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                pieces.append(read_rows(shard, low, high))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [vectors[0:0]])
    # Only of a whole map, not of a view of one, is `offset` where its first row lies.
    if isinstance(vectors, np.memmap) and isinstance(vectors.base, mmap.mmap) and vectors.flags.c_contiguous:
        count = (stop - start) * vectors.shape[1]
        with open(str(vectors.filename), "rb") as file:
            file.seek(vectors.offset + start * vectors.shape[1] * vectors.itemsize)
            found = np.fromfile(file, dtype=vectors.dtype, count=count)
        if len(found) != count:
            raise DataError("shorter than when it was opened", file=str(vectors.filename))
        return found.reshape(stop - start, vectors.shape[1])
    return vectors[start:stop]


def check_unit_length(vectors: np.ndarray | ShardedVectors, source: str) -> None:
    """Raise a DataError at the first row that is neither of length 1 nor all zeros."""
    tolerance = UNIT_TOLERANCE[str(vectors.dtype)]
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(read_rows(vectors, start, min(start + _ROWS_AT_ONCE, len(vectors))), dtype=np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        wrong = ~((np.abs(lengths - 1) <= tolerance) | (lengths == 0))  # NaN compares false
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            message = f"a vector of length {lengths[row]:.6g}; normalise vectors to length 1"
            raise DataError(message, file=source, row=start + row)


def write_shard(folder: str, number: int, ids: Sequence[str], vectors: np.ndarray) -> dict[str, Any]:
    """Write the ids and vectors of one shard, each file whole, and return its entry of the manifest."""
    entry: dict[str, Any] = {"rows": len(ids)}

    def write_ids(path: str) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)

    def write_vectors(path: str) -> None:
        with open(path, "wb") as file:
            np.save(file, np.ascontiguousarray(vectors), allow_pickle=False)

    for kind, name, write in (
        ("ids", f"ids-{number:05d}.jsonl", write_ids),
        ("vectors", f"vectors-{number:05d}.npy", write_vectors),
    ):
        write_whole(_at(folder, name), write)
        entry |= {kind: name, f"{kind}_sha256": _sha256(_at(folder, name))}
    return entry


def write_manifest(folder: str, about: dict[str, Any], shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write manifest.json, the last file of a folder: with it the folder is complete."""
    manifest = {"format": FORMAT, "version": VERSION, **about, "shards": shards}
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"

    def write(path: str) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

    write_whole(_at(folder, MANIFEST), write)
    return manifest


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder, its fields checked; no other file is opened."""
    path = _at(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError:
        what = "is not finished; run encode_dataset again" if os.path.isdir(folder) else "does not exist"
        raise DataError(f"no {MANIFEST}: the folder holds no embeddings, or {what}", file=folder) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); the file is damaged", file=path) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"not the manifest of embeddings: no format {FORMAT!r}", file=path)
    if manifest.get("version") != VERSION:
        message = f"found {shown(manifest.get('version'))}, this mmembed reads version {VERSION}"
        raise DataError(message, file=path, field="version")
    for field in ("dim", "count"):
        _check_whole_number(manifest.get(field), path, field)
    if manifest.get("dtype") not in DTYPES:
        raise DataError(
            f"found {shown(manifest.get('dtype'))}, expected {' or '.join(DTYPES)}", file=path, field="dtype"
        )
    shards = manifest.get("shards")
    if not isinstance(shards, list) or not shards:
        raise DataError(f"found {shown(shards)}, expected a list of shards", file=path, field="shards")
    for shard in shards:
        check_shard_entry(shard, path)
    return manifest


def check_shard_entry(shard: Any, path: str) -> dict[str, Any]:
    """A shard's entry, once its file names are plain names in this folder."""
    if not isinstance(shard, dict):
        raise DataError(f"found {shown(shard)}, expected an object", file=path, field="shards")
    _check_whole_number(shard.get("rows"), path, "rows")
    for kind, pattern in _NAMES.items():
        name, digest = shard.get(kind), shard.get(f"{kind}_sha256")
        if not isinstance(name, str) or not pattern.fullmatch(name):
            raise DataError(f"found {shown(name)}, expected a name such as {kind}-00000", file=path, field=kind)
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise DataError(f"found {shown(digest)}, expected a SHA-256", file=path, field=f"{kind}_sha256")
    return shard


def read_shard(
    folder: str, shard: dict[str, Any], *, dim: int, dtype: str, verify: bool
) -> tuple[list[str], np.ndarray]:
    """The ids and the memory-mapped vectors of one shard."""
    for kind in _NAMES:
        path = _at(folder, shard[kind])
        if not os.path.isfile(path) or os.path.islink(path):
            raise DataError("missing, or not a plain file; encode the items again", file=path)
        if verify and _sha256(path) != shard[f"{kind}_sha256"]:
            message = "not the file that the manifest names (its SHA-256 differs): it was damaged, cut or exchanged"
            raise DataError(f"{message}; encode the items again", file=path)
    ids = list(_read_ids(_at(folder, shard["ids"])))
    path = _at(folder, shard["vectors"])
    try:
        # The array's own memory map: a file that is shorter than its header says raises here.
        vectors = np.load(path, mmap_mode="r" if shard["rows"] else None, allow_pickle=False)
    except Exception as error:  # numpy's parser of headers lets through nearly everything
        raise DataError(f"not a whole .npy file ({error}); encode the items again", file=path) from None
    found = f"{vectors.dtype} {vectors.shape}"
    if vectors.shape != (shard["rows"], dim) or str(vectors.dtype) != dtype or not vectors.flags.c_contiguous:
        raise DataError(f"found {found}, the manifest says {dtype} {(shard['rows'], dim)}", file=path)
    if len(ids) != shard["rows"]:
        raise DataError(f"{len(ids)} ids for {shard['rows']} vectors", file=_at(folder, shard["ids"]))
    if verify:
        check_unit_length(vectors, path)
    return ids, vectors


def _read_ids(path: str) -> Iterator[str]:
    with open(path, "rb") as file:
        for line, data in enumerate(file, 1):
            try:
                value = json.loads(data.decode("utf-8"))
                if not isinstance(value, str):
                    raise ValueError(f"found {shown(value)}, expected a string")
                yield check_id(value)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{error}; encode the items again", file=path, line=line) from None


def _check_array(vectors: np.ndarray | ShardedVectors, source: str) -> None:
    if vectors.ndim != 2 or str(vectors.dtype) not in DTYPES:
        found = f"{vectors.dtype} {vectors.shape}"
        raise DataError(f"found {found}, expected (n, dim) of {' or '.join(DTYPES)}", file=source)


def _check_whole_number(value: Any, path: str, field: str) -> None:
    if type(value) is not int or value < 0:
        raise DataError(f"found {shown(value)}, expected a whole number", file=path, field=field)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at(folder: str | os.PathLike, name: str) -> str:
    return os.path.join(folder, name)
