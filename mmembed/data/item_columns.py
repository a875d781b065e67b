"""A file's columns → the columns of ITEMS, every value checked where it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Value

from mmembed.data.attribute_columns import AttributeColumns
from mmembed.data.item_fields import ItemFields, missing_column
from mmembed.data.schema import (
    IMAGE_FEATURE,
    IMAGE_TYPE,
    ITEMS_COLUMNS,
    DataError,
    check_group,
    check_id,
    did_you_mean,
    nearest,
    shown,
)
from mmembed.data.sources import Columns, Piece
from mmembed.images import ImageError, resolve_under

_SCHEME = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]*://|data:)")
_PARTS_TYPE = pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float64())]))


class ItemColumns(AttributeColumns):
    """Maps the pieces of one or several files, and remembers which columns it has seen."""

    key = "id"

    def __init__(self, fields: ItemFields) -> None:
        super().__init__(fields.keep_columns)
        self.fields = fields
        self.roles = {fields.id_column: "id_column"}
        which = "text_template" if fields.text_template else "text_parts" if fields.text_parts else "text_column"
        for name, role in ((fields.image_column, "image_column"), (fields.group_column, "group_column")):
            if name is not None:
                self.roles[name] = role
        self.roles.update(dict.fromkeys(fields.text_sources, which))
        self.optional = {"text"} if which == "text_column" and fields.text_column == "text" else set()
        self.optional |= {"image"} & {fields.image_column} | {"group"} & {fields.group_column}
        self.roots: dict[str, str] = {}

    def features(self) -> dict[str, Any]:
        text = {"id": Value("string"), "text": Value("string")}
        return {**text, "image": IMAGE_FEATURE, "group": Value("string"), **self.class_labels}

    def columns_of(self, piece: Piece, types: dict[str, pa.DataType]) -> dict[str, Any]:
        self.see(piece)
        fields = self.fields
        ids = self._checked(piece, fields.id_column, check_id)
        groups = (
            [None] * len(piece)
            if fields.group_column is None
            else self._checked(piece, fields.group_column, check_group)
        )
        texts, parts = self._texts(piece)
        images = self._images(piece)
        present = images.is_valid().to_pylist()
        for index, text in enumerate(texts):
            if text is None and not present[index]:
                self.check_seen(piece.file)
                blank = any(isinstance(piece.values(name)[index], str) for name in fields.text_sources)
                what = "a blank text" if blank else "no text"
                raise DataError(
                    f"{what} and no image; give the row one of them, or leave it out",
                    field=(fields.text_sources or (fields.image_column,))[0],
                    **piece.where(index),
                )
        columns: dict[str, Any] = {"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}
        columns.update({"image": images, "group": pa.array(groups, pa.string())})
        if fields.text_parts is not None:
            columns["text_parts"] = pa.array(parts, _PARTS_TYPE)
        columns.update(self.attributes_of(piece, self._attribute_names(piece), types))
        return columns

    def _attribute_names(self, piece: Piece) -> list[str]:
        made = {*ITEMS_COLUMNS, *(["text_parts"] if self.fields.text_parts is not None else [])}
        names = []
        for name in piece.names:
            moved = self.roles.get(name) in ("id_column", "image_column", "group_column")
            moved |= self.roles.get(name) == "text_column" and isinstance(self.fields.text_column, str)
            if self.keep_columns is not None and name not in self.keep_columns:
                continue
            if name in made:
                if name in self.roles or (
                    self.keep_columns is None and getattr(self.fields, f"{name}_column", "") is None
                ):
                    continue
                raise DataError(
                    f"the file's own column {name!r} would be hidden by the {name!r} made of other columns; rename it, "
                    "or leave it out with keep_columns",
                    file=piece.file,
                    field=name,
                )
            if not moved or self.keep_columns is not None:
                names.append(name)
        return names

    def _checked(self, piece: Piece, name: str, check: Callable[[Any], Any]) -> list[Any]:
        checked: list[Any] = []
        try:
            for value in piece.values(name):
                checked.append(check(value))
        except ValueError as error:
            if name not in self.seen:
                raise missing_column(name, self.roles[name], list(self.seen), piece.file) from None
            raise DataError(str(error), field=name, **piece.where(len(checked))) from None
        return checked

    def _texts(self, piece: Piece) -> tuple[list[str | None], list[Any]]:
        names = self.fields.text_sources
        texts: list[str | None] = []
        parts: list[Any] = []
        if not names:
            return [None] * len(piece), parts
        try:
            for values in zip(*(piece.values(name) for name in names), strict=True):
                text, some = self.fields.text_of(dict(zip(names, values, strict=True)))
                texts.append(text)
                parts.append(some)
        except ValueError as error:
            name, message = error.args
            raise DataError(message, field=name, **piece.where(len(texts))) from None
        return texts, parts

    def _images(self, piece: Piece) -> pa.Array:
        name = self.fields.image_column
        if name is None or name not in piece.names:
            return pa.nulls(len(piece), IMAGE_TYPE)
        if isinstance(piece, Columns):
            return self._image_column(piece, name)
        images: list[dict[str, Any] | None] = []
        for value in piece.values(name):
            where = {"field": name, **piece.where(len(images))}
            images.append(self._image(value, where))
        return pa.array(images, IMAGE_TYPE)

    def _image_column(self, piece: Columns, name: str) -> pa.Array:
        """The images of a columnar file; encoded bytes stay in Arrow's buffer."""
        column = piece.column(name).combine_chunks()
        kind = column.type
        data, paths = pa.nulls(len(column), pa.binary()), pa.nulls(len(column), pa.string())
        if pa.types.is_struct(kind) and {"bytes", "path"} >= {child.name for child in kind} and kind.num_fields:
            children = dict(zip([child.name for child in kind], column.flatten(), strict=True))
            data, paths = children.get("bytes", data), children.get("path", paths)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            paths = column
        elif not pa.types.is_null(kind):
            data = column
        try:
            data, values = data.cast(pa.binary()), paths.cast(pa.string()).to_pylist()
        except pa.ArrowException:
            message = f"found a column of {kind}, expected paths, bytes or {{'bytes', 'path'}}"
            raise DataError(message, file=piece.file, field=name) from None
        held = data.is_valid().to_pylist()
        empty = pc.index(pc.equal(pc.binary_length(data), 0), True).as_py()
        if empty >= 0:
            raise DataError("an image of 0 bytes; write null where there is no image", field=name, **piece.where(empty))
        # The name that comes along with bytes is only a name: no file of it is ever opened.
        resolved = [
            None if held[row] else (self._image(value, {"field": name, **piece.where(row)}) or {}).get("path")
            for row, value in enumerate(values)
        ]
        absent = pa.array([path is None and not held[row] for row, path in enumerate(resolved)])
        return pa.StructArray.from_arrays([data, pa.array(resolved, pa.string())], fields=list(IMAGE_TYPE), mask=absent)

    def _image(self, value: Any, where: dict[str, Any]) -> dict[str, Any] | None:
        if isinstance(value, dict):
            strays = sorted(set(value) - {"bytes", "path"})
            if strays:
                raise DataError(f"an image object with the keys {strays}; expected 'bytes' and 'path'", **where)
            if value.get("bytes") is not None:
                value = value["bytes"]
                if not isinstance(value, bytes):
                    raise DataError(f"'bytes' is {shown(value)}; a text file holds paths, parquet holds bytes", **where)
            else:
                value = value.get("path")
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, bytes):
            if not value:
                raise DataError("an image of 0 bytes; write null where there is no image", **where)
            return {"bytes": value, "path": None}
        if not isinstance(value, str):
            raise DataError(f"found {shown(value)}, expected the path of an image", **where)
        if _SCHEME.match(value):
            raise DataError(
                f"found the address {shown(value)}; nothing is downloaded: fetch the images first and give their paths",
                **where,
            )
        root = self.fields.image_root or self.roots.get(where["file"])
        if root is None:
            root = self.roots[where["file"]] = os.path.dirname(os.path.abspath(where["file"]))
        try:
            return {"bytes": None, "path": resolve_under(root, value)}
        except (ImageError, OSError) as error:
            raise DataError(f"{error} (image_root is {root!r}){_nearest_file(root, value)}", **where) from None

    def check_seen(self, file: str | None) -> None:
        """Every column that was asked for by a name of its own has been seen, and every default one not misspelt."""
        seen = list(self.seen)
        for name, role in self.roles.items():
            if name in self.seen:
                continue
            if name not in self.optional:
                raise missing_column(name, role, seen, file)
            free = [other for other in seen if other not in self.roles]
            close = nearest(name, free, cutoff=0.85)
            if close is not None and (self.keep_columns is None or close not in self.keep_columns):
                message = f"no such column, but {close!r}; pass {role}={close!r}, or {role}=None to read none"
                raise DataError(message, file=file, field=name)
        if self.fields.image_column not in self.seen and not set(self.fields.text_sources) & set(self.seen):
            hint = did_you_mean("text", seen) or did_you_mean("image", seen)
            message = (
                f"neither a text nor an image column; found {seen}{hint}; name one with text_column or image_column"
            )
            raise DataError(message, file=file, field="text")
        for name in self.keep_columns or ():
            if name not in self.seen:
                raise missing_column(name, "keep_columns", seen, file)


def _nearest_file(root: str, path: str) -> str:
    folder, name = os.path.split(os.path.join(root, path))
    if ".." in path.split("/") or os.path.isabs(path) or "\0" in path:
        return ""
    try:
        return did_you_mean(name, sorted(os.listdir(folder))[:20_000])
    except OSError:
        return ""
