"""CSV and TSV: a header and one record a row, UTF-8; every cell is a string."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmembed.data.schema import DataError, did_you_mean, shown

MAX_CELL_CHARACTERS = 1 << 28
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def read(path: str | os.PathLike, *, delimiter: str | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """Read (line, cells by column) of each record of a CSV or TSV file with a header.

    Quoted cells may hold delimiters and line ends. A record with more or fewer cells than the header is an error.

    Args:
        path: the file.
        delimiter: the character between cells; a tab for `.tsv`, otherwise a comma.

    Yields:
        The line on which the record begins, from 1, and its cells as they stand.

    Raises:
        DataError: naming the file and the line.
    """
    path = os.fspath(path)
    if delimiter is None:
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
    header: list[str] | None = None
    try:
        with open(path, "rb") as file:
            records = csv.reader(_lines(file, path), delimiter=delimiter, strict=True)
            while True:
                line = records.line_num + 1
                try:
                    cells = _next_record(records)
                except csv.Error as error:
                    raise DataError(
                        f'{error}; quote cells with " and double the quotes inside', file=path, line=line
                    ) from None
                if cells is None:
                    return
                if not cells:
                    continue
                if header is None:
                    header = _checked_header(cells, path, line)
                elif len(cells) != len(header):
                    message = (
                        f"{len(cells)} cells where the header has {len(header)}; quote cells that hold {delimiter!r}"
                    )
                    raise DataError(message, file=path, line=line)
                else:
                    yield line, dict(zip(header, cells, strict=True))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from None


def _next_record(records: Iterator[list[str]]) -> list[str] | None:
    # The limit on a cell is a setting of the whole process: it is ours only while a record is read.
    limit = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        return next(records, None)
    finally:
        csv.field_size_limit(limit)


def _lines(file: Any, path: str) -> Iterator[str]:
    number = 0
    while raw := file.readline(MAX_CELL_CHARACTERS):
        number += 1
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(raw) > 3 and raw[:4].count(0) >= 2):
                raise DataError("this is UTF-16 or UTF-32; save the file as UTF-8", file=path, line=1)
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            message = (
                f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); convert the file to UTF-8 "
                "from the encoding it was saved in"
            )
            raise DataError(message, file=path, line=number) from None


def _checked_header(cells: list[str], path: str, line: int) -> list[str]:
    for position, name in enumerate(cells):
        if not name.strip():
            raise DataError(f"column {position + 1} of the header has no name; found {cells}", file=path, line=line)
        if name in cells[:position]:
            raise DataError(f"the column {name!r} stands twice in the header", file=path, line=line, field=name)
    return cells


def write(
    path: str | os.PathLike,
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
    *,
    delimiter: str | None = None,
    raw: bool = False,
) -> None:
    """Write rows as CSV or TSV with a header, UTF-8.

    A cell that a spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return and
    is not a number) gets a `'` in front; reading does not take it off again.

    Args:
        path: the file, overwritten.
        rows: cells by column: strings, numbers, booleans, or null (an empty cell).
        columns: the header; a row may leave a column out.
        delimiter: the character between cells; a tab for `.tsv`, otherwise a comma.
        raw: write cells as they are, for a file that no spreadsheet will open.

    Raises:
        DataError: a value or column that a cell cannot hold; names the row and the field.
    """
    path = os.fspath(path)
    if delimiter is None:
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
    with open(path, "w", encoding="utf-8", newline="") as file:
        # RFC 4180's line ends: the csv module quotes a carriage return or line feed in a cell only if it ends lines here.
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow([name if raw else _guarded(name) for name in columns])
        for number, row in enumerate(rows):
            extra = [name for name in row if name not in columns]
            if extra:
                message = f"not among the columns {list(columns)}{did_you_mean(extra[0], columns)}"
                raise DataError(message, file=path, row=number, field=extra[0])
            cells = []
            for name in columns:
                try:
                    cell = _cell(row.get(name))
                except ValueError as error:
                    raise DataError(str(error), file=path, row=number, field=name) from None
                cells.append(cell if raw else _guarded(cell))
            writer.writerow(cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise ValueError(f"found {shown(value)}, which a cell cannot hold; write JSONL or parquet, or leave the column out")


def _guarded(cell: str) -> str:
    if not cell.startswith(_FORMULA_MARKS):
        return cell
    try:
        # float() also takes "-inf" and " +1_0", which a spreadsheet does not take for numbers.
        number = math.isfinite(float(cell)) and set(cell) <= set("0123456789+-.eE")
    except ValueError:
        number = False
    return cell if number else "'" + cell
