"""Which attributes can results be filtered by, and what does a person's choice mean as a condition?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from mmembed.apps.item_cards import PLACES
from mmembed.evaluation.page_text import one_line
from mmembed.search.filters import FilterError, filter_columns

_VALUES = 80  # of a list to choose from
_LABEL = 60  # characters


@dataclass(frozen=True)
class FilterControl:
    """A control for one attribute.

    Args:
        column: as `mmembed.search.filters.allowed_ids` names it.
        kind: "choice" among values, "truth", or a "range" of numbers.
        choices: of "choice": labels with the number of items, and values; the most frequent first.
        low: of "range": the smallest number.
        high: of "range": the largest.
    """

    column: str
    kind: Literal["choice", "truth", "range"]
    choices: tuple[tuple[str, Any], ...] = ()
    low: float = 0.0
    high: float = 0.0

    def condition(self, *given: Any) -> Any:
        """What was chosen, as a condition; None where nothing was.

        Args:
            given: of "choice" the chosen values, of "truth" a word, of "range" what was typed for its two ends.

        Raises:
            FilterError: what was typed is no number.

        Example:
            >>> FilterControl("price", "range", low=1, high=90).condition("", "50")
            (None, 50.0)
            >>> FilterControl("colour", "choice").condition([]) is None
            True
        """
        if self.kind == "range":
            low, high = (_number(end, self.column) for end in given)
            if low is not None and high is not None and low > high:
                low, high = high, low
            return None if low is None and high is None else (low, high)
        if self.kind == "truth":
            return {"yes": True, "no": False}.get(str(given[0]))
        chosen = [value for value in given[0] or [] if any(value == known for _, known in self.choices)]
        return chosen or None


def filter_controls(
    items: Dataset | None, columns: Sequence[str] | None = None, *, most: int = 12
) -> list[FilterControl]:
    """Controls for the attributes that items share values of, or that are numbers.

    Args:
        items: ITEMS; None has none.
        columns: of these alone; None for all.
        most: how many controls; the first columns.

    Returns:
        Controls, in the order of the columns.

    Example:
        >>> items = Dataset.from_dict({"id": list("abcd"), "colour": ["red", "red", "blue", "blue"], "price": [1, 5, 9, 9]})
        >>> [(one.column, one.kind, len(one.choices), one.high) for one in filter_controls(items)]
        [('colour', 'choice', 2, 0.0), ('price', 'range', 0, 9.0)]
    """
    found: list[FilterControl] = []
    if items is None or not len(items):
        return found
    for column, kind in filter_columns(items).items():
        if len(found) == most:
            break
        outer = column.partition(".")[0]
        if outer in PLACES or (columns is not None and outer not in columns and column not in columns):
            continue
        control = _control(items, column, kind)
        if control is not None:
            found.append(control)
    return found


def conditions(controls: Sequence[FilterControl], given: Sequence[Any]) -> dict[str, Any]:
    """What all controls say together, as `allowed_ids` takes it.

    Args:
        controls: the controls.
        given: what stands in them, two values for a range and one for each other, in their order.

    Example:
        >>> conditions([FilterControl("new", "truth"), FilterControl("price", "range")], ["yes", "2", ""])
        {'new': True, 'price': (2.0, None)}
    """
    found, left = {}, list(given)
    for control in controls:
        values = [left.pop(0) for _ in range(2 if control.kind == "range" else 1)]
        condition = control.condition(*values)
        if condition is not None:
            found[control.column] = condition
    return found


def _number(typed: Any, column: str) -> float | None:
    if not isinstance(typed, str) or not typed.strip():
        return None
    try:
        number = float(typed.strip().replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FilterError(f"{column}: found {typed.strip()[:20]!r}, wanted a number such as 12.5")
    return number


def _control(items: Dataset, column: str, kind: str) -> FilterControl | None:
    outer, *inner = [column] if column in items.column_names else column.split(".")
    values = items.select_columns([outer]).with_format("arrow")[:][outer].combine_chunks()
    values = values if isinstance(values, pa.Array) else pa.concat_arrays(values.chunks)
    for part in inner:
        values = pc.struct_field(values, part)
    feature = items.features.get(outer)
    if isinstance(feature, ClassLabel):
        kind, values = "text", pa.array([None if one is None else feature.int2str(one) for one in values.to_pylist()])
    if kind == "number":
        ends = pc.min_max(pc.cast(values.filter(pc.is_finite(values)), pa.float64())).as_py()
        if ends["min"] is None or ends["min"] == ends["max"]:
            return None
        return FilterControl(column, "range", low=ends["min"], high=ends["max"])
    if kind == "truth":
        return FilterControl(column, "truth") if len(set(values.to_pylist()) - {None}) == 2 else None
    counts: Counter[Any] = Counter()
    for value in values.to_pylist():
        counts.update(one for one in (value if isinstance(value, list) else [value]) if one is not None)
    shared = sum(counts.values())
    # a column of which each item has a value of its own is a name, and nothing to choose from
    if len(counts) < 2 or shared < 2 * len(counts):
        return None
    frequent = sorted(counts.items(), key=lambda found: (-found[1], str(found[0])))[:_VALUES]
    return FilterControl(
        column, "choice", tuple((f"{one_line(str(value), _LABEL)} ({count:,})", value) for value, count in frequent)
    )
