"""What is known of each candidate: its attributes, as facts or as probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from mmembed.data.schema import ITEMS_COLUMNS, DataError, did_you_mean, shown

UNKNOWN = -1
#: Columns of tables that say where a row belongs, and nothing that a person sees.
_PLACES = (*ITEMS_COLUMNS, "split", "family", "text_parts")


@dataclass(frozen=True)
class Slot:
    """Something that candidates differ in.

    Args:
        name: such as "colour".
        values: such as ("red", "blue").
        exclusive: whether a candidate has one of the values at most; else any number of them.

    Example:
        >>> Slot("colour", ("red", "blue")).attributes
        ['colour=red', 'colour=blue']
    """

    name: str
    values: tuple[str, ...]
    exclusive: bool = True

    @property
    def attributes(self) -> list[str]:
        """A name for each value, as in `Question.attribute`."""
        return [f"{self.name}={value}" for value in self.values]


class AttributeTable:
    """The attributes of candidates.

    Args:
        ids: n distinct ids.
        slots: what they differ in, each name once.
        columns: for each slot either int (n,), the number of each candidate's value and −1 where it is not known, or
            (n, values) of bool or float: whether the candidate has the value, or with which probability; NaN where that
            is not known.

    Raises:
        DataError: shapes that do not fit, a number out of range, an id or a slot that stands twice.

    Example:
        >>> table = AttributeTable(["a", "b", "c"], [Slot("colour", ("red", "blue"))], [np.array([0, 1, -1])])
        >>> table.probabilities(table.rows(["c", "b"])).tolist()
        [[nan, nan], [0.0, 1.0]]
        >>> table.filled(table.rows(["c"])).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, ids: Sequence[str], slots: Sequence[Slot], columns: Sequence[ArrayLike]) -> None:
        self.ids = list(ids)
        self.slots = list(slots)
        self._rows = {id: row for row, id in enumerate(self.ids)}
        self._asked: tuple[Any, NDArray[np.int64]] = None, np.zeros(0, dtype=np.int64)
        if len(self._rows) < len(self.ids) or len({slot.name for slot in slots}) < len(self.slots):
            raise DataError("an id or a slot stands twice; each is named once", file="attributes")
        if len(self.slots) != len(columns):
            raise DataError(f"{len(columns)} columns for {len(self.slots)} slots", file="attributes")
        self.columns = [_checked(slot, np.asarray(column), len(self.ids)) for slot, column in zip(self.slots, columns)]
        self.attributes = [attribute for slot in self.slots for attribute in slot.attributes]
        self._places = {attribute: place for place, attribute in enumerate(self.attributes)}
        if len(self._places) < len(self.attributes):
            raise DataError("a value stands twice in a slot", file="attributes")
        starts = np.cumsum([0, *(len(slot.values) for slot in self.slots)])
        self.slices = {slot.name: slice(*pair) for slot, pair in zip(self.slots, zip(starts, starts[1:]))}
        self.base_rates = np.concatenate([np.zeros(0), *map(_base_rates, self.slots, self.columns)])

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id.

        Raises:
            DataError: an id that is not in the table.
        """
        if ids is self._asked[0]:
            return self._asked[1]
        try:
            found = np.array(list(map(self._rows.__getitem__, ids)), dtype=np.int64)
        except KeyError as missing:
            raise DataError(f"{missing} has no attributes; give a table of all candidates", file="attributes") from None
        if isinstance(ids, tuple):  # which nobody changes; a session asks about the same candidates again and again
            found.flags.writeable = False
            self._asked = ids, found
        return found

    def place(self, attribute: str) -> int | None:
        """The column of an attribute such as "colour=red"; None for what is not in the table."""
        return self._places.get(attribute)

    def slot(self, name: str) -> Slot | None:
        """The slot of that name, or None."""
        return next((slot for slot in self.slots if slot.name == name), None)

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """P(the attribute holds) of some candidates: float32 (len(rows), attributes), NaN where it is not known."""
        found = np.empty((len(rows), len(self.attributes)), dtype=np.float32)
        for slot, column in zip(self.slots, self.columns):
            found[:, self.slices[slot.name]] = _values(slot, column[rows])
        return found

    def filled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `probabilities`, with the share of all candidates where a candidate's own is not known."""
        return self._filled(self.probabilities(rows), slice(None))

    def filled_slot(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """One slot of `filled`: float32 (len(rows), values)."""
        at = [slot.name for slot in self.slots].index(name)
        return self._filled(_values(self.slots[at], self.columns[at][rows]), self.slices[name])

    def _filled(self, found: NDArray[np.float32], places: slice) -> NDArray[np.float32]:
        unknown = np.isnan(found)
        return np.where(unknown, self.base_rates[places].astype(np.float32), found) if unknown.any() else found

    def column(self, place: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """One attribute of `filled`: float64 (len(rows),)."""
        slot = next(slot for slot in self.slots if self.slices[slot.name].start <= place < self.slices[slot.name].stop)
        column = self.columns[self.slots.index(slot)]
        number = place - self.slices[slot.name].start
        if column.ndim == 1:
            found = (column[rows] == number).astype(np.float64)
            found[column[rows] == UNKNOWN] = self.base_rates[place]
            return found
        found = column[rows, number].astype(np.float64)
        return np.where(np.isnan(found), self.base_rates[place], found)

    def select(self, slots: Sequence[str]) -> AttributeTable:
        """A table of some slots.

        Raises:
            DataError: a name that is no slot, with the nearest.
        """
        known = [slot.name for slot in self.slots]
        for name in slots:
            if name not in known:
                raise DataError(f"no attribute {name!r}{did_you_mean(name, known)} There are {known[:20]}")
        kept = [known.index(name) for name in slots]
        return AttributeTable(self.ids, [self.slots[at] for at in kept], [self.columns[at] for at in kept])

    def of(self, ids: Sequence[str]) -> AttributeTable:
        """A table of some candidates, in this order.

        Raises:
            DataError: an id that is not in the table.
        """
        rows = self.rows(ids)
        return AttributeTable(ids, self.slots, [column[rows] for column in self.columns])

    @classmethod
    def from_items(
        cls,
        items: Dataset,
        columns: Sequence[str] | None = None,
        *,
        min_count: int = 2,
        max_values: int = 200,
    ) -> AttributeTable:
        """The metadata of ITEMS.

        Args:
            items: ITEMS; texts, numbers and booleans have one value an item, lists of texts any number, and objects such as
                `{"pattern": "striped"}` are a slot for each of their keys, named `column.key`.
            columns: which columns, or `column.key`; None for all that hold between 2 and `max_values` values, each of
                them at `min_count` items or more on average, and no fractions: nobody tells a price or a weight to the cent.
            min_count: a value of fewer items is not asked about; such an item's value counts as not known.
            max_values: of a slot, the most frequent ones.

        Returns:
            The table. Null, the empty text and "NA" are not known.

        Raises:
            DataError: a column that is not there, or nothing that items differ in.

        Example:
            >>> items = Dataset.from_dict({"id": ["a", "b", "c"], "colour": ["red", "blue", "red"], "tags": [["x"], [], ["x", "y"]]})
            >>> AttributeTable.from_items(items, min_count=1).attributes
            ['colour=red', 'colour=blue', 'tags=x', 'tags=y']
        """
        ids = [str(id) for id in items["id"]]
        read = _columns_of(items, columns)
        slots, kept = [], []
        for name, values in read.items():
            lists = any(isinstance(value, (list, tuple)) for value in values)
            each = [_texts(value) for value in values]
            counts = Counter(text for texts in each for text in dict.fromkeys(texts))
            frequent = sorted(
                (text for text, count in counts.items() if count >= min_count), key=lambda t: (-counts[t], t)
            )
            if columns is None and (
                any(isinstance(value, float) and value % 1 > 0 for value in values)
                or not (1 <= len(frequent) <= max_values and _tells(counts, len(ids), min_count))
            ):
                continue
            chosen = tuple(frequent[:max_values])
            if not chosen:
                raise DataError(f"no value stands at {min_count} items or more", file="items", field=name)
            number = {text: place for place, text in enumerate(chosen)}
            if lists:
                column: np.ndarray = np.zeros((len(ids), len(chosen)), dtype=bool)
                for row, texts in enumerate(each):
                    column[row, [number[text] for text in texts if text in number]] = True
            else:
                column = np.array(
                    [number.get(texts[0], UNKNOWN) if texts else UNKNOWN for texts in each], dtype=np.int32
                )
            slots.append(Slot(name, chosen, exclusive=not lists))
            kept.append(column)
        if not slots:
            raise DataError("no column in which items differ; name columns, or give another table", file="items")
        return cls(ids, slots, kept)


def _checked(slot: Slot, column: np.ndarray, n: int) -> np.ndarray:
    values = len(slot.values)
    where: dict[str, Any] = {"file": "attributes", "field": slot.name}
    if not values or "=" in slot.name or not slot.name:
        raise DataError("a slot has a name without '=', and at least one value", **where)
    if column.shape == (n,) and np.issubdtype(column.dtype, np.integer) and slot.exclusive:
        if n and not (UNKNOWN <= column.min() and column.max() < values):
            raise DataError(f"numbers from {column.min()} to {column.max()} of {values} values", **where)
        return column.astype(np.int32)
    if column.shape != (n, values) or column.dtype.kind not in "bf":
        wanted = f"({n}, {values}) of bool or float" + (f" or ({n},) of int" if slot.exclusive else "")
        raise DataError(f"found {column.dtype} {column.shape}, expected {wanted}", **where)
    if column.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            if ((column < 0) | (column > 1)).any():
                raise DataError("a probability that is not from 0 to 1", **where)
            if slot.exclusive and (np.nansum(column, axis=1) > 1 + 1e-3).any():
                raise DataError("probabilities of values that exclude each other sum to more than 1", **where)
        return column.astype(np.float32)
    return column


def _values(slot: Slot, column: np.ndarray) -> NDArray[np.float32]:
    """(rows, values) of some rows of a slot's column."""
    if column.ndim == 2:
        return column.astype(np.float32)
    found = (column[:, None] == np.arange(len(slot.values))).astype(np.float32)
    found[column == UNKNOWN] = np.nan
    return found


def _base_rates(slot: Slot, column: np.ndarray) -> NDArray[np.float64]:
    """The share of candidates with each value, among those of which it is known."""
    if column.ndim == 1:
        counts = np.bincount(column[column != UNKNOWN], minlength=len(slot.values)).astype(np.float64)
        return counts / max(counts.sum(), 1)
    known = ~np.isnan(column) if column.dtype.kind == "f" else np.ones_like(column, dtype=bool)
    return np.where(known, column, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)


def _columns_of(items: Dataset, names: Sequence[str] | None) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = {}
    plain = items.with_format(None)
    wanted = [name for name in plain.column_names if name not in _PLACES] if names is None else list(names)
    for name in wanted:
        outer, _, inner = name.partition(".")
        if outer not in plain.column_names:
            raise DataError(f"no such column{did_you_mean(outer, plain.column_names)}", file="items", field=name)
        values = plain[outer][:]
        if inner:
            values = [value.get(inner) if isinstance(value, Mapping) else None for value in values]
        if not inner and any(isinstance(value, Mapping) for value in values):
            keys = dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value)
            for key in keys:
                read[f"{name}.{key}"] = [value.get(key) if isinstance(value, Mapping) else None for value in values]
        else:
            read[name] = values
    return read


def _texts(value: Any) -> list[str]:
    """The texts of a cell; nothing where it is empty."""
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _texts(one)]
    if value is None or value != value:
        return []
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if not isinstance(value, (str, int, float)):
        raise DataError(f"found {shown(value)}; attributes are texts, numbers, booleans or lists of them", file="items")
    text = " ".join(str(value).split())
    return [] if text in ("", "NA", "N/A") else [text]


def _tells(counts: Counter[str], items: int, min_count: int) -> bool:
    """Whether a column is one that items share values of and differ in."""
    total = sum(counts.values())
    return total >= min_count * len(counts) and (len(counts) > 1 or total < items)
