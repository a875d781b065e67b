"""`Embeddings` ↔ Elasticsearch: write vectors and attributes into an index, and search it as an `Index` is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.bridges.store_rows import Condition, StoreRows, checked_queries, conditions_of
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

_MAX_ID_BYTES = 512
_MAX_DIM = 4096
_KEYWORD = {"type": "keyword", "ignore_above": 8191}  # Lucene takes no term of more than 32,766 bytes
_QUERIES_AT_ONCE = 64


def write_elasticsearch(
    embeddings: Embeddings,
    client: Elasticsearch,
    index: str,
    *,
    items: Dataset | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = 256,
    mappings: Mapping[str, Any] | None = None,
    show_progress_bar: bool = True,
) -> int:
    """Write vectors into an Elasticsearch index, which is made where it is missing; an id that is there is replaced.

    Documents have the item's id, its vector in `vector` (a dense_vector, compared by cosine) and its attributes: texts as
    keywords, for filters; the item's `text` as text, for words. A vector of zeros, which has no cosine, is left out of its
    document. Writing the same again changes nothing, so that an interrupted run is simply repeated.

    Args:
        embeddings: n vectors.
        client: `Elasticsearch(…)`.
        index: its name.
        items: ITEMS with the attributes, see `StoreRows`.
        columns: which of them; None sends all but the images.
        batch_size: documents a bulk request.
        mappings: properties that differ from the above, by name; used when the index is made.
        show_progress_bar: show one.

    Returns:
        How many documents were written.

    Raises:
        ImportError: Without mmembed[elasticsearch].
        DataError: An id of more than 512 bytes, vectors of more than 4,096 numbers, an index of another dimension, a
            document that was refused, or as `StoreRows`.

    Example:
        >>> from elasticsearch import Elasticsearch
        >>> write_elasticsearch(embeddings, Elasticsearch("http://127.0.0.1:9200"), "mugs")  # doctest: +SKIP
    """
    helpers = _helpers()
    rows = StoreRows(embeddings, items, columns)
    if rows.dim > _MAX_DIM:
        raise DataError(f"vectors of {rows.dim} numbers; Elasticsearch takes at most {_MAX_DIM}", file=index)
    for row, one in enumerate(embeddings.ids):
        if len(one.encode()) > _MAX_ID_BYTES:
            message = f"{one!r:.60}… has more than {_MAX_ID_BYTES} bytes, the longest id that Elasticsearch takes"
            raise DataError(message, file="embeddings", row=row, field="id")
    if client.indices.exists(index=index):
        _dim(client, index, rows.dim)
    else:
        client.indices.create(index=index, mappings={"properties": {**_properties(rows), **(mappings or {})}})
    written = 0
    with tqdm(total=len(rows), desc="elasticsearch", unit="document", disable=not show_progress_bar) as bar:
        for done, result in helpers.streaming_bulk(
            client, _actions(rows, index, batch_size), chunk_size=batch_size, max_retries=3, raise_on_error=False
        ):
            if not done:
                told = next(iter(result.values()))
                reason = told.get("error", told)
                raise DataError(f"document {told.get('_id')!r:.80} was refused: {str(reason)[:300]}", file=index)
            written += 1
            bar.update(1)
    client.indices.refresh(index=index)
    return written


def search_elasticsearch(
    client: Elasticsearch,
    index: str,
    queries: np.ndarray,
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    num_candidates: int | None = None,
) -> list[dict[str, float]]:
    """The best items of each query, in the form of `Index.search`.

    Args:
        client: as in `write_elasticsearch`.
        index: its name.
        queries: float (q, dim), of any length but zero.
        k: how many items a query.
        filters: conditions on attributes, see `mmembed.search.filters.allowed_ids`; they hold before the search. Null and
            an empty list are one to Elasticsearch.
        num_candidates: documents that each shard looks at; None: ten times k, at least 100 and at most 10,000.

    Returns:
        For each query its items' cosines by id, best first.

    Raises:
        ImportError: Without mmembed[elasticsearch].
        DataError: No such index, queries of another dimension or of zeros, or a search that failed.
        FilterError: A condition that cannot be meant.

    Example:
        >>> from elasticsearch import Elasticsearch
        >>> client = Elasticsearch("http://127.0.0.1:9200")
        >>> search_elasticsearch(client, "mugs", queries, filters={"colour": "blue"})  # doctest: +SKIP
        [{'b': 0.31}]
    """
    _helpers()
    if not client.indices.exists(index=index):
        raise DataError("there is no such index; write one with write_elasticsearch", file=index)
    dim, names = _dim(client, index, None)
    vectors = checked_queries(queries, dim, k)
    nothing = np.flatnonzero(~vectors.any(axis=1))
    if len(nothing):
        raise DataError("a query of zeros has no cosine", file="queries", row=int(nothing[0]))
    must = [_clause(one) for one in conditions_of(filters, names)]
    depth = num_candidates if num_candidates is not None else min(10_000, max(100, 10 * k))
    found: list[dict[str, float]] = []
    for start in range(0, len(vectors), _QUERIES_AT_ONCE):
        searches: list[dict[str, Any]] = []
        for vector in vectors[start : start + _QUERIES_AT_ONCE]:
            knn = {"field": "vector", "query_vector": vector.tolist(), "k": k, "num_candidates": max(k, depth)}
            searches += [{}, {"knn": {**knn, **({"filter": must} if must else {})}, "size": k, "_source": False}]
        for response in client.msearch(index=index, searches=searches)["responses"]:
            if "error" in response:
                raise DataError(f"the search failed: {str(response['error'])[:300]}", file=index)
            # Elasticsearch scores a cosine as (1 + cosine) / 2.
            found.append({hit["_id"]: 2.0 * hit["_score"] - 1.0 for hit in response["hits"]["hits"]})
    return found


def _helpers() -> Any:
    try:
        from elasticsearch import helpers
    except ImportError:
        raise ImportError("Elasticsearch needs its client: pip install 'mmembed[elasticsearch]'") from None
    return helpers


def _properties(rows: StoreRows) -> dict[str, Any]:
    """The mapping: what each field is."""
    vector = {"type": "dense_vector", "dims": rows.dim, "index": True, "similarity": "cosine"}
    found: dict[str, Any] = {"vector": vector}
    for field in rows.schema:
        found[field.name] = {"type": "text"} if field.name == "text" else _property(field.type)
    return found


def _property(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"properties": {inner.name: _property(inner.type) for inner in kind}}
    if pa.types.is_list(kind):  # a field may hold several values
        return _property(kind.value_type)
    if pa.types.is_boolean(kind):
        return {"type": "boolean"}
    if pa.types.is_integer(kind):
        return {"type": "long"}
    return {"type": "double"} if pa.types.is_floating(kind) else dict(_KEYWORD)


def _actions(rows: StoreRows, index: str, batch_size: int) -> Iterator[dict[str, Any]]:
    for batch in rows.batches(batch_size):
        for id, vector, attributes in zip(batch.ids, batch.vectors, batch.attributes):
            document = {**attributes, **({"vector": vector.tolist()} if vector.any() else {})}
            yield {"_op_type": "index", "_index": index, "_id": id, "_source": document}


def _dim(client: Elasticsearch, index: str, wanted: int | None) -> tuple[int, list[str]]:
    """The dimension of an index's vectors, and the attributes that a condition may name."""
    answers = client.indices.get_mapping(index=index)
    properties: dict[str, Any] = {}
    for answer in answers.values():  # an alias may stand for several
        properties.update(answer["mappings"].get("properties", {}))
    vector = properties.get("vector", {})
    if vector.get("type") != "dense_vector" or vector.get("similarity", "cosine") not in ("cosine", "dot_product"):
        raise DataError("the index has no field 'vector' that is compared by cosine; give another", file=index)
    size = vector.get("dims", wanted)
    if size is None or (wanted is not None and size != wanted):
        raise DataError(f"the index holds vectors of {size} numbers, and these have {wanted}; give another", file=index)
    names: list[str] = []
    for name, about in properties.items():
        if "properties" in about:
            names += [f"{name}.{inner}" for inner in about["properties"]]
        elif about.get("type") not in ("dense_vector", "text"):
            names.append(name)
    return size, names


def _clause(condition: Condition) -> dict[str, Any]:
    if condition.is_null:
        return {"bool": {"must_not": {"exists": {"field": condition.name}}}}
    if condition.values is None:
        ends = {"gte": condition.low, "lte": condition.high}
        return {"range": {condition.name: {name: end for name, end in ends.items() if end is not None}}}
    return {"terms": {condition.name: condition.values}}
