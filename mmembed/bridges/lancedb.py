"""`Embeddings` ↔ LanceDB: write vectors and attributes into a table, and search it as an `Index` is searched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.bridges.store_rows import Condition, StoreBatch, StoreRows, checked_queries, conditions_of, schema_names
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.filters import FilterError


def write_lancedb(
    embeddings: Embeddings,
    database: str | os.PathLike | Any,
    table: str,
    *,
    items: Dataset | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = 8192,
    show_progress_bar: bool = True,
) -> int:
    """Write vectors into a LanceDB table, which is made where it is missing; an id that is there is replaced.

    Each batch is one transaction: an interrupted run leaves whole batches, and is simply repeated.

    Args:
        embeddings: n vectors.
        database: a folder or address, or what `lancedb.connect` gives.
        table: its name.
        items: ITEMS with the attributes, see `StoreRows`.
        columns: which of them; None sends all but the images.
        batch_size: rows a transaction; each makes a file.
        show_progress_bar: show one.

    Returns:
        How many rows the table has then.

    Raises:
        ImportError: Without mmembed[lancedb].
        DataError: The table holds other columns or vectors of another dimension, or as `StoreRows`.

    Example:
        >>> folder = str(getfixture("tmp_path"))
        >>> write_lancedb(Embeddings(["a", "b"], np.eye(2, dtype=np.float32)), folder, "mugs", show_progress_bar=False)
        2
        >>> search_lancedb(folder, "mugs", np.array([[1.0, 0.0]]), k=1)
        [{'a': 1.0}]
    """
    rows = StoreRows(embeddings, items, columns)
    vector = pa.field("vector", pa.list_(pa.float32(), rows.dim))
    schema = pa.schema([pa.field("id", pa.string()), vector, *rows.schema])
    connection = _connected(database)
    if table in _tables(connection):
        opened = connection.open_table(table)
        _check_schema(opened.schema, schema, table)
    else:
        opened = connection.create_table(table, schema=schema)
    with tqdm(total=len(rows), desc="lancedb", unit="row", disable=not show_progress_bar) as bar:
        for batch in rows.batches(batch_size):
            new = _arrow(batch, schema)
            if opened.count_rows():
                opened.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)
            else:
                opened.add(new)
            bar.update(len(batch.ids))
    return int(opened.count_rows())


def search_lancedb(
    database: str | os.PathLike | Any,
    table: str,
    queries: np.ndarray,
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> list[dict[str, float]]:
    """The best items of each query, in the form of `Index.search`.

    Args:
        database: as in `write_lancedb`.
        table: its name.
        queries: float (q, dim), of any length.
        k: how many items a query.
        filters: conditions on attributes, see `mmembed.search.filters.allowed_ids`; they hold before the search, so that
            k items are found where so many meet them.
        exact: pass over an index that the table has; a table without one is always searched whole.

    Returns:
        For each query its items' scores by id, best first.

    Raises:
        ImportError: Without mmembed[lancedb].
        DataError: No such table, or queries of another dimension.
        FilterError: A condition that cannot be meant.

    Example:
        >>> folder = str(getfixture("tmp_path"))
        >>> items = Dataset.from_dict({"id": ["a", "b"], "colour": ["red", "blue"]})
        >>> embeddings = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
        >>> write_lancedb(embeddings, folder, "mugs", items=items, show_progress_bar=False)
        2
        >>> search_lancedb(folder, "mugs", np.array([[1.0, 0.0]]), filters={"colour": "blue"})
        [{'b': 0.0}]
    """
    connection = _connected(database)
    if table not in _tables(connection):
        raise DataError("there is no such table; write one with write_lancedb", file=table)
    opened = connection.open_table(table)
    schema = opened.schema
    vectors = checked_queries(queries, schema.field("vector").type.list_size, k)
    where = _where(conditions_of(filters, [one for one in schema_names(schema) if one != "vector"]), schema)
    found = []
    for vector in vectors:
        # The vectors are of length 1, or zeros, which have no cosine: their inner product is the cosine.
        search = (
            opened.search(vector, vector_column_name="vector").distance_type("dot").limit(k).select(["id", "_distance"])
        )
        if where:
            search = search.where(where, prefilter=True)
        if exact:
            search = search.bypass_vector_index()
        hits = search.to_arrow()
        scores = 1.0 - hits["_distance"].to_numpy()
        found.append({one: float(score) for one, score in zip(hits["id"].to_pylist(), scores)})
    return found


def _connected(database: Any) -> Any:
    try:
        import lancedb
    except ImportError:
        raise ImportError("LanceDB needs its package: pip install 'mmembed[lancedb]'") from None
    return lancedb.connect(os.fspath(database)) if isinstance(database, (str, os.PathLike)) else database


def _tables(connection: Any) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = connection.list_tables(page_token=token)
        names += page.tables
        token = page.page_token
        if not token:
            return names


def _arrow(batch: StoreBatch, schema: pa.Schema) -> pa.Table:
    attributes = pa.Table.from_pylist(batch.attributes, schema=pa.schema(list(schema)[2:]))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), batch.vectors.shape[1])
    return pa.Table.from_arrays([pa.array(batch.ids, pa.string()), vectors, *attributes.columns], schema=schema)


def _check_schema(there: pa.Schema, wanted: pa.Schema, table: str) -> None:
    if "vector" in there.names and there.field("vector").type != wanted.field("vector").type:
        found, new = (getattr(schema.field("vector").type, "list_size", "?") for schema in (there, wanted))
        raise DataError(f"the table holds vectors of {found} numbers, and these have {new}; give another", file=table)
    if {field.name: field.type for field in there} != {field.name: field.type for field in wanted}:
        raise DataError(
            f"the table has the columns {_shown(there)}, and {_shown(wanted)} are to be written; give another table, or "
            "choose columns",
            file=table,
        )


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema if field.name != "vector")


def _where(conditions: list[Condition], schema: pa.Schema) -> str:
    """SQL that is met where all conditions are. Names come from the schema alone, and texts are quoted."""
    return " AND ".join(f"({_sql(one, _type(schema, one.name))})" for one in conditions)


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    outer, _, inner = name.partition(".")
    kind = schema.field(outer).type
    return kind.field(inner).type if inner else kind


def _sql(condition: Condition, kind: pa.DataType) -> str:
    column = ".".join(f"`{part}`" for part in condition.name.split("."))
    if condition.is_null:
        return f"{column} IS NULL"
    is_list = pa.types.is_list(kind)
    inner = kind.value_type if is_list else kind
    if condition.values is None:
        if is_list or not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
            raise FilterError(f"{condition.name}: a range on a column of {kind}; ranges are of numbers")
        ends = [f"{column} >= {condition.low!r}"] if condition.low is not None else []
        ends += [f"{column} <= {condition.high!r}"] if condition.high is not None else []
        return " AND ".join(ends) or f"{column} IS NOT NULL"
    literals = [_literal(condition.name, value, inner) for value in condition.values]
    if is_list:
        return " OR ".join(f"array_has({column}, {literal})" for literal in literals) or "false"
    return f"{column} IN ({', '.join(literals)})" if literals else "false"


def _literal(name: str, value: Any, kind: pa.DataType) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = (
        isinstance(value, bool)
        if pa.types.is_boolean(kind)
        else is_number
        if pa.types.is_integer(kind) or pa.types.is_floating(kind)
        else isinstance(value, str)
    )
    if not fits:
        raise FilterError(f"{name}: found {value!r:.60}, the column holds {kind}")
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
