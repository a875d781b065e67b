"""A path → the files it names → pieces of rows that still know their file and line."""

from __future__ import annotations

import glob
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from mmembed.data.formats import delimited, jsonl, parquet, saved_dataset
from mmembed.data.schema import DataError, check_characters, did_you_mean
from mmembed.data.tables import ColumnFault, decoded, merge_types, typed_column

FORMATS = {".jsonl": jsonl, ".json": jsonl, ".csv": delimited, ".tsv": delimited, ".parquet": parquet}
_READ = "JSON lines (.jsonl, .json), .csv, .tsv, .parquet and folders that Dataset.save_to_disk wrote"
PIECE_ROWS = 4096
PIECE_CHARACTERS = 1 << 26


class Rows:
    """Some rows of a file of lines: the objects of JSONL, or the cells of CSV with an empty cell as null."""

    def __init__(self, file: str, rows: list[tuple[int, dict[str, Any]]], *, cells: bool = False) -> None:
        self.file, self.cells = file, cells
        self.lines = [line for line, _ in rows]
        self.rows = [row for _, row in rows]
        self.names: list[str] = []
        seen: set[str] = set()
        for index, row in enumerate(self.rows):
            if not row.keys() <= seen:
                new = [name for name in row if name not in seen]
                _check_new_names(new, self.where(index))
                self.names.extend(new)
                seen.update(new)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> dict[str, Any]:
        """The place of a row, as DataError takes it."""
        return {"file": self.file, "line": self.lines[index]}

    def positions(self) -> array:
        """The line of each row."""
        return array("q", self.lines)

    def values(self, name: str) -> list[Any]:
        """A column as Python values; null where a row lacks it."""
        if self.cells:
            return [row.get(name) or None for row in self.rows]
        return [row.get(name) for row in self.rows]

    def typed(self, name: str, so_far: pa.DataType) -> pa.Array | pa.ChunkedArray:
        """A column as Arrow values of one type that goes with the rows so far, or ColumnFault."""
        return typed_column(self.values(name), so_far)[0]


class Columns:
    """Some rows of a columnar file."""

    cells = False

    def __init__(self, file: str, first_row: int, table: pa.Table) -> None:
        self.file, self.first_row, self.table = file, first_row, table
        self.names = _checked_names(table.schema, file)

    def __len__(self) -> int:
        return self.table.num_rows

    def where(self, index: int) -> dict[str, Any]:
        """The place of a row, as DataError takes it."""
        return {"file": self.file, "row": self.first_row + index}

    def positions(self) -> array:
        """The number of each row."""
        return array("q", range(self.first_row, self.first_row + len(self)))

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as Arrow values, a dictionary written out; nulls where the file lacks it."""
        if name not in self.names:
            return pa.chunked_array([pa.nulls(len(self))])
        return decoded(self.table[name])

    def values(self, name: str) -> list[Any]:
        """A column as Python values."""
        return self.column(name).to_pylist()

    def typed(self, name: str, so_far: pa.DataType) -> pa.ChunkedArray:
        """A column in the file's own type, or ColumnFault where earlier files hold another."""
        column = self.column(name)
        try:
            merge_types(so_far, column.type)
        except ColumnFault as fault:
            raise ColumnFault(f"{fault}; make the files one type, or leave it out with keep_columns") from None
        return column


def _check_new_names(names: list[str], where: dict[str, Any]) -> None:
    for name in names:
        try:
            check_characters(name)
        except ValueError as error:
            raise DataError(f"the column name {name!r:.80} has {error}", **where) from None


def _checked_names(schema: pa.Schema, file: str) -> list[str]:
    def walk(field: pa.Field) -> None:
        check_characters(field.name)
        for index in range(field.type.num_fields):
            walk(field.type.field(index))

    try:
        for field in schema:
            walk(field)
    except ValueError as error:  # UnicodeDecodeError too: Arrow hands out names as they stand in the file
        raise DataError(f"a column name that is not text: {error}", file=file) from None
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise DataError("the column stands twice; rename one", file=file, field=name)
    return schema.names


Piece = Rows | Columns


def find_files(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """The files, of one format, that a path names.

    Args:
        path: a file, a folder that `save_to_disk` wrote, a folder of files of one format, a glob, or a list of these.

    Returns:
        The files and saved folders; those of a folder or a glob sorted by name.

    Raises:
        DataError: nothing there, an extension that is not read, or several formats at once.
    """
    if not isinstance(path, (str, os.PathLike)):
        if not path:
            raise DataError("an empty list of files; name at least one")
        return _one_format([file for one in path for file in find_files(one)])
    path = os.fspath(path)
    try:
        if os.path.isdir(path):
            if saved_dataset.is_saved_dataset(path):
                return [path]
            return _files_of_folder(path)
        if not os.path.exists(path) and glob.has_magic(path):
            files = sorted(glob.glob(path, recursive=True))
            if not files:
                raise DataError("no file matches; check the folder and the pattern", file=path)
            return _one_format([file for one in files for file in find_files(one)])
        if not os.path.exists(path):
            folder = os.path.dirname(path) or "."
            there = os.listdir(folder) if os.path.isdir(folder) else []
            hint = did_you_mean(os.path.basename(path), there) if there else f"; {folder} is not a folder"
            raise DataError(f"no such file{hint}", file=path)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot be read: {error}", file=path) from None
    _extension(path)
    return [path]


def _one_format(files: list[str]) -> list[str]:
    extensions = sorted({os.path.splitext(file)[1].lower() if os.path.isfile(file) else "folder" for file in files})
    if len(extensions) > 1:
        raise DataError(f"files of several formats {extensions} at once; read each by itself", file=files[0])
    return files


def _files_of_folder(folder: str) -> list[str]:
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        extension = os.path.splitext(name)[1].lower()
        if extension in FORMATS and not name.startswith("."):
            found.setdefault(extension, []).append(os.path.join(folder, name))
    if not found:
        raise DataError(f"no file in the folder can be read; {_READ} can", file=folder)
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} {extension}" for extension, files in found.items())
        raise DataError(f"files of several formats ({counts}); name the files, as in '{folder}/*.jsonl'", file=folder)
    return next(iter(found.values()))


def _extension(path: str) -> str:
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS:
        found = f"the extension {extension!r}" if extension else "a file without an extension"
        raise DataError(f"{found} is not read{did_you_mean(extension, FORMATS)}; read are {_READ}", file=path)
    return extension


def read_pieces(file: str) -> Iterator[Piece]:
    """Read one file or saved folder in pieces of bounded size."""
    if os.path.isdir(file):
        for row, table in saved_dataset.read(file):
            yield Columns(file, row, table)
        return
    reader = FORMATS[_extension(file)]
    if reader is parquet:
        for row, table in parquet.read(file):
            yield Columns(file, row, table)
        return
    yield from row_pieces(file, reader.read(file), cells=reader is delimited)


def row_pieces(file: str, rows: Iterable[tuple[int, dict[str, Any]]], *, cells: bool = False) -> Iterator[Rows]:
    """Gather (line, row) into pieces of bounded size."""
    piece: list[tuple[int, dict[str, Any]]] = []
    characters = 0
    for line, row in rows:
        piece.append((line, row))
        characters += sum(len(value) for value in row.values() if isinstance(value, (str, bytes)))
        if len(piece) == PIECE_ROWS or characters > PIECE_CHARACTERS:
            yield Rows(file, piece, cells=cells)
            piece, characters = [], 0
    if piece:
        yield Rows(file, piece, cells=cells)
