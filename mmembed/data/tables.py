"""Python values → typed Arrow columns → a `Dataset`, in bounded memory and with no type cast in silence."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, DatasetInfo, Features, concatenate_datasets
from datasets.table import InMemoryTable, MemoryMappedTable

from mmembed.data.schema import check_characters, shown

MAX_DEPTH = 32
MAX_KEYS = 1000
IN_MEMORY_BYTES = 1 << 30
_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}


class ColumnFault(ValueError):
    """A value at `index` of a column that cannot stand there; the caller knows the line and the field."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class TypeConflict(ColumnFault):
    """Two types of which no column can hold both."""

    def __init__(self, earlier: pa.DataType, found: pa.DataType) -> None:
        self.earlier = str(earlier) if len(str(earlier)) < 60 else f"{str(earlier)[:60]}…"
        super().__init__(f"found {found} where earlier rows hold {self.earlier}")


def infer_type(values: Sequence[Any], depth: int = 0) -> pa.DataType:
    """The one Arrow type that holds every value as it is, or ColumnFault.

    Integers beside floats make floats, objects make a struct of the keys of all of them; nothing else is mixed.

    Example:
        >>> infer_type([1, None, 2.5])
        DataType(double)
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.null()
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1:
        raise ColumnFault(f"values of several types, {' and '.join(sorted(kind.__name__ for kind in kinds))}")
    kind = kinds.pop()
    if kind is int and not all(-(1 << 63) <= value < 1 << 63 for value in values if value is not None):
        raise ColumnFault("an integer of more than 64 bits; write it as a string")
    if kind in _SCALARS:
        return _SCALARS[kind]
    if depth == MAX_DEPTH:
        raise ColumnFault(f"lists and objects nested more than {MAX_DEPTH} deep; flatten the column")
    if kind is list:
        return pa.list_(infer_type([one for value in values if value is not None for one in value], depth + 1))
    if kind is dict:
        by_key: dict[str, list[Any]] = defaultdict(list)
        for value in values:
            if value is not None:
                for key, one in value.items():
                    by_key[key].append(one)
        return _struct({check_characters(key): infer_type(some, depth + 1) for key, some in by_key.items()})
    raise ColumnFault(f"values of type {kind.__name__}, which a table cannot hold")


def _struct(types: dict[str, pa.DataType]) -> pa.DataType:
    if len(types) > MAX_KEYS:
        raise ColumnFault(f"objects of more than {MAX_KEYS} different keys; write them as a list of {{key, value}}")
    return pa.struct(list(types.items()))


def merge_types(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds what either holds, or ColumnFault; it never makes a text of a number."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    if _is_list(first) and _is_list(second):
        return pa.list_(merge_types(first.value_type, second.value_type))
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        types = {field.name: field.type for field in first}
        for field in second:
            types[field.name] = merge_types(types[field.name], field.type) if field.name in types else field.type
        return _struct(types)
    for is_kind in (_is_text, _is_number, _is_binary):
        if is_kind(first) and is_kind(second):
            # Arrow's own promotion of integers to wider ones and floats, and of strings to large strings.
            schemas = [pa.schema([("column", kind)]) for kind in (first, second)]
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    raise TypeConflict(first, second)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def typed_column(values: list[Any], so_far: pa.DataType) -> tuple[pa.Array | pa.ChunkedArray, pa.DataType]:
    """The values as an Arrow column, and the column's type with the rows so far; ColumnFault names the first bad value."""
    try:
        kind = infer_type(values)
        merged = merge_types(so_far, kind)
        return pa.array(values, type=kind), merged
    except (ValueError, OverflowError, pa.ArrowException) as error:
        first_error = error
    # The whole column failed at once; one value after the other finds the first that does not fit.
    for index, value in enumerate(values):
        try:
            kind = infer_type([value])
            so_far = merge_types(so_far, kind)
            pa.array([value], type=so_far)
        except TypeConflict as conflict:
            reason = f"where earlier rows hold {conflict.earlier}; make the column one type"
        except UnicodeEncodeError:
            reason = "a lone surrogate in it, half of a character; remove it"
        except (ValueError, OverflowError, pa.ArrowException) as error:
            reason = f": {str(error).splitlines()[0]}"
        else:
            continue
        raise ColumnFault(
            f"found {shown(value)} {reason}, or leave it out with keep_columns".replace(" : ", ": "), index
        )
    raise ColumnFault(str(first_error).splitlines()[0])


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with a dictionary (a pandas categorical) written out as its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


class TableBuilder:
    """Collects tables whose columns may differ and widen, and makes one `Dataset` of them.

    Up to `in_memory_bytes` it lies in memory. Beyond, it goes to Arrow files in a temporary folder, from which the
    Dataset is memory-mapped; the folder (TMPDIR says where) is removed when the process ends.

    Args:
        in_memory_bytes: how much to hold before writing to disk.
    """

    def __init__(self, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self.in_memory_bytes = in_memory_bytes
        self.types: dict[str, pa.DataType] = {}
        self.num_rows = 0
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self._folder: str | None = None
        self._parts: list[str] = []

    def add(self, columns: dict[str, pa.Array | pa.ChunkedArray]) -> None:
        """Append rows; a column that earlier or later rows lack is null there."""
        table = pa.table(columns)
        for field in table.schema:
            self.types[field.name] = merge_types(self.types.get(field.name, pa.null()), field.type)
        self._tables.append(table)
        self.num_rows += table.num_rows
        self._bytes += table.nbytes
        if self._bytes > self.in_memory_bytes:
            self._write_part(pa.schema(list(self.types.items())))

    def finish(self, features: dict[str, Any], numbers: dict[str, pa.DataType] | None = None) -> Dataset:
        """Make the Dataset.

        Args:
            features: the feature of each column whose Arrow type does not say it all, and the order of the first ones.
            numbers: the type of each column of strings that are all numbers.
        """
        types = {**self.types, **(numbers or {})}
        order = [name for name in features if name in types] + [name for name in types if name not in features]
        inferred = Features()
        for name in order:
            try:
                feature = features.get(name) or Features.from_arrow_schema(pa.schema([(name, types[name])]))[name]
            except (ValueError, NotImplementedError) as error:
                raise ColumnFault(f"column {name!r}: {error}") from None
            inferred[name] = feature
        target = inferred.arrow_schema
        info = DatasetInfo(features=inferred)
        if not self._parts:
            # One after the other, so that never all of the rows stand in memory twice.
            conformed = []
            while self._tables:
                conformed.append(_conform(self._tables.pop(0), target))
            table = pa.concat_tables(conformed) if conformed else target.empty_table()
            return Dataset(InMemoryTable(table), info=info, fingerprint=_fingerprint(table))
        if self._tables:
            self._write_part(target)
        for path in self._parts:
            with pa.memory_map(path) as source, pa.ipc.open_stream(source) as stream:
                if stream.schema.equals(target):
                    continue
                with pa.ipc.new_stream(path + ".new", target) as sink:
                    for batch in stream:
                        sink.write_table(_conform(pa.Table.from_batches([batch]), target))
            os.replace(path + ".new", path)
        return concatenate_datasets([Dataset(MemoryMappedTable.from_file(path), info=info) for path in self._parts])

    def _write_part(self, schema: pa.Schema) -> None:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="mmembed-items-")
            atexit.register(_remove, self._folder, os.getpid())
        path = os.path.join(self._folder, f"part-{len(self._parts):05d}.arrow")
        with pa.ipc.new_stream(path, schema) as sink:
            for table in self._tables:
                sink.write_table(_conform(table, schema))
        self._parts.append(path)
        self._tables, self._bytes = [], 0


def _fingerprint(table: pa.Table) -> str:
    """What `datasets` makes of a pickled copy of the whole table, made piece by piece."""
    state = xxhash.xxh3_64(table.schema.serialize())
    for batch in table.to_batches():
        state.update(batch.serialize())
    return state.hexdigest()


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked worker
        shutil.rmtree(folder, ignore_errors=True)


def _conform(table: pa.Table, target: pa.Schema) -> pa.Table:
    columns = []
    for field in target:
        if field.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
        else:
            column = table[field.name]
            columns.append(column if column.type.equals(field.type) else pc.cast(column, field.type))
    return pa.Table.from_arrays(columns, schema=target)
