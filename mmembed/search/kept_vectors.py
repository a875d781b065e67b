"""Which whole vectors are kept beside an index, to score its best candidates by?"""

from __future__ import annotations

import tempfile

import numpy as np

from mmembed.embeddings import ShardedVectors
from mmembed.search.quantization import Calibration
from mmembed.search.vectors import Rows

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
_FLOATS_A_BLOCK = 2**22
_BYTES_IN_MEMORY = 2**27


class KeptVectors:
    """Rows of whole vectors in "float32", "float16" or "int8", in memory or in a file.

    A row is the number of a vector in the index. Rows that are taken out stay where they lie until the index is saved.

    Args:
        parts: arrays (rows, dim) of the precision's dtype, one after the other.
        precision: what the numbers are.
        calibration: what int8 stands for.
    """

    def __init__(
        self, parts: list[np.ndarray | ShardedVectors], precision: str, calibration: Calibration | None = None
    ) -> None:
        self.precision = precision
        self.calibration = calibration
        self._arrays: list[np.ndarray] = []
        for part in parts:
            self._arrays += part.shards if isinstance(part, ShardedVectors) else [part]
        self._stored = ShardedVectors(self._arrays)
        self._rows: np.ndarray | None = None  # int64 (n,) where rows were taken out

    @classmethod
    def of(
        cls,
        vectors: Rows,
        precision: str,
        *,
        calibration: Calibration | None = None,
        stored: np.ndarray | ShardedVectors | None = None,
    ) -> KeptVectors:
        """Keep vectors; those that are stored in this precision are kept where they lie.

        Args:
            vectors: n rows.
            precision: "float32", "float16" or "int8".
            calibration: for int8; of these very vectors when None.
            stored: where the vectors come from, if they are the same rows.

        Returns:
            The kept vectors; what is written anew and large lies in a temporary file.
        """
        dtype = DTYPES[precision]
        if stored is not None and stored.dtype == dtype:
            return cls([stored], precision)
        if precision == "int8" and calibration is None:
            calibration = Calibration.of(vectors)
        kept = cls([_room(len(vectors), vectors.dim, dtype)], precision, calibration)
        size = max(1, _FLOATS_A_BLOCK // vectors.dim)
        for start in range(0, len(vectors), size):
            block = vectors.block(start, start + size)
            kept._arrays[0][start : start + len(block)] = kept._encoded(block)
        return kept

    def __len__(self) -> int:
        return len(self._stored) if self._rows is None else len(self._rows)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self._stored.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of a number as it is stored."""
        return self._stored.dtype

    def codes(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1 as they are stored."""
        return self._stored[start:stop] if self._rows is None else self._stored[self._rows[start:stop]]

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1: float32 (stop − start, dim)."""
        return self._decoded(self.codes(start, min(stop, len(self))))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """These rows: float32 (len(rows), dim)."""
        return self._decoded(self._stored[rows if self._rows is None else self._rows[rows]])

    def add(self, vectors: np.ndarray) -> None:
        """Take in float32 (n, dim) vectors, as the rows after the last."""
        before = len(self._stored)
        if self._rows is not None:
            self._rows = np.concatenate([self._rows, np.arange(before, before + len(vectors))])
        # those that were added one by one become one array, so that there are not as many arrays as calls
        grown = self._encoded(vectors)
        if len(self._arrays) > 1 and len(self._arrays[-1]) < 2**14 and not isinstance(self._arrays[-1], np.memmap):
            grown = np.concatenate([self._arrays.pop(), grown])
        self._arrays.append(grown)
        self._stored = ShardedVectors(self._arrays)

    def remove(self, rows: np.ndarray) -> None:
        """Take rows out, after which those behind them move up."""
        self._rows = np.delete(np.arange(len(self)) if self._rows is None else self._rows, rows)

    def _encoded(self, vectors: np.ndarray) -> np.ndarray:
        if self.precision == "int8":
            assert self.calibration is not None
            return self.calibration.quantize(vectors)
        return vectors.astype(DTYPES[self.precision])

    def _decoded(self, codes: np.ndarray) -> np.ndarray:
        if self.precision == "int8":
            assert self.calibration is not None
            return self.calibration.dequantize(codes)
        return np.ascontiguousarray(codes, dtype=np.float32)


def _room(count: int, dim: int, dtype: np.dtype) -> np.ndarray:
    if count * dim * dtype.itemsize <= _BYTES_IN_MEMORY:
        return np.empty((count, dim), dtype=dtype)
    with tempfile.TemporaryFile() as file:  # the map keeps it
        return np.memmap(file, dtype=dtype, mode="w+", shape=(count, dim))
