"""Conditions on attributes → the ids of the items that meet them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image

from mmembed.data.schema import did_you_mean, shown

Filters = Mapping[str, Any]


class FilterError(ValueError):
    """A condition that cannot be meant: its column, what was found, and the nearest that exists."""


def allowed_ids(items: Dataset, filters: Filters) -> list[str]:
    """The items that meet all conditions.

    | a condition                  | met by an item whose attribute                                       |
    |------------------------------|----------------------------------------------------------------------|
    | `"women"`, `3`, `True`       | equals it, or is a list that holds it                                |
    | `["red", "blue"]`, a set     | equals one of them, or is a list that holds one                      |
    | `(None, 50)`, `(10, None)`   | is a number from the first to the second, both included; None: open  |
    | `None`                       | is null                                                              |

    A null attribute, and a number that is NaN, meet nothing else. A text must stand in the column, so that a misspelling is
    an error and not an empty result; a number or a range need not.

    Args:
        items: ITEMS of n rows, with the attributes as columns; an attribute inside another is named `outer.inner`.
        filters: conditions by column.

    Returns:
        The ids, in the order of the items; possibly none.

    Raises:
        FilterError: an unknown column or text, with the nearest; a condition of another type than the column's.

    Example:
        >>> items = Dataset.from_dict({"id": ["a", "b", "c"], "colour": ["red", "blue", "red"], "price": [10, 20, None]})
        >>> allowed_ids(items, {"colour": ["red", "blue"], "price": (None, 15)})
        ['a']
        >>> allowed_ids(items, {"colour": "rde"})
        Traceback (most recent call last):
        mmembed.search.filters.FilterError: colour: no item has 'rde'; did you mean 'red'?
    """
    if not isinstance(filters, Mapping):
        raise FilterError(f"found {shown(filters)}; give conditions by column, such as {{'colour': 'red'}}")
    kept = np.ones(len(items), dtype=bool)
    for name, condition in filters.items():
        kept &= _met(_column(items, name), str(name), condition)
    rows = np.flatnonzero(kept)
    return _column(items, "id").take(pa.array(rows)).to_pylist()


def filter_columns(items: Dataset) -> dict[str, str]:
    """Which attributes a condition may name, and of what type each is: "text", "number", "truth" or "list".

    Args:
        items: ITEMS.

    Example:
        >>> filter_columns(Dataset.from_dict({"id": ["a"], "text": ["mug"], "price": [3], "tags": [["new"]]}))
        {'id': 'text', 'text': 'text', 'price': 'number', 'tags': 'list'}
    """
    features = items.features  # a copy, and of a table of many columns no cheap one
    kinds = _kinds(features.arrow_schema)
    return {name: kind for name, kind in kinds if not isinstance(features.get(name.partition(".")[0]), Image)}


def parse_filters(words: Iterable[str], items: Dataset) -> dict[str, Any]:
    """Conditions as a command line has them, read by the types of their columns.

    `gender=women`, `price=10..50`, `price=..50`, `price=20`, `new=true`, `brand=null`. A column that is named twice may
    have either value.

    Args:
        words: `column=condition` each; the first "=" parts them, so that a value may hold more.
        items: ITEMS.

    Returns:
        What `allowed_ids` takes.

    Raises:
        FilterError: no "=", an unknown column, or a value that the column's type cannot be.

    Example:
        >>> items = Dataset.from_dict({"id": ["a"], "colour": ["red"], "price": [10]})
        >>> parse_filters(["price=..50", "colour=red", "colour=blue"], items)
        {'price': (None, 50.0), 'colour': ['red', 'blue']}
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise FilterError(f"found {word!r}; write column=value, or column=low..high for numbers")
        found.setdefault(name, []).append(_parsed(_kind(_column(items, name).type), name, value))
    conditions: dict[str, Any] = {}
    for name, values in found.items():
        if len(values) > 1 and any(isinstance(value, tuple) or value is None for value in values):
            raise FilterError(f"{name}: a range or null stands alone; found it beside another condition")
        conditions[name] = values if len(values) > 1 else values[0]
    return conditions


# --- columns ---------------------------------------------------------------------------------------------------------


def _column(items: Dataset, name: Any) -> pa.Array:
    known = filter_columns(items)
    if name not in known:
        hint = did_you_mean(str(name), known) or "."
        raise FilterError(f"no column {name!r} to filter by{hint} There are: {', '.join(known)}")
    outer, *inner = [name] if name in items.column_names else str(name).split(".")
    table = items.select_columns([outer]).with_format("arrow")[:] if len(items) else None
    if table is None:
        kind = items.features.arrow_schema.field(outer).type
        for part in inner:
            kind = kind.field(part).type
        return pa.array([], kind)
    column = table[outer].combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    for part in inner:
        column = pc.struct_field(column, part)
    feature = items.features.get(outer)
    if isinstance(feature, ClassLabel):
        numbers = column.to_pylist()
        return pa.array([None if number is None else feature.int2str(number) for number in numbers], pa.string())
    return column


def _kinds(schema: pa.Schema) -> Iterable[tuple[str, str]]:
    for field in schema:
        if pa.types.is_struct(field.type):
            for inner in field.type:
                kind = _kind(inner.type)
                if kind is not None:
                    yield f"{field.name}.{inner.name}", kind
        else:
            kind = _kind(field.type)
            if kind is not None:
                yield field.name, kind


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return "text"
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return "list" if is_list and _kind(kind.value_type) in ("text", "number", "truth") else None


# --- conditions ------------------------------------------------------------------------------------------------------


def _met(column: pa.Array, name: str, condition: Any) -> np.ndarray:
    """bool (n,)."""
    if condition is None:
        return np.asarray(pc.is_null(column))
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if _kind(column.type) != "list":
        return _values_met(column, name, condition)
    met = _values_met(column.flatten(), name, condition)
    owners = np.asarray(pc.list_parent_indices(column))
    return np.bincount(owners[met], minlength=len(column)).astype(bool)


def _values_met(values: pa.Array, name: str, condition: Any) -> np.ndarray:
    """bool (n,) of plain values; of null and NaN none."""
    kind = _kind(values.type) or "text"
    if isinstance(condition, tuple):
        low, high = _bounds(name, condition, kind)
        numbers = _numbers(values)
        return (low <= numbers) & (numbers <= high)
    several = isinstance(condition, (list, set, frozenset))
    wanted = [_value(name, one, kind) for one in (condition if several else [condition])]
    if kind == "number":
        return np.isin(_numbers(values), np.array(wanted, dtype=np.float64))
    if kind == "text":
        found = np.asarray(pc.is_in(pa.array(wanted, values.type), value_set=values))
        if len(values) and not found.all():
            there = {one for one in pc.unique(values).to_pylist() if one is not None}
            one = wanted[int(np.argmin(found))]
            raise FilterError(f"{name}: no item has {one!r}{did_you_mean(one, sorted(there)) or _some(there)}")
    # skip_nulls, or a null would be found among no values
    return np.asarray(pc.is_in(values, value_set=pa.array(wanted, values.type), skip_nulls=True))


def _numbers(values: pa.Array) -> np.ndarray:
    """float64 (n,), NaN for null."""
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _bounds(name: str, condition: tuple, kind: str | None) -> tuple[float, float]:
    if kind != "number":
        raise FilterError(f"{name}: a range {condition} on a column of {kind or 'null'}s; ranges are of numbers")
    if len(condition) != 2:
        raise FilterError(f"{name}: a range has two ends, got {condition}; write several values as a list")
    low, high = (None if end is None else _value(name, end, "number") for end in condition)
    if low is not None and high is not None and low > high:
        raise FilterError(f"{name}: the range {condition} begins above its end; give the lower number first")
    return -math.inf if low is None else low, math.inf if high is None else high


def _value(name: str, value: Any, kind: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    fits = {
        "text": isinstance(value, str),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool) and value == value,
        "truth": isinstance(value, bool),
    }[kind]
    if not fits:
        what = {"text": "texts", "number": "numbers", "truth": "true and false"}[kind]
        raise FilterError(f"{name}: found {shown(value)}, the column holds {what}")
    return value


def _some(there: set[str]) -> str:
    some = sorted(there)[:5]
    return f"; it has {', '.join(map(repr, some))}{' …' if len(there) > len(some) else ''}"


def _parsed(kind: str | None, name: str, word: str) -> Any:
    if word == "null":
        return None
    if kind == "truth":
        if word.lower() not in ("true", "false"):
            raise FilterError(f"{name}: found {word!r}, the column holds true and false")
        return word.lower() == "true"
    if kind != "number":
        return word
    low, dots, high = word.partition("..")
    if dots:
        return tuple(None if not end.strip() else _number(name, end) for end in (low, high))
    return _number(name, word)


def _number(name: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FilterError(f"{name}: found {word!r}, the column holds numbers: write 20, 10..50, ..50 or 10..")
    return number
