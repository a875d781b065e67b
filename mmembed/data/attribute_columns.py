"""The attribute columns of a file: kept as they are, of one type each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Features

from mmembed.data.schema import DataError
from mmembed.data.sources import Columns, Piece
from mmembed.data.tables import ColumnFault

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")


class AttributeColumns:
    """What reading ITEMS and reading PAIRS share: the columns seen so far, and the ones that are carried along."""

    key: str

    def __init__(self, keep_columns: Sequence[str] | None) -> None:
        self.keep_columns = None if keep_columns is None else list(keep_columns)
        self.seen: dict[str, None] = {}
        self.class_labels: dict[str, ClassLabel] = {}
        self.number_columns: dict[str, int] = {}  # of CSV: 2 all integers so far, 1 all numbers, 0 some text

    def attributes_of(self, piece: Piece, names: Sequence[str], types: dict[str, pa.DataType]) -> dict[str, Any]:
        columns = {}
        for name in names:
            try:
                columns[name] = piece.typed(name, types.get(name, pa.null()))
            except ColumnFault as fault:
                raise DataError(str(fault), field=name, **piece.where(fault.index)) from None
            if piece.cells and self.number_columns.get(name, 2):
                self.number_columns[name] = min(self.number_columns.get(name, 2), _numbers(piece.values(name)))
        if isinstance(piece, Columns) and b"huggingface" in (piece.table.schema.metadata or {}):
            self._remember_class_labels(piece.table.schema, names)
        return columns

    def _remember_class_labels(self, schema: pa.Schema, names: Sequence[str]) -> None:
        # Of the features a stranger's file declares only ClassLabel is taken over: it names integers. Image and Audio
        # would make looking at a row open whatever path stands there.
        try:
            features = Features.from_arrow_schema(schema)
        except Exception:  # metadata is free text; without it the columns keep their Arrow types
            return
        for name in names:
            if isinstance(features.get(name), ClassLabel):
                self.class_labels[name] = features[name]

    def numbers(self) -> dict[str, pa.DataType]:
        kinds = {2: pa.int64(), 1: pa.float64()}
        return {name: kinds[level] for name, level in self.number_columns.items() if level}

    def see(self, piece: Piece) -> None:
        self.seen.update(dict.fromkeys(piece.names))


def _numbers(cells: list[str | None]) -> int:
    level = 2
    for cell in cells:
        if cell is not None:
            if level == 2 and not _INTEGER.fullmatch(cell):
                level = 1
            # More than 15 digits would not come back from a float as they were written.
            if level == 1 and not (_DECIMAL.fullmatch(cell) and sum(map(str.isdigit, cell)) <= 17):
                return 0
    return level
