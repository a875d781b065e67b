"""`Embeddings` ↔ Qdrant: write vectors and attributes into a collection, and search it as an `Index` is searched."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.bridges.store_rows import Condition, StoreRows, checked_queries, conditions_of
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Qdrant's own ids are numbers or UUIDs; a UUID of the id in this namespace is the same in every run.
_NAMESPACE = uuid.UUID("0f7f6a0e-5d0c-5b8e-9f2a-6d6d656d6264")
_QUERIES_AT_ONCE = 64


def write_qdrant(
    embeddings: Embeddings,
    client: QdrantClient,
    collection: str,
    *,
    items: Dataset | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = 256,
    resume: bool = False,
    show_progress_bar: bool = True,
) -> int:
    """Write vectors into a Qdrant collection, which is made where it is missing; an id that is there is replaced.

    A point's id is a UUID made of the item's id, which itself stands in the payload beside the attributes. Writing the same
    again changes nothing, so that an interrupted run is simply repeated.

    Args:
        embeddings: n vectors.
        client: `QdrantClient(url=…)`, `QdrantClient(path=…)` or `QdrantClient(":memory:")`.
        collection: its name.
        items: ITEMS with the attributes, see `StoreRows`.
        columns: which of them; None sends all but the images.
        batch_size: points a request.
        resume: leave out ids that are there already, instead of replacing them.
        show_progress_bar: show one.

    Returns:
        How many points were written.

    Raises:
        ImportError: Without mmembed[qdrant].
        DataError: The collection holds vectors of another dimension or metric, or as `StoreRows`.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> client = QdrantClient(":memory:")
        >>> write_qdrant(Embeddings(["a", "b"], np.eye(2, dtype=np.float32)), client, "mugs", show_progress_bar=False)
        2
        >>> search_qdrant(client, "mugs", np.array([[1.0, 0.0]]), k=1)
        [{'a': 1.0}]
    """
    models = _models()
    rows = StoreRows(embeddings, items, columns)
    if client.collection_exists(collection):
        _dim(client, collection, rows.dim)
    else:
        # The vectors are of length 1, or zeros, which have no cosine: their inner product is the cosine.
        params = models.VectorParams(size=rows.dim, distance=models.Distance.DOT)
        client.create_collection(collection, vectors_config=params)
    written = 0
    with tqdm(total=len(rows), desc="qdrant", unit="point", disable=not show_progress_bar) as bar:
        for batch in rows.batches(batch_size):
            points = [point_id(one) for one in batch.ids]
            there = set()
            if resume:
                there = {str(one.id) for one in client.retrieve(collection, points, with_payload=False)}
            new = [row for row, point in enumerate(points) if point not in there]
            if new:
                client.upload_collection(
                    collection,
                    vectors=batch.vectors[new],
                    payload=[{"id": batch.ids[row], **batch.attributes[row]} for row in new],
                    ids=[points[row] for row in new],
                    batch_size=batch_size,
                    wait=True,
                )
            written += len(new)
            bar.update(len(batch.ids))
    return written


def search_qdrant(
    client: QdrantClient,
    collection: str,
    queries: np.ndarray,
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> list[dict[str, float]]:
    """The best items of each query, in the form of `Index.search`.

    Args:
        client: as in `write_qdrant`.
        collection: its name.
        queries: float (q, dim), of any length.
        k: how many items a query.
        filters: conditions on attributes, see `mmembed.search.filters.allowed_ids`.
        exact: compare every point, where the server would go through its graph; the embedded modes always do.

    Returns:
        For each query its items' scores by id, best first.

    Raises:
        ImportError: Without mmembed[qdrant].
        DataError: No such collection, or queries of another dimension.
        FilterError: A condition that cannot be meant.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> client = QdrantClient(":memory:")
        >>> items = Dataset.from_dict({"id": ["a", "b"], "colour": ["red", "blue"]})
        >>> embeddings = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
        >>> write_qdrant(embeddings, client, "mugs", items=items, show_progress_bar=False)
        2
        >>> search_qdrant(client, "mugs", np.array([[1.0, 0.0]]), filters={"colour": "blue"})
        [{'b': 0.0}]
    """
    models = _models()
    if not client.collection_exists(collection):
        raise DataError("there is no such collection; write one with write_qdrant", file=collection)
    vectors = checked_queries(queries, _dim(client, collection, None), k)
    condition = _filter(conditions_of(filters, _attributes(client, collection) if filters else None))
    found: list[dict[str, float]] = []
    for start in range(0, len(vectors), _QUERIES_AT_ONCE):
        requests = [
            models.QueryRequest(
                query=vector.tolist(),
                limit=k,
                filter=condition,
                with_payload=["id"],
                params=models.SearchParams(exact=exact),
            )
            for vector in vectors[start : start + _QUERIES_AT_ONCE]
        ]
        for response in client.query_batch_points(collection, requests):
            found.append({point.payload["id"]: float(point.score) for point in response.points if point.payload})
    return found


def point_id(id: str) -> str:
    """The UUID under which Qdrant keeps an item.

    Args:
        id: the item's id.

    Returns:
        A version 5 UUID, the same for the same id everywhere and always.

    Example:
        >>> point_id("sku-1")
        '771892ef-b363-5022-b8eb-26a013da8936'
    """
    return str(uuid.uuid5(_NAMESPACE, id))


def _models() -> Any:
    try:
        from qdrant_client import models
    except ImportError:
        raise ImportError("Qdrant needs its client: pip install 'mmembed[qdrant]'") from None
    return models


def _dim(client: QdrantClient, collection: str, wanted: int | None) -> int:
    """The dimension of a collection that holds one vector a point, compared by cosine or inner product."""
    params = client.get_collection(collection).config.params.vectors
    size, distance = getattr(params, "size", None), getattr(params, "distance", None)
    if size is None or str(getattr(distance, "value", distance)) not in ("Dot", "Cosine"):
        raise DataError(
            "the collection holds several vectors a point, or compares them by another distance than Dot or Cosine; "
            "give another collection",
            file=collection,
        )
    if wanted is not None and size != wanted:
        raise DataError(
            f"the collection holds vectors of {size} numbers, and these have {wanted}; give another", file=collection
        )
    return size


def _attributes(client: QdrantClient, collection: str) -> list[str]:
    """What a condition may name: the payload of a point has every attribute, null or not."""
    points, _ = client.scroll(collection, limit=1, with_payload=True)
    names: list[str] = []
    for name, value in (points[0].payload or {}).items() if points else ():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    return names


def _filter(conditions: list[Condition]) -> Any:
    models = _models()
    must = []
    for one in conditions:
        if one.is_null:
            must.append(models.IsNullCondition(is_null=models.PayloadField(key=one.name)))
        elif one.values is None:
            bounds = models.Range(gte=one.low, lte=one.high)
            must.append(models.FieldCondition(key=one.name, range=bounds))
        else:
            any_of = [models.FieldCondition(key=one.name, **_equals(models, value)) for value in one.values]
            must.append(models.Filter(should=any_of))
    return models.Filter(must=must) if must else None


def _equals(models: Any, value: Any) -> dict[str, Any]:
    # A number that the column holds as another kind of number is equal only within a range.
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"range": models.Range(gte=value, lte=value)}
    return {"match": models.MatchValue(value=value)}
