"""A file's columns → the columns of PAIRS, every value checked where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mmembed.data.attribute_columns import AttributeColumns
from mmembed.data.item_fields import missing_column
from mmembed.data.schema import (
    PAIRS_COLUMNS,
    PAIRS_OPTIONAL_COLUMNS,
    PAIRS_TYPES,
    DataError,
    check_pair_row,
    did_you_mean,
    pairs_feature,
    shown,
)
from mmembed.data.sources import Piece


class PairColumns(AttributeColumns):
    """Maps the pieces of one or several files, and remembers which columns it has seen."""

    key = "query_id"

    def __init__(self, columns: dict[str, str | None], keep_columns: Sequence[str] | None) -> None:
        super().__init__(keep_columns)
        self.columns = {field: name for field, name in columns.items() if name is not None}

    def features(self) -> dict[str, Any]:
        return {**{field: pairs_feature(field) for field in PAIRS_TYPES}, **self.class_labels}

    def columns_of(self, piece: Piece, types: dict[str, pa.DataType]) -> dict[str, Any]:
        self.see(piece)
        for field in ("query_id", "positive_ids"):
            if self.columns[field] not in piece.names:
                raise missing_column(self.columns[field], f"{field}_column", list(self.seen), piece.file)
        mapped = set(self.columns.values())
        others = [name for name in piece.names if name not in mapped]
        for name in others:
            if self.keep_columns is None:
                message = f"not a column of PAIRS {sorted(mapped)}{did_you_mean(name, mapped)}; keep_columns=[{name!r}] keeps it"
                raise DataError(f"{message}, keep_columns=[] leaves others out", file=piece.file, field=name)
        present = [field for field, name in self.columns.items() if name in piece.names or field == "negative_ids"]
        values = {field: self._values(piece, field) for field in present}
        rows = []
        for index in range(len(piece)):
            row = {field: values[field][index] for field in present}
            if row.get("negative_ids", ()) is None:
                row["negative_ids"] = []
            row.setdefault("negative_ids", [])
            where = piece.where(index)
            rows.append(check_pair_row(row, where))
        columns = {
            field: pa.array([row[field] for row in rows], PAIRS_TYPES[field]) for field in (*PAIRS_COLUMNS, *present)
        }
        kept = [name for name in others if name in (self.keep_columns or ())]
        return {**columns, **self.attributes_of(piece, kept, types)}

    def _values(self, piece: Piece, field: str) -> list[Any]:
        name = self.columns.get(field, field)
        values = piece.values(name)
        if not piece.cells or field in ("query_id", "prompt"):
            return values
        lists = []
        for index, cell in enumerate(values):
            try:
                lists.append(None if cell is None else json.loads(cell))
            except (ValueError, RecursionError):
                message = f'found {shown(cell)}, expected a JSON array, as in ["a", "b"]'
                raise DataError(message, field=name, **piece.where(index)) from None
        return lists

    def check_seen(self, file: str | None) -> None:
        defaults = (*PAIRS_COLUMNS[2:], *PAIRS_OPTIONAL_COLUMNS)
        for field, name in self.columns.items():
            if name not in self.seen and not (field in defaults and name == field):
                raise missing_column(name, f"{field}_column", list(self.seen), file)
        for name in self.keep_columns or ():
            if name not in self.seen:
                raise missing_column(name, "keep_columns", list(self.seen), file)
