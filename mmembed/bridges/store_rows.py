"""What every vector store is sent, and asked by: batches of ids, vectors and attributes, and conditions on attributes."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Image

from mmembed.data.schema import DataError, did_you_mean, shown
from mmembed.embeddings import Embeddings, read_rows
from mmembed.search.filters import FilterError, filter_columns
from mmembed.search.quantization import of_unit_length

RESERVED = ("id", "vector")
_SIGNS = '.`[]"\\*'  # of paths within rows and of names in queries
_NOT_SENT = ("id", "image", "text_parts")


@dataclass
class StoreBatch:
    """Some rows, as a store is sent them.

    Args:
        ids: n ids.
        vectors: float32 (n, dim).
        attributes: of each row, values that JSON can hold; null where the item has none.
    """

    ids: list[str]
    vectors: np.ndarray
    attributes: list[dict[str, Any]]


class StoreRows:
    """Embeddings with the attributes of their items.

    Args:
        embeddings: the vectors.
        items: ITEMS that hold every id of the embeddings; None sends no attributes.
        columns: the attributes to send; None sends all but the images.

    Raises:
        DataError: an id without an item, or a column that is not there or cannot be sent.

    Example:
        >>> items = Dataset.from_dict({"id": ["a", "b"], "colour": ["red", None], "price": [3.0, float("nan")]})
        >>> rows = StoreRows(Embeddings(["b", "a"], np.eye(2, dtype=np.float32)), items)
        >>> [batch.attributes for batch in rows.batches(1)]
        [[{'colour': None, 'price': None}], [{'colour': 'red', 'price': 3.0}]]
    """

    def __init__(
        self, embeddings: Embeddings, items: Dataset | None = None, columns: Sequence[str] | None = None
    ) -> None:
        if items is None and columns:
            raise ValueError(f"columns={list(columns)} are of items, which are not given")
        self.embeddings = embeddings
        self.dim = int(embeddings.vectors.shape[1])
        self.schema = pa.schema([])
        self._items: Dataset | None = None
        if items is None:
            return
        chosen = _chosen(items, columns)
        row_of = {one: row for row, one in enumerate(items.with_format(None)["id"][:])}
        missing = [one for one in embeddings.ids if one not in row_of]
        if missing:
            message = f"{len(missing)} ids of the embeddings have no item, such as {missing[0]!r:.80}"
            raise DataError(message, file="items", field="id")
        self._rows = np.fromiter((row_of[one] for one in embeddings.ids), dtype=np.int64, count=len(embeddings))
        self._items = items.select_columns(chosen).with_format(None) if chosen else None
        self._labels = {name: items.features[name] for name in chosen if isinstance(items.features[name], ClassLabel)}
        arrow = items.features.arrow_schema
        self.schema = pa.schema([_sent(arrow.field(name), name in self._labels) for name in chosen])

    def __len__(self) -> int:
        return len(self.embeddings)

    def batches(self, size: int) -> Iterator[StoreBatch]:
        """All rows in order, `size` at once."""
        if size < 1:
            raise ValueError(f"batch_size={size}; give at least 1")
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            vectors = np.ascontiguousarray(read_rows(self.embeddings.vectors, start, stop), dtype=np.float32)
            yield StoreBatch(self.embeddings.ids[start:stop], vectors, self._attributes(start, stop))

    def _attributes(self, start: int, stop: int) -> list[dict[str, Any]]:
        if self._items is None:
            return [{} for _ in range(start, stop)]
        found = self._items[self._rows[start:stop].tolist()]
        for name, feature in self._labels.items():
            found[name] = [None if value is None else feature.int2str(value) for value in found[name]]
        names = list(found)
        return [dict(zip(names, map(_plain, row))) for row in zip(*found.values())]


def _chosen(items: Dataset, columns: Sequence[str] | None) -> list[str]:
    there = [name for name in items.column_names if name not in _NOT_SENT]
    known = {name.partition(".")[0] if name not in there else name for name in filter_columns(items)}
    if columns is None:
        chosen = [name for name in there if name in known]
    else:
        chosen = list(dict.fromkeys(columns))
        for name in chosen:
            if name not in there:
                raise DataError(f"no such column to send{did_you_mean(name, there)}", file="items", field=name)
            if isinstance(items.features[name], Image) or name not in known:
                raise DataError("a column that is no attribute; leave it out", file="items", field=name)
    for name in chosen:
        if name in RESERVED or not name or any(sign in name for sign in _SIGNS):
            what = "has its own field of this name" if name in RESERVED else f"gives a meaning to each of {_SIGNS}"
            raise DataError(f"a vector store {what}; rename the column, or leave it out", file="items", field=name)
    return chosen


def _sent(field: pa.Field, is_label: bool) -> pa.Field:
    """The type of an attribute once it is plain."""
    return pa.field(field.name, pa.string() if is_label else _plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(inner.name, _plain_type(inner.type)) for inner in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_boolean(kind):
        return pa.bool_()
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else pa.string()


def _plain(value: Any) -> Any:
    """A value as JSON holds it; NaN, which meets no condition, is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise ValueError(f"found {shown(value)}, which a vector store does not take")


# --- what is asked -------------------------------------------------------------------------------------------------


@dataclass
class Condition:
    """One condition on an attribute, as `mmembed.search.filters.allowed_ids` means it.

    Args:
        name: the attribute; `outer.inner` inside another.
        values: any of these, or a list that holds one; None where it is another condition.
        low, high: a number from the first to the second, both included.
        is_null: the attribute is null.
    """

    name: str
    values: list[Any] | None = None
    low: float | None = None
    high: float | None = None
    is_null: bool = False


def conditions_of(filters: Mapping[str, Any] | None, known: Iterable[str] | None) -> list[Condition]:
    """Conditions by column, checked.

    Args:
        filters: as `allowed_ids` takes them.
        known: the attributes that the store has; None where that cannot be told.

    Returns:
        One for each column; all are to be met.

    Raises:
        FilterError: an unknown column, or a condition that cannot be meant.

    Example:
        >>> [condition.values for condition in conditions_of({"colour": "red"}, ["colour"])]
        [['red']]
        >>> conditions_of({"color": "red"}, ["colour"])
        Traceback (most recent call last):
        mmembed.search.filters.FilterError: no column 'color' to filter by; did you mean 'colour'? There are: colour
    """
    if filters is None:
        return []
    if not isinstance(filters, Mapping):
        raise FilterError(f"found {shown(filters)}; give conditions by column, such as {{'colour': 'red'}}")
    there = None if known is None else sorted(known)
    found = []
    for name, condition in filters.items():
        if there is not None and name not in there:
            hint = did_you_mean(str(name), there) or "."
            raise FilterError(f"no column {name!r} to filter by{hint} There are: {', '.join(there)}")
        if condition is None:
            found.append(Condition(name, is_null=True))
        elif isinstance(condition, tuple):
            if len(condition) != 2:
                raise FilterError(f"{name}: a range has two ends, got {condition}; write several values as a list")
            low, high = (None if end is None else _number(name, end) for end in condition)
            if low is not None and high is not None and low > high:
                raise FilterError(f"{name}: the range {condition} begins above its end; give the lower number first")
            found.append(Condition(name, low=low, high=high))
        else:
            several = isinstance(condition, (list, set, frozenset))
            found.append(Condition(name, [_scalar(name, one) for one in (condition if several else [condition])]))
    return found


def _number(name: str, value: Any) -> float:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FilterError(f"{name}: found {shown(value)}, a range is of numbers")
    return value


def _scalar(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (str, bool, int)) and not (isinstance(value, float) and math.isfinite(value)):
        raise FilterError(f"{name}: found {shown(value)}, a condition is a text, a number, or true or false")
    return value


def schema_names(schema: pa.Schema) -> list[str]:
    """The attributes of a schema that a condition may name; one inside another as `outer.inner`."""
    names = []
    for field in schema:
        names += (
            [f"{field.name}.{inner.name}" for inner in field.type] if pa.types.is_struct(field.type) else [field.name]
        )
    return names


def checked_queries(queries: np.ndarray, dim: int, k: int) -> np.ndarray:
    """Queries as float32 (q, dim) of length 1.

    Raises:
        ValueError: k below 1.
        DataError: another shape, or NaN.
    """
    if type(k) is not int or k < 1:
        raise ValueError(f"k={k!r}; give a whole number of at least 1")
    given = np.asarray(queries)
    if given.ndim != 2 or given.shape[1] != dim or given.dtype.kind != "f":
        raise DataError(f"found {given.dtype} {given.shape}, expected floats (q, {dim}): a row a query", file="queries")
    wrong = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(wrong):
        raise DataError("a query with NaN or infinity", file="queries", row=int(wrong[0]))
    return of_unit_length(given)
