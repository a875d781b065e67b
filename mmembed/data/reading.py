"""Files → ITEMS and PAIRS: which columns are what, every value checked where it stands."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from mmembed.data.item_fields import ItemFields, missing_column
from mmembed.data.schema import (
    IMAGE_FEATURE,
    IMAGE_TYPE,
    ITEMS_COLUMNS,
    PAIRS_COLUMNS,
    PAIRS_OPTIONAL_COLUMNS,
    PAIRS_TYPES,
    DataError,
    check_group,
    check_id,
    check_pair_row,
    did_you_mean,
    nearest,
    pairs_feature,
    place,
    shown,
)
from mmembed.data.sources import Columns, Piece, Rows, find_files, read_pieces, row_pieces
from mmembed.data.tables import ColumnFault, TableBuilder
from mmembed.images import ImageError, resolve_under

_SCHEME = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]*://|data:)")
_INTEGER = re.compile(r"^-?(?:0|[1-9]\d{0,17})$")
_DECIMAL = re.compile(r"^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,2})?$")
_PARTS_TYPE = pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float64())]))


def read_items(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    id_column: str = "id",
    text_column: str | Sequence[str] | None = "text",
    image_column: str | None = "image",
    group_column: str | None = "group",
    image_root: str | os.PathLike | None = None,
    text_template: str | None = None,
    text_parts: Mapping[str, float] | None = None,
    keep_columns: Sequence[str] | None = None,
    blank_text: str = "null",
) -> Dataset:
    """Read ITEMS from JSON lines, CSV, TSV, parquet or a folder that `Dataset.save_to_disk` wrote.

    Nothing is cast in silence: ids and groups are strings or integers (stored as strings), a text is a string or null,
    an attribute column has one type. Images are not decoded and nothing is downloaded; a path must lead to a file under
    `image_root`. In CSV an empty cell is null, and an attribute column becomes integers or floats only where every cell
    is one ("007" and 20-digit numbers stay strings); ids, texts and groups stay strings.

    Args:
        path: a file, a folder of files of one format, a saved dataset, a glob, or a list of these.
        id_column, text_column, image_column, group_column, image_root, text_template, text_parts, keep_columns,
            blank_text: which column is what; see `ItemFields`.

    Returns:
        ITEMS: `id`, `text`, `image`, `group`, `text_parts` where asked for, then the attribute columns. A table beyond
        one GiB is memory-mapped from a temporary folder (TMPDIR) that is removed when the process ends.

    Raises:
        DataError: naming the file, the line (or the row, from 0) and the field, what was found and what to do.
        ValueError: arguments that contradict each other.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "products.jsonl")
        >>> _ = file.write_text('{"nm": 7, "brand": "Palm", "title": "Red  skirt"}')
        >>> read_items(file, id_column="nm", text_template="{brand} {title}")[0]
        {'id': '7', 'text': 'Palm Red skirt', 'image': None, 'group': None, 'brand': 'Palm', 'title': 'Red  skirt'}
    """
    fields = ItemFields(
        id_column=id_column,
        text_column=text_column,
        image_column=image_column,
        group_column=group_column,
        image_root=None if image_root is None else os.fspath(image_root),
        text_template=text_template,
        text_parts=text_parts,
        keep_columns=keep_columns,
        blank_text=blank_text,
    )
    return _read(find_files(path), read_pieces, lambda: _ItemsMapper(fields))


def items_from_rows(rows: Iterable[tuple[int, dict[str, Any]]], *, source: str, fields: ItemFields) -> Dataset:
    """Make ITEMS of the rows that a format's own reader yields, with all of `read_items`' checks.

    Args:
        rows: (line, columns) of each row.
        source: the file they come from; its folder is the image root where `fields` gives none.
        fields: which column is what.

    Example:
        >>> items_from_rows([(1, {"id": 1, "text": "hat"})], source="a.txt", fields=ItemFields())["text"][:]
        ['hat']
    """
    return _read([source], lambda file: row_pieces(file, rows), lambda: _ItemsMapper(fields))


def read_pairs(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    query_id_column: str = "query_id",
    positive_ids_column: str = "positive_ids",
    negative_ids_column: str | None = "negative_ids",
    positive_scores_column: str | None = "positive_scores",
    negative_scores_column: str | None = "negative_scores",
    prompt_column: str | None = "prompt",
    keep_columns: Sequence[str] | None = None,
) -> Dataset:
    """Read PAIRS from the files that `read_items` reads.

    A list of ids is a list, never a string; in CSV it is a JSON array. The ids are checked against their ITEMS by
    `validate_pairs`.

    Args:
        path: a file, a folder of files of one format, a saved dataset, a glob, or a list of these.
        query_id_column: strings or integers; one row a query.
        positive_ids_column: lists of at least one id.
        negative_ids_column: lists; absent or null is an empty list. None reads none.
        positive_scores_column, negative_scores_column: lists of numbers, one an id; absent unless the file has them.
        prompt_column: strings; absent unless the file has it.
        keep_columns: other columns to keep; None says that there are none, and another column is an error.

    Returns:
        PAIRS.

    Raises:
        DataError: naming the file, the line (or the row, from 0) and the field, what was found and what to do.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "pairs.jsonl")
        >>> _ = file.write_text('{"query_id": "q", "positive_ids": [7]}')
        >>> read_pairs(file)[0]
        {'query_id': 'q', 'positive_ids': ['7'], 'negative_ids': []}
    """
    columns = {
        "query_id": query_id_column,
        "positive_ids": positive_ids_column,
        "negative_ids": negative_ids_column,
        "positive_scores": positive_scores_column,
        "negative_scores": negative_scores_column,
        "prompt": prompt_column,
    }
    return _read(find_files(path), read_pieces, lambda: _PairsMapper(columns, keep_columns))


def _read(files: list[str], pieces_of: Callable[[str], Iterable[Piece]], make_mapper: Callable[[], Any]) -> Dataset:
    builder, mapper = TableBuilder(), make_mapper()
    places: list[tuple[str, bool, array]] = []  # the file of each piece, whether it counts lines, and its positions
    for file in files:
        rows = 0
        for piece in pieces_of(file):
            if len(piece):
                builder.add(mapper.columns_of(piece, builder.types))
                places.append((file, isinstance(piece, Rows), piece.positions()))
                rows += len(piece)
        if not rows:
            raise DataError("no rows; the file is empty", file=file)
    mapper.check_seen(files[0] if len(files) == 1 else None)
    try:
        table = builder.finish(mapper.features(), mapper.numbers())
    except (ValueError, pa.ArrowException) as error:
        raise DataError(f"{error}; convert the column, or leave it out with keep_columns", file=files[0]) from None
    _check_unique(table, mapper.key, places)
    return table


def _check_unique(table: Dataset, key: str, places: list[tuple[str, bool, array]]) -> None:
    column = table.data[key]
    counts = pc.value_counts(column)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return
    first, second = np.flatnonzero(pc.equal(column, repeated[0]).to_numpy())[:2].tolist()
    where = []
    for row in (first, second):
        for file, is_line, positions in places:
            if row < len(positions):
                where.append({"file": file, "line" if is_line else "row": positions[row]})
                break
            row -= len(positions)
    earlier = place(**where[0]).rstrip(": ")
    raise DataError(
        f"{repeated[0].as_py()!r:.80} already stands at {earlier}; "
        + ("merge the two rows" if key == "query_id" else "give every row an id of its own"),
        field=key,
        **where[1],
    )


class _Mapper:
    """What reading ITEMS and reading PAIRS share: the columns seen, and the attribute columns."""

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
            if level == 2 and not _INTEGER.match(cell):
                level = 1
            # More than 15 digits would not come back from a float as they were written.
            if level == 1 and not (_DECIMAL.match(cell) and sum(map(str.isdigit, cell)) <= 17):
                return 0
    return level


class _ItemsMapper(_Mapper):
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
        self.optional = {"text"} & {fields.text_column if which == "text_column" else None}
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
        root = self.fields.image_root
        if root is None:
            root = os.path.dirname(os.path.abspath(where["file"]))
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


class _PairsMapper(_Mapper):
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
