"""What does compression cost this very search? One search in several indexes of the same vectors, each with its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mmembed.embeddings import Embeddings
from mmembed.search.index import Index
from mmembed.search.vector_stage import ExactVectors, VectorIndex

#: What vectors are compressed to at the start, from the finest on.
COMPRESSED: dict[str, dict[str, Any]] = {
    "int8": {"kind": "flat", "precision": "int8"},
    "binary": {"kind": "binary", "rescore": "int8"},
}
_FINENESS = {"float32": 32, "float16": 16, "int8": 8, "signs": 1}
_TIMES, _SHORT = 5, 0.05  # searches, seconds
_NUMBERS = 400_000_000  # that are copied to be compressed: 1.6 GB


@dataclass(frozen=True)
class Compared:
    """One index in one search.

    Args:
        name: of the index.
        seconds: that the search took; of a short one the median of five.
        same: of the first k that the first index finds, how many this one finds among its own.
        of: k.
        memory_bytes: of a vector, that a search holds in memory; None where it is not known.
        mapped_bytes: of a vector, in a file.
    """

    name: str
    seconds: float
    same: int
    of: int
    memory_bytes: float | None
    mapped_bytes: float


class ComparedVectors:
    """An index that searches several, gives the results of one and remembers what all of them did.

    Args:
        indexes: by name; the first is what the others are compared with.
        chosen: whose results are given.

    Example:
        >>> exact = ExactVectors(Embeddings(["a", "b"], np.eye(2, dtype=np.float32)))
        >>> compared = ComparedVectors({"float32": exact}, "float32")
        >>> compared.search(np.eye(2, dtype=np.float32)[:1], 1), compared.told(1)[0].same
        ([{'a': 1.0}], 1)
    """

    def __init__(self, indexes: Mapping[str, VectorIndex], chosen: str) -> None:
        self.indexes, self.chosen = dict(indexes), chosen
        self.forget()

    def forget(self) -> None:
        """Begin anew to remember."""
        self.found: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}  # of the last search
        self.spent = 0.0  # in all searches together

    def search(
        self, queries: np.ndarray, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """As of `VectorIndex`."""
        results: list[dict[str, float]] = []
        for name, index in self.indexes.items():
            times: list[float] = []
            # a short search is timed several times, as a busy machine makes one time of it worth little
            while not times or (len(times) < _TIMES and sum(times) < _SHORT):
                began = time.perf_counter()
                found = index.search(queries, k, allowed=allowed)
                times.append(time.perf_counter() - began)
            self.seconds[name] = statistics.median(times)
            self.spent += sum(times)
            self.found[name] = list(found[0]) if found else []
            if name == self.chosen:
                results = found
        return results

    @property
    def has_vectors(self) -> bool:
        """Whether the first index gives its items' vectors."""
        first = next(iter(self.indexes.values()))
        return isinstance(first, ExactVectors) or hasattr(first, "vectors")

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors of items, as fine as the first index has them: float32 (len(ids), dim)."""
        first: Any = next(iter(self.indexes.values()))
        if isinstance(first, ExactVectors):
            return np.asarray(first.embeddings.vectors[first.embeddings.rows(ids)], dtype=np.float32)
        return np.asarray(first.vectors(ids))

    def told(self, k: int) -> list[Compared]:
        """What the indexes did in the last search.

        Args:
            k: how many of the first are compared.
        """
        first = next(iter(self.found.values()), [])[:k]
        return [
            Compared(
                name,
                self.seconds[name],
                len(set(first) & set(self.found[name][:k])),
                len(first),
                *_bytes(self.indexes[name]),
            )
            for name in self.found
        ]


def indexes_of(
    index: VectorIndex | None,
    vectors: Embeddings | None,
    wanted: Sequence[str] = tuple(COMPRESSED),
    *,
    show_progress_bar: bool = False,
) -> dict[str, VectorIndex]:
    """The index that is there, and what can be compressed further from what it holds.

    Args:
        index: an index, or None for an exact search of the vectors.
        vectors: whole vectors; without them those that an `Index` holds are compressed.
        wanted: names of `COMPRESSED`.
        show_progress_bar: show one.

    Returns:
        Indexes by name, the given one first; it alone where nothing finer than what is wanted is held, or where the vectors
        are too many to be copied into memory.

    Raises:
        ImportError: FAISS is not installed, and something is to be compressed.

    Example:
        >>> vectors = Embeddings([f"{row}" for row in range(16)], np.eye(16, dtype=np.float32))
        >>> list(indexes_of(None, vectors)), list(indexes_of(Index.build(vectors, kind="binary"), None))
        (['float32', 'int8', 'binary'], ['binary'])
    """
    held, fineness = vectors, 32
    if isinstance(index, Index):
        fineness = _fineness(index) if vectors is None else 32
        first: VectorIndex = index
        name = _name(index)
    elif index is not None:
        first, name = index, "as indexed"
    elif vectors is not None:
        first, name = ExactVectors(vectors), "float32"
    else:
        return {}
    found = {name: first}
    kept = [one for one in wanted if {"int8": 8, "binary": 1}[one] < fineness and one not in found]
    if held is None and isinstance(index, Index) and kept and len(index) * index.dim <= _NUMBERS:
        if index.settings.truncate_dim is None or index.settings.rescore:
            held = Embeddings(index.ids, index.vectors(index.ids))
    if held is None or not len(held) or held.vectors.shape[0] * held.vectors.shape[1] > _NUMBERS:
        return found
    for one in tqdm(kept, desc="compress", unit="index", disable=not show_progress_bar):
        found[one] = Index.build(held, **COMPRESSED[one])
    return found


def _name(index: Index) -> str:
    """Short for what `COMPRESSED` has too, else the settings."""
    settings = index.settings
    if settings.kind == "flat" and settings.truncate_dim is None and not settings.rescore:
        return settings.precision or "float32"
    if settings.kind == "binary" and settings.truncate_dim is None:
        return "binary"
    return str(settings)


def _fineness(index: Index) -> int:
    settings = index.settings
    if settings.rescore:
        return _FINENESS[settings.rescore]
    return {"binary": 1, "pq": 1, "ivf_pq": 1}.get(settings.kind, _FINENESS[settings.precision or "float32"])


def _bytes(index: Any) -> tuple[float | None, float]:
    if isinstance(index, Index):
        return index.bytes_per_vector()
    if isinstance(index, ExactVectors):
        vectors = index.embeddings.vectors
        return float(vectors.shape[1] * vectors.dtype.itemsize), 0.0
    return None, 0.0
