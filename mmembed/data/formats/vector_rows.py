"""Rows with an id and a vector: JSON lines such as Chinese-CLIP's `*_feat.jsonl`, parquet, saved datasets."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from mmembed.data.schema import DataError, check_id, did_you_mean, shown
from mmembed.data.sources import Columns, Piece, find_files, read_pieces

ID_COLUMNS = ("id", "image_id", "text_id", "item_id", "query_id", "doc_id", "nm", "posting_id")
VECTOR_COLUMNS = ("feature", "vector", "embedding", "features", "emb", "vec")
MAX_DIM = 1 << 16


def read(
    path: str | os.PathLike, *, id_column: str | None = None, vector_column: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Read ids and vectors from rows.

    Args:
        path: JSON lines, parquet, a folder of one of these, or a saved dataset.
        id_column: strings or whole numbers; when None, the one of `ID_COLUMNS` that there is.
        vector_column: lists of numbers; when None, the one of `VECTOR_COLUMNS` that there is.

    Returns:
        The ids, each once, and the vectors (rows, dim): float16 where the column is, else float32.

    Raises:
        DataError: another layout, or vectors of several lengths or with NaN; names the file, the line or row, the field.

    Example:
        >>> file = getfixture("tmp_path") / "valid_imgs.img_feat.jsonl"
        >>> _ = file.write_text('{"image_id": 7, "feature": [0.6, 0.8]}')
        >>> ids, vectors = read(file)
        >>> ids, vectors.shape
        (['7'], (1, 2))
    """
    ids: list[str] = []
    seen: dict[str, dict[str, Any]] = {}
    blocks: list[np.ndarray] = []
    dim: int | None = None
    for file in find_files(path):
        for piece in read_pieces(file):
            if piece.cells:
                raise DataError("cells of text hold no vectors; write JSON lines or parquet", file=file)
            where_id = _column(piece, id_column, ID_COLUMNS, "id")
            where_vector = _column(piece, vector_column, VECTOR_COLUMNS, "vector")
            for index, value in enumerate(piece.values(where_id)):
                try:
                    one = check_id(value)
                    if one in seen:
                        earlier = seen[one]
                        at = f"line {earlier['line']}" if "line" in earlier else f"row {earlier['row']}"
                        raise ValueError(f"id {one!r:.80} already stands in {at}; write each once")
                except ValueError as error:
                    raise DataError(str(error), **piece.where(index), field=where_id) from None
                seen[one] = piece.where(index)
                ids.append(one)
            block = _arrow_block(piece, where_vector, dim) if isinstance(piece, Columns) else None
            block = _listed_block(piece, where_vector, dim) if block is None else block
            dim = block.shape[1]
            blocks.append(block)
    if not blocks:
        raise DataError("no rows; the file is empty", file=path)
    kinds = {block.dtype for block in blocks}
    return ids, np.concatenate(blocks, dtype=np.float16 if kinds == {np.dtype(np.float16)} else np.float32)


def _column(piece: Piece, wanted: str | None, known: tuple[str, ...], what: str) -> str:
    if wanted is not None:
        if wanted not in piece.names:
            raise DataError(
                f"no such field; found {piece.names}{did_you_mean(wanted, piece.names)}", **piece.where(0), field=wanted
            )
        return wanted
    found = [name for name in known if name in piece.names]
    if len(found) != 1:
        seen = f"several fields that may be the {what}, {found}" if found else f"no field that is the {what}"
        raise DataError(f"{seen}; of {piece.names} pass the one as {what}_column", **piece.where(0))
    return found[0]


def _listed_block(piece: Piece, name: str, dim: int | None) -> np.ndarray:
    rows = []
    for index, value in enumerate(piece.values(name)):
        wrong = None
        if not isinstance(value, list) or not value:
            wrong = f"found {shown(value)}, expected a list of numbers"
        elif not set(map(type, value)) <= {int, float}:
            at = next(at for at, one in enumerate(value) if type(one) not in (int, float))
            wrong = f"element {at}: found {shown(value[at])}, expected a number"
        elif dim is not None and len(value) != dim:
            wrong = f"{len(value)} numbers, the rows before have {dim}; all vectors have one length"
        elif len(value) > MAX_DIM:
            wrong = f"{len(value)} numbers; at most {MAX_DIM} are read"
        else:
            with np.errstate(over="ignore"):
                row = np.array(value, dtype=np.float64).astype(np.float32)
            if not np.isfinite(row).all():
                at = int(np.flatnonzero(~np.isfinite(row))[0])
                wrong = f"element {at}: {value[at]!r:.30} is no number that fits into 32 bits"
            dim = len(value)
        if wrong is not None:
            raise DataError(wrong, **piece.where(index), field=name)
        rows.append(row)
    return np.stack(rows)


def _arrow_block(piece: Columns, name: str, dim: int | None) -> np.ndarray | None:
    """(rows, dim) straight out of Arrow; None where a row must be looked at to say what is wrong with it."""
    column = piece.column(name).combine_chunks()
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    if not pa.types.is_floating(kind.value_type) or column.null_count or not len(column):
        return None
    values = column.flatten()
    width, over = divmod(len(values), len(column))
    if over or not 0 < width <= MAX_DIM or values.null_count or (dim is not None and width != dim):
        return None
    if not pa.types.is_fixed_size_list(kind):
        lengths = column.value_lengths().to_numpy()
        if (lengths != width).any():
            return None
    block = values.to_numpy(zero_copy_only=False).reshape(len(column), width)
    if block.dtype != np.float16:
        with np.errstate(over="ignore"):
            block = block.astype(np.float32, copy=False)
    return block if np.isfinite(block).all() else None
