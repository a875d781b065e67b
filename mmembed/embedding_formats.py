"""Files of vectors that other programs wrote or read ↔ `Embeddings`: .npz, .npy, .safetensors, JSON lines, parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mmembed.data.formats import jsonl, parquet, vector_arrays, vector_rows
from mmembed.data.schema import DataError, check_id
from mmembed.embeddings import MANIFEST, UNIT_TOLERANCE, Embeddings, ShardedVectors, read_rows
from mmembed.whole_files import write_whole

_ROWS_AT_ONCE = 2**13
_WRITTEN = (".npz", ".safetensors", ".jsonl", ".parquet")
_ID_FIELDS = {"image": "image_id", "text": "text_id"}


def read_embeddings(
    path: str | os.PathLike,
    *,
    ids: Sequence[str] | str | os.PathLike | None = None,
    array: str | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    normalise: bool = False,
    zeros: Literal["keep", "drop", "error"] = "keep",
    manifest: dict[str, Any] | None = None,
) -> Embeddings:
    """Read vectors that another program wrote, with their ids, into memory.

    Read are `.npz` (of one array, or of several such as text and img), `.npy`, `.safetensors`, JSON lines such as
    Chinese-CLIP's `*_feat.jsonl` ({"image_id": 7, "feature": [...]}), parquet and saved datasets with a column of vectors,
    and the folders that `Embeddings.save` writes. float16 stays float16, everything else becomes float32.

    Args:
        path: the file or folder.
        ids: the ids in the order of the vectors, where the file has none: a list, or a file with one id a line (a JSON
            string, a JSON object with an id, or the id itself). When None, `{path without extension}.ids.jsonl` or
            `.ids.txt` beside the file.
        array: which array of an `.npz` or `.safetensors` file.
        id_column, vector_column: which fields of rows, where their names do not say so.
        normalise: divide each vector by its length; without it a vector of another length than 1 is an error.
        zeros: what becomes of a vector of zeros, which has no direction: it stays as it is, it is left out with its id, or
            it is an error.
        manifest: what is known of the vectors, such as `model` and `use`.

    Returns:
        The embeddings.

    Raises:
        DataError: Another layout, ids and vectors that are not as many, an id that occurs twice, vectors of several
            lengths, with NaN, or not of length 1; names the file, the line or the row, and the field.

    Example:
        >>> file = getfixture("tmp_path") / "vectors.npz"
        >>> np.savez(file, text=np.array([[3.0, 4.0]]), img=np.array([[0.0, 2.0]]))
        >>> read_embeddings(file, array="img", ids=["a"], normalise=True).vectors.tolist()
        [[0.0, 1.0]]
    """
    path = os.fspath(path)
    if zeros not in ("keep", "drop", "error"):
        raise ValueError(f"zeros={zeros!r}; choose keep, drop or error.")
    extension = os.path.splitext(path)[1].lower()
    if os.path.isfile(os.path.join(path, MANIFEST)):
        loaded = Embeddings.load(path)
        found, vectors = loaded.ids, np.asarray(loaded.vectors)
        manifest = {**loaded.manifest, **(manifest or {})}
    elif extension in vector_arrays.EXTENSIONS:
        own, vectors = vector_arrays.read(path, array=array)
        found = _ids_of(path, ids, own)
    else:
        if array is not None:
            raise ValueError(f"array={array!r} is of .npz and .safetensors files; name a field with vector_column.")
        found, vectors = vector_rows.read(path, id_column=id_column, vector_column=vector_column)
        found = found if ids is None else _ids_of(path, ids, found)
    if len(found) != len(vectors):
        raise DataError(f"{len(found)} ids for {len(vectors)} vectors; give one id a vector", file=path)
    rows: dict[str, int] = {}
    for row, one in enumerate(found):
        if rows.setdefault(one, row) != row:
            message = f"id {one!r:.80} is also the id of row {rows[one]}; ids are unique"
            raise DataError(message, file=path, row=row, field="id")
    kept, vectors = _scaled(vectors, found, path, normalise, zeros)
    return Embeddings(found if len(kept) == len(found) else [found[row] for row in kept], vectors, manifest)


def _ids_of(path: str, given: Sequence[str] | str | os.PathLike | None, own: list[str] | None) -> list[str]:
    if given is not None and not isinstance(given, (str, os.PathLike)):
        found = []
        for row, one in enumerate(given):
            try:
                found.append(check_id(one))
            except ValueError as error:
                raise DataError(str(error), file="ids", row=row) from None
        return found
    if given is None and own is not None:
        return own
    if given is None:
        stem = os.path.splitext(path)[0]
        given = next((one for one in (f"{stem}.ids.jsonl", f"{stem}.ids.txt") if os.path.isfile(one)), None)
        if given is None:
            raise DataError(
                f"vectors without ids; pass ids, or put one a line into {os.path.basename(stem)}.ids.txt", file=path
            )
    return _read_ids(os.fspath(given))


def _read_ids(path: str) -> list[str]:
    """One id a line: a JSON string, a JSON object with an id, or the line itself."""
    found = []
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for line, text in enumerate(file, 1):
                text = text.strip()
                if not text:
                    continue
                try:
                    found.append(check_id(_one_id(text)))
                except (ValueError, RecursionError) as error:
                    raise DataError(str(error), file=path, line=line, field="id") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error})", file=path) from None
    return found


def _one_id(text: str) -> Any:
    if text[0] not in '"{':
        return text
    value = json.loads(text)
    if not isinstance(value, dict):
        return value
    names = [name for name in vector_rows.ID_COLUMNS if name in value]
    if len(names) != 1:
        raise ValueError(f"found the fields {list(value)[:10]}, expected one of {vector_rows.ID_COLUMNS}")
    return value[names[0]]


def _scaled(
    vectors: np.ndarray, ids: list[str], path: str, normalise: bool, zeros: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that stay, and their vectors; lengths are computed in double precision."""
    kept = np.ones(len(vectors), dtype=bool)
    scaled = np.empty(vectors.shape, dtype=vectors.dtype) if normalise else None
    tolerance = UNIT_TOLERANCE[str(vectors.dtype)]
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(read_rows(vectors, start, min(start + _ROWS_AT_ONCE, len(vectors))), dtype=np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = start + int(np.flatnonzero(~finite)[0])
            raise DataError(f"the vector of {ids[row]!r:.80} holds NaN or infinity", file=path, row=row)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        nothing = lengths == 0
        if nothing.any() and zeros == "error":
            row = start + int(np.flatnonzero(nothing)[0])
            raise DataError(f"the vector of {ids[row]!r:.80} is all zeros", file=path, row=row)
        if zeros == "drop":
            kept[start : start + len(block)] = ~nothing
        if scaled is not None:
            scaled[start : start + len(block)] = block / np.where(nothing, 1.0, lengths)[:, None]
        elif (wrong := ~nothing & (np.abs(lengths - 1) > tolerance)).any():
            row = start + int(np.flatnonzero(wrong)[0])
            message = f"the vector of {ids[row]!r:.80} has the length {lengths[row - start]:.6g}, expected 1; pass normalise=True"
            raise DataError(message, file=path, row=row)
    vectors = vectors if scaled is None else scaled
    return np.flatnonzero(kept), vectors if kept.all() else vectors[kept]


def write_embeddings(
    embeddings: Embeddings, path: str | os.PathLike, *, id_field: str | None = None, vector_field: str | None = None
) -> None:
    """Write vectors and ids as a file that other programs read; it appears whole or not at all.

    Args:
        embeddings: the vectors.
        path: `.npz` (arrays `ids` and `vectors`), `.safetensors` (`vectors`, the ids as a JSON list in the metadata),
            `.jsonl` (Chinese-CLIP's `*_feat.jsonl`; ids that are whole numbers are written as numbers) or `.parquet`.
        id_field: name of the ids in rows; when None, image_id or text_id by the embeddings' use in JSON lines, else id.
        vector_field: name of the vectors; when None, feature in JSON lines, else vector, or vectors for an array.

    Raises:
        DataError: Another extension.

    Example:
        >>> file = getfixture("tmp_path") / "valid.img_feat.jsonl"
        >>> write_embeddings(Embeddings(["7"], np.array([[0.0, 1.0]], np.float32), {"use": "image"}), file)
        >>> file.read_text()
        '{"image_id": 7, "feature": [0.0, 1.0]}\\n'
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if extension not in _WRITTEN:
        raise DataError(f"the extension {extension!r} is not written; write {', '.join(_WRITTEN)}", file=path)
    use = str(embeddings.manifest.get("use"))

    def write(new: str) -> None:
        if extension == ".npz":
            arrays: dict[str, Any] = {"ids": np.array(embeddings.ids, dtype=np.str_)}
            np.savez(new, allow_pickle=False, **arrays, **{vector_field or "vectors": np.asarray(embeddings.vectors)})
        elif extension == ".safetensors":
            from safetensors.numpy import save_file

            arrays = {vector_field or "vectors": np.ascontiguousarray(embeddings.vectors)}
            save_file(arrays, new, metadata={"ids": json.dumps(embeddings.ids, ensure_ascii=False)})
        elif extension == ".jsonl":
            jsonl.write(new, _rows(embeddings, id_field or _ID_FIELDS.get(use, "id"), vector_field or "feature"))
        else:
            _write_parquet(embeddings, new, id_field or "id", vector_field or "vector")

    write_whole(path, write)


def _rows(embeddings: Embeddings, id_field: str, vector_field: str) -> Any:
    numbers = all(one.isascii() and one.isdigit() and str(int(one)) == one for one in embeddings.ids)
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        rows = _block(embeddings.vectors, start).tolist()
        for one, vector in zip(embeddings.ids[start : start + _ROWS_AT_ONCE], rows):
            yield {id_field: int(one) if numbers else one, vector_field: vector}


def _write_parquet(embeddings: Embeddings, path: str, id_field: str, vector_field: str) -> None:
    kind = pa.float16() if embeddings.vectors.dtype == np.float16 else pa.float32()
    schema = pa.schema([(id_field, pa.string()), (vector_field, pa.list_(kind, embeddings.vectors.shape[1]))])

    def tables() -> Any:
        for start in range(0, len(embeddings), _ROWS_AT_ONCE):
            block = _block(embeddings.vectors, start)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1), type=kind), block.shape[1])
            ids = pa.array(embeddings.ids[start : start + _ROWS_AT_ONCE], type=pa.string())
            yield pa.Table.from_arrays([ids, vectors], schema=schema)

    parquet.write(path, tables(), schema)


def _block(vectors: np.ndarray | ShardedVectors, start: int) -> np.ndarray:
    return np.ascontiguousarray(read_rows(vectors, start, min(start + _ROWS_AT_ONCE, len(vectors))))
