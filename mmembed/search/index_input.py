"""Are these ids, vectors and queries what an index can take? Asked before anything is changed or compared."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from mmembed.data.schema import DataError, check_id, shown
from mmembed.embeddings import DTYPES, check_unit_length
from mmembed.search.quantization import of_unit_length

#: What of the embeddings' manifest says what made them.
MADE_BY = ("model", "model_fingerprint", "revision", "use", "prompt")


def checked_queries(queries: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Queries of length 1.

    Args:
        queries: float (q, one of the widths), of any length.
        widths: dimensions that are taken, the usual one first.

    Returns:
        float32 (q, dim); a query of zeros stays one.

    Raises:
        DataError: another shape or dtype, or NaN or infinity.
    """
    given = np.asarray(queries)
    if given.ndim != 2 or given.shape[1] not in widths or given.dtype.kind != "f":
        message = f"found {given.dtype} {given.shape}, expected floats (q, {widths[0]}): a row a query"
        raise DataError(message, file="queries")
    wrong = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(wrong):
        raise DataError("a query with NaN or infinity", file="queries", row=int(wrong[0]))
    return of_unit_length(given)


def checked_additions(ids: Sequence[str], vectors: np.ndarray, dim: int, known: Container[str]) -> np.ndarray:
    """Vectors that may be added under these ids.

    Args:
        ids: (n,).
        vectors: float32 or float16 (n, dim).
        dim: of the index.
        known: ids that it has.

    Returns:
        float32 (n, dim).

    Raises:
        DataError: not one id a vector, an id that is none, is known or stands twice, or vectors of another shape or length.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or str(vectors.dtype) not in DTYPES or vectors.shape[1] != dim:
        message = f"found {vectors.dtype} {vectors.shape}, the index holds (n, {dim}) of {' or '.join(DTYPES)}"
        raise DataError(message, file="vectors")
    if isinstance(ids, str) or len(ids) != len(vectors):
        raise DataError(f"{len(ids)} ids for {len(vectors)} vectors; give one id a vector", file="vectors")
    check_ids(ids)
    seen: set[str] = set()
    for row, one in enumerate(ids):
        if one in known or one in seen:
            message = f"id {one!r} is in the index already, or stands twice; remove it first"
            raise DataError(message, file="vectors", row=row, field="id")
        seen.add(one)
    check_unit_length(vectors, "vectors")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def check_ids(ids: Sequence[object]) -> None:
    """Raise a DataError at the first that is no id."""
    for row, one in enumerate(ids):
        try:
            if not isinstance(one, str):
                raise ValueError(f"found {shown(one)}, expected a string")
            check_id(one)
        except ValueError as error:
            raise DataError(str(error), file="vectors", row=row, field="id") from None


def check_made_by_the_same(about: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Raise a DataError where vectors' manifest says that something else made them than the vectors of the index."""
    for field in MADE_BY:
        known, found = about.get(field), manifest.get(field)
        if known is not None and found != known:
            message = f"the vectors are of {found!r}, those of the index of {known!r}; encode them with the same"
            raise DataError(message, file="vectors", field=field)
