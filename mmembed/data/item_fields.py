"""Which columns of a file are an item's id, text, image and group, and how a text is made of several."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mmembed.data.schema import DataError, check_text, did_you_mean, shown


@dataclass(frozen=True)
class ItemFields:
    """The mapping from a file's columns to ITEMS.

    A column under its default name may be absent: its values are then null. A column named otherwise must be there.

    Args:
        id_column: strings or integers, one of its own for each row.
        text_column: a column of strings; a list of columns, joined by a space; or None, which reads no text.
        text_template: a text of several columns, as in "{brand} {title}": plain column names only. An absent or null
            field leaves nothing behind, and runs of whitespace become one space. Integers and floats are written out.
        text_parts: columns and their weights, as in {"title": 0.9, "description": 0.1}, for an item whose vector is the
            weighted mean of its parts'. Makes a column `text_parts` (list of {"text", "weight"}); absent parts are
            dropped and the weights divided by their sum; `text` is the part of the highest weight.
        image_column: paths relative to `image_root`, encoded bytes, or {"bytes", "path"}; or None, which reads no image.
        group_column: strings or integers, equal for rows that are the same thing; or None.
        image_root: the folder under which every image must lie; None is the folder of the file itself.
        keep_columns: the attribute columns to keep; None keeps all, [] none. Naming a mapped column keeps it as well.
        blank_text: what a text of nothing but whitespace is: "null", no text, which is an error in a row without an
            image; or "error", always.

    Raises:
        ValueError: a template that is more than plain names, weights that are not above 0, or several ways at once to
            make one text.

    Example:
        >>> ItemFields(text_template="{brand} {title}").text_sources
        ('brand', 'title')
    """

    id_column: str = "id"
    text_column: str | Sequence[str] | None = "text"
    image_column: str | None = "image"
    group_column: str | None = "group"
    image_root: str | None = None
    text_template: str | None = None
    text_parts: Mapping[str, float] | None = None
    keep_columns: Sequence[str] | None = None
    blank_text: str = "null"
    _template: tuple[tuple[str, str | None], ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id_column, str) or not self.id_column:
            raise ValueError(f"id_column={self.id_column!r}; name the column of ids")
        for name in ("image_column", "group_column", "text_template"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name}={value!r}; expected a string or None")
        if self.blank_text not in ("null", "error"):
            raise ValueError(f"blank_text={self.blank_text!r}; 'null' or 'error'")
        if isinstance(self.keep_columns, str):
            raise ValueError(f"keep_columns={self.keep_columns!r} is one string; write [{self.keep_columns!r}]")
        columns = self.text_column
        if not (columns is None or isinstance(columns, str)):
            if not columns or not all(isinstance(one, str) for one in columns):
                raise ValueError(f"text_column={columns!r}; expected a column, a list of columns, or None")
        if self.text_template is not None and self.text_parts is not None:
            raise ValueError("text_template and text_parts both make the text; give one of them")
        if self.text_parts is not None:
            _check_weights(self.text_parts)
        if self.text_template is not None:
            object.__setattr__(self, "_template", _parsed(self.text_template))
        if (self.text_template or self.text_parts) and not (columns is None or columns == "text"):
            strays = [
                one for one in self.text_sources if one not in ([columns] if isinstance(columns, str) else columns)
            ]
            if strays or self.text_parts:
                which = "text_template" if self.text_template else "text_parts"
                raise ValueError(f"text_column={columns!r} and {which} both make the text; give one of them")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ItemFields:
        """The fields that a section of a YAML file gives; an unknown key is an error with the nearest name."""
        known = [one.name for one in fields(cls) if one.init]
        for key in mapping:
            if key not in known:
                raise ValueError(f"{key!r} is not one of {known}{did_you_mean(key, known)}")
        return cls(**mapping)

    @property
    def text_sources(self) -> tuple[str, ...]:
        """The columns of which the text is made."""
        if self.text_template is not None:
            return tuple(dict.fromkeys(name for _, name in self._template if name is not None))
        if self.text_parts is not None:
            return tuple(self.text_parts)
        if self.text_column is None:
            return ()
        return (self.text_column,) if isinstance(self.text_column, str) else tuple(self.text_column)

    def text_of(self, row: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]] | None]:
        """The text and the parts of one row; raises ValueError with the field as its first argument."""
        values = {name: self._text_value(name, row.get(name)) for name in self.text_sources}
        if self.text_parts is not None:
            present = {name: value for name, value in values.items() if value is not None}
            total = sum(self.text_parts[name] for name in present)
            parts: list[dict[str, Any]] = [
                {"text": text, "weight": self.text_parts[name] / total} for name, text in present.items()
            ]
            return (max(parts, key=lambda part: part["weight"])["text"] if parts else None), parts
        if self.text_template is not None:
            if all(value is None for value in values.values()):
                return None, None
            text = "".join(literal + ((values[name] or "") if name else "") for literal, name in self._template)
            return " ".join(text.split()), None
        if isinstance(self.text_column, str):
            return values[self.text_column], None
        return " ".join(value.strip() for value in values.values() if value is not None) or None, None

    def _text_value(self, name: str, value: Any) -> str | None:
        if self.text_template is not None and type(value) in (int, float) and math.isfinite(value):
            return repr(value)
        try:
            text = check_text(value)
        except ValueError as error:
            raise ValueError(name, str(error)) from None
        if text is not None and not text.strip():
            if self.blank_text == "error":
                raise ValueError(name, f"found {shown(text)}, a blank text; write null, or pass blank_text='null'")
            return None
        return text


def _check_weights(parts: Mapping[str, float]) -> None:
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(f"text_parts={parts!r}; expected columns and their weights, as in {{'title': 0.9}}")
    for name, weight in parts.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ValueError(f"text_parts: the weight of {name!r} is {weight!r}; expected a number above 0")


def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    """(literal, column) pairs; str.format's own attribute access, indexing and conversions are refused."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"text_template={template!r}: {error}") from None
    for _, name, specification, conversion in pieces:
        if name is not None and (not name or name.isdigit() or set(name) & set(".[]") or specification or conversion):
            raise ValueError(
                f"text_template={template!r}: {{{name}}} is not a plain column name, as in '{{brand}} {{title}}'"
            )
    if all(name is None for _, name, _, _ in pieces):
        raise ValueError(f"text_template={template!r} names no column; write '{{brand}} {{title}}'")
    return tuple((literal, name) for literal, name, _, _ in pieces)


def missing_column(name: str, role: str, columns: Sequence[str], file: str | None) -> DataError:
    """The error for a column that must be there and is not."""
    return DataError(
        f"no such column (asked for by {role}); found {list(columns)}{did_you_mean(name, columns)}",
        file=file,
        field=name,
    )
