"""In which order does a pair scorer put the best candidates of each query?"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, Features, Value
from PIL import Image
from sentence_transformers import CrossEncoder

from mmembed.data.schema import IMAGE_FEATURE
from mmembed.encode import reader_of
from mmembed.images import ImageReader
from mmembed.rerankers.reranking import Use, rerank
from mmembed.search.queries import Query


def rerank_candidates(
    model: CrossEncoder,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[str]],
    items: Dataset,
    rows: Callable[[Sequence[str]], list[int]],
    *,
    use: Use = "text",
    query_use: Use | None = None,
    reader: Any = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> list[dict[str, float]]:
    """Score each query's candidates with `mmembed.rerankers.reranking.rerank`.

    Args:
        model: any `CrossEncoder` with one score a pair.
        queries: q queries; one that lacks what is read of queries is left as it is.
        candidates: for each query ids, best first.
        items: ITEMS of all documents.
        rows: the row of each of some ids in it.
        use: what of a document is read.
        query_use: what of a query is read: "text", "image", or "fused" for whatever it has; None: as of documents.
        reader: reads the documents' images; None reads below the folder that the candidates' paths have in common.
        prompt: put before each query.
        batch_size: pairs a forward pass.

    Returns:
        For each query its candidates' scores by id, best first; empty where it was left as it is.
    """
    asked_use = use if query_use is None else query_use
    readable = [
        number
        for number, query in enumerate(queries)
        if candidates[number] and (asked_use == "fused" or getattr(query, asked_use) is not None)
    ]
    wanted = list(dict.fromkeys(id for number in readable for id in candidates[number]))
    documents = items.select(rows(wanted))
    if use != "text" and reader is None:
        reader = reader_of(documents) if "image" in documents.column_names else ImageReader()
    found = rerank(
        model,
        {str(number): list(candidates[number]) for number in readable},
        _as_items({str(number): queries[number] for number in readable}, asked_use),
        documents,
        query_use=asked_use,
        document_use=use,
        reader=reader or ImageReader(),
        prompt=prompt,
        batch_size=batch_size,
    )
    return [found.get(str(number), {}) for number in range(len(queries))]


def _as_items(queries: dict[str, Query], use: Use) -> Dataset:
    features = {"id": Value("string"), "text": Value("string"), "image": IMAGE_FEATURE}
    rows = {
        "id": list(queries),
        "text": [query.text for query in queries.values()],
        "image": [
            None if query.image is None or use == "text" else {"bytes": _png(query.image), "path": None}
            for query in queries.values()
        ],
    }
    return Dataset.from_dict(rows, features=Features(features))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
