"""Parquet: typed columns, images as encoded bytes or as paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from mmembed.data.schema import DataError

BATCH_ROWS = 1024  # images of 200 kB make 200 MB


def read(path: str | os.PathLike) -> Iterator[tuple[int, pa.Table]]:
    """Read a parquet file in pieces.

    Args:
        path: the file.

    Yields:
        The row, from 0, at which the piece begins, and the piece, whose text is checked to be UTF-8.

    Raises:
        DataError: not parquet, cut off, or damaged; names the file.
    """
    path = os.fspath(path)
    try:
        with pq.ParquetFile(path) as file:
            row = 0
            for batch in file.iter_batches(BATCH_ROWS):
                batch.validate(full=True)
                yield row, pa.Table.from_batches([batch])
                row += batch.num_rows
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"not a parquet file that can be read: {reason}", file=path) from None


def write(path: str | os.PathLike, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema as one parquet file.

    Args:
        path: the file, overwritten.
        tables: the pieces, in order.
        schema: their schema, with its metadata.

    Raises:
        DataError: a column that parquet cannot hold.
    """
    try:
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                writer.write_table(table)
    except pa.ArrowException as error:
        raise DataError(f"cannot be written as parquet: {str(error).splitlines()[0][:200]}", file=path) from None
