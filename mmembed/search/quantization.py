"""How is a vector made smaller: fewer dimensions, or fewer bits a number?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.vectors import Vectors, as_rows

_FLOATS_A_BLOCK = 2**22
# The eight signs of each byte: (256, 8). Looking them up is ten times faster than unpacking bits.
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1


@dataclass(frozen=True)
class Calibration:
    """The range of each dimension, which int8 cuts into 256 steps, and what it was found on.

    A number x of a dimension whose values reach from a to b becomes ⌊(x − a) / ((b − a) / 255)⌋ − 128, as
    sentence-transformers' `quantize_embeddings` has it, and stands for the middle of its step. What lies outside the
    range is clipped to its ends, so vectors that are added later, and queries, must be of the same model.

    Args:
        ranges: float32 (2, dim), the smallest and the largest value of each dimension.
        count: vectors that it was found on.
        source: what is known of these: `model`, `revision`, …

    Example:
        >>> calibration = Calibration.of(np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32))
        >>> calibration.quantize(np.array([[0.5, 2.0]], dtype=np.float32)).tolist(), calibration.count
        ([[-1, 127]], 2)
    """

    ranges: np.ndarray
    count: int
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, vectors: Vectors, *, truncate_dim: int | None = None) -> Calibration:
        """Find the ranges, block by block.

        Args:
            vectors: n vectors like those that will be quantised, such as the documents themselves.
            truncate_dim: dimensions that are kept of them, as `truncated` does.

        Returns:
            The calibration.

        Raises:
            DataError: no vectors, or one that is not finite.
        """
        rows = as_rows(vectors)
        if not len(rows):
            raise DataError("no vectors to calibrate int8 with; give vectors like those that will be quantised")
        low, high = np.full(rows.dim, np.inf, np.float32), np.full(rows.dim, -np.inf, np.float32)
        if truncate_dim is not None:
            low, high = low[:truncate_dim], high[:truncate_dim]
        size = max(1, _FLOATS_A_BLOCK // rows.dim)
        for start in range(0, len(rows), size):
            block = rows.block(start, start + size)
            block = block if truncate_dim is None else truncated(block, truncate_dim)
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise DataError("a vector to calibrate int8 with holds NaN or infinity; encode these items again")
        about = vectors.manifest if isinstance(vectors, Embeddings) else {}
        known = ("model", "model_fingerprint", "revision", "use", "items")
        source = {name: about[name] for name in known if about.get(name) is not None}
        return cls(np.stack([low, high]).astype(np.float32), len(rows), source)

    def quantize(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as steps.

        Args:
            vectors: float (n, dim).

        Returns:
            int8 (n, dim).
        """
        from sentence_transformers.util import quantize_embeddings

        return np.asarray(quantize_embeddings(vectors, "int8", ranges=self.ranges))

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """What steps stand for: the middle of each.

        Args:
            codes: int8 (n, dim), as `quantize` gives them.

        Returns:
            float32 (n, dim).
        """
        steps = (self.ranges[1] - self.ranges[0]) / np.float32(255)
        return self.ranges[0] + (codes.astype(np.float32) + np.float32(128.5)) * steps

    def clipped(self, vectors: np.ndarray) -> float:
        """The share of numbers that lie outside the ranges, and so lose more than half a step.

        Args:
            vectors: float (n, dim).

        Returns:
            From 0 to 1.
        """
        if not vectors.size:
            return 0.0
        slack = (self.ranges[1] - self.ranges[0]) / np.float32(255)
        outside = (vectors < self.ranges[0] - slack) | (vectors > self.ranges[1] + slack)
        return float(outside.mean())


def truncated(vectors: np.ndarray, dim: int) -> np.ndarray:
    """The first dimensions of vectors, of length 1 again (Matryoshka representations, Kusupati et al. 2022).

    Args:
        vectors: float (n, at least dim).
        dim: how many are kept.

    Returns:
        float32 (n, dim); a row of zeros stays one.

    Raises:
        ValueError: other dimensions than the vectors have.

    Example:
        >>> truncated(np.array([[0.6, 0.0, 0.8]], dtype=np.float32), 2).tolist()
        [[1.0, 0.0]]
    """
    if not 0 < dim <= vectors.shape[1]:
        raise ValueError(
            f"truncate_dim={dim} of vectors of {vectors.shape[1]} dimensions; give 1 to {vectors.shape[1]}"
        )
    return of_unit_length(vectors[:, :dim])


def of_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors divided by their lengths: float32 (n, dim); a row of zeros stays one."""
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0).astype(np.float32)


def packed_signs(vectors: np.ndarray) -> np.ndarray:
    """One bit a number, 1 where it is above 0: sentence-transformers' "ubinary".

    Args:
        vectors: float (n, dim).

    Returns:
        uint8 (n, ⌈dim / 8⌉), the first dimension in the highest bit, filled up with zeros.

    Example:
        >>> packed_signs(np.array([[0.5, -0.5, 0.0, 0.1]])).tolist()
        [[144]]
    """
    return np.packbits(np.asarray(vectors) > 0, axis=-1)


def signs(packed: np.ndarray, dim: int) -> np.ndarray:
    """Packed bits as numbers.

    Args:
        packed: uint8 (n, ⌈dim / 8⌉).
        dim: how many of the bits are meant.

    Returns:
        float32 (n, dim) of 1 and −1.

    Example:
        >>> signs(np.array([[144]], dtype=np.uint8), 4).tolist()
        [[1.0, -1.0, -1.0, 1.0]]
    """
    return np.take(_SIGNS, packed, axis=0).reshape(len(packed), -1)[:, :dim]
