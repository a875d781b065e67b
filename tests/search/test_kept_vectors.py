"""Vectors kept for rescoring: the same rows whatever the precision, in memory or in files, after adding and removing."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.embeddings import Embeddings, ShardedVectors
from mmembed.search import kept_vectors
from mmembed.search.kept_vectors import KeptVectors
from mmembed.search.quantization import Calibration
from mmembed.search.vectors import VectorRows

VECTORS = np.random.default_rng(0).normal(size=(101, 6)).astype(np.float32)
MORE = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)


def expected(vectors: np.ndarray, precision: str) -> np.ndarray:
    if precision == "int8":
        calibration = Calibration.of(VECTORS)
        return calibration.dequantize(calibration.quantize(vectors))
    return vectors.astype(precision).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("in_file", [False, True])
def test_rows_are_what_was_given_rounded_once(precision: str, in_file: bool, monkeypatch) -> None:
    monkeypatch.setattr(kept_vectors, "_FLOATS_A_BLOCK", 6 * 7)
    if in_file:
        monkeypatch.setattr(kept_vectors, "_BYTES_IN_MEMORY", 10)
    kept = KeptVectors.of(VectorRows([VECTORS]), precision)
    everything = expected(VECTORS, precision)
    assert (len(kept), kept.dim) == (101, 6) and isinstance(kept._arrays[0], np.memmap) is in_file
    assert np.array_equal(kept.block(3, 90), everything[3:90]) and np.array_equal(kept.block(95, 300), everything[95:])
    some = np.array([7, 100, 7, 0])
    assert np.array_equal(kept.take(some), everything[some]) and kept.take(some[:0]).shape == (0, 6)
    kept.add(MORE[:1])
    kept.remove(np.array([0, 50, 101]))
    for row in range(1, 9):
        kept.add(MORE[row : row + 1])
    everything = np.concatenate([np.delete(everything, [0, 50], axis=0), expected(MORE[1:], precision)])
    assert np.array_equal(kept.block(0, 999), everything) and len(kept) == len(everything) == 107
    assert len(kept._arrays) == 2  # one by one, they do not become an array each
    kept.remove(np.arange(100))
    assert np.array_equal(kept.take(np.arange(7)), everything[100:])


def test_vectors_of_the_same_kind_stay_where_they_are(tmp_path) -> None:
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    Embeddings([f"{row}" for row in range(101)], unit).save(tmp_path / "vectors", shard_rows=40)
    mapped = Embeddings.load(tmp_path / "vectors").vectors
    assert isinstance(mapped, ShardedVectors)
    kept = KeptVectors.of(VectorRows([mapped]), "float32", stored=mapped)
    assert [one is other for one, other in zip(kept._arrays, mapped.shards)] == [True] * 3
    assert np.array_equal(kept.block(0, 101), unit)
    half = KeptVectors.of(VectorRows([mapped]), "float16", stored=mapped)
    assert np.array_equal(half.block(0, 101), unit.astype(np.float16).astype(np.float32)) and half.dtype == np.float16
