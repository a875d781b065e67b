"""Where a search reads its vectors: by blocks and by rows, from memory or from files, of one model or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mmembed.embeddings import Embeddings, ShardedVectors, read_rows


class Rows(Protocol):
    """What a search compares queries with: n vectors that are read by blocks and by rows, wherever they lie."""

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1, or as many as there are: float32 (stop − start, dim)."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """These rows: float32 (len(rows), dim)."""


class VectorRows:
    """Rows of one or several arrays, side by side, as float32 blocks.

    Several arrays are the vectors of several models for the same items: the inner product of two rows is then the sum of
    the models' inner products, so that a search over these rows is exact for the sum.

    A block of a memory-mapped file is read, not mapped: of a file of any size no more than a block is resident.

    Args:
        arrays: each (rows, its dim), float32 or float16.
        rows: for each array the int64 (n,) rows that are meant, or None for all of them in order.
        scales: for each array what its vectors are multiplied by; 1 when None.

    Example:
        >>> vectors = VectorRows([np.eye(2, dtype=np.float32)], [np.array([1, 0])])
        >>> len(vectors), vectors.block(0, 1).tolist(), vectors.take(np.array([1])).tolist()
        (2, [[0.0, 1.0]], [[1.0, 0.0]])
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray | ShardedVectors],
        rows: Sequence[np.ndarray | None] | None = None,
        scales: Sequence[float] | None = None,
    ) -> None:
        self.arrays = list(arrays)
        self.rows = [
            None if _in_order(some, array) else some for some, array in zip(rows or [None] * len(arrays), arrays)
        ]
        self.scales = list(scales or [1.0] * len(arrays))
        lengths = {len(array) if some is None else len(some) for array, some in zip(self.arrays, self.rows)}
        if len(lengths) != 1:
            raise ValueError(f"arrays of {sorted(lengths)} rows; give the same items for each model")
        self.length = lengths.pop()
        self._dim = sum(array.shape[1] for array in self.arrays)

    @property
    def dim(self) -> int:
        """Numbers of a row, those of all arrays together."""
        return self._dim

    def __len__(self) -> int:
        return self.length

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1: float32 (stop − start, dim)."""
        stop = min(stop, self.length)
        parts = [
            read_rows(array, start, stop) if some is None else array[some[start:stop]]
            for array, some in zip(self.arrays, self.rows)
        ]
        return self._joined(parts)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """These rows: float32 (len(rows), dim)."""
        return self._joined(
            [array[rows if some is None else some[rows]] for array, some in zip(self.arrays, self.rows)]
        )

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        scaled = [np.ascontiguousarray(part, dtype=np.float32) for part in parts]
        scaled = [part if scale == 1 else part * np.float32(scale) for part, scale in zip(scaled, self.scales)]
        return scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=1)


Vectors = Embeddings | np.ndarray | ShardedVectors | Rows


def as_rows(vectors: Vectors) -> Rows:
    """Vectors of any kind as rows that a search reads."""
    if isinstance(vectors, Embeddings):
        return VectorRows([vectors.vectors])
    return VectorRows([vectors]) if isinstance(vectors, (np.ndarray, ShardedVectors)) else vectors


def _in_order(rows: np.ndarray | None, array: np.ndarray | ShardedVectors) -> bool:
    return rows is None or (len(rows) == len(array) and bool((rows == np.arange(len(rows))).all()))
