"""Fewer bits and dimensions: as sentence-transformers has them, and back."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings, truncate_embeddings

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search import quantization
from mmembed.search.index import Index
from mmembed.search.quantization import Calibration, of_unit_length, packed_signs, signs, truncated


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384])
def test_signs_are_ubinary_and_packbits(dim: int) -> None:
    vectors = unit(50, dim)
    vectors[0], vectors[1, 0], vectors[2, 0] = 0, -0.0, np.float32(1e-40)  # nothing, minus nothing, and nearly
    packed = packed_signs(vectors)
    assert np.array_equal(packed, quantize_embeddings(vectors, "ubinary"))
    assert np.array_equal(packed, np.packbits(vectors > 0, axis=1))
    assert np.array_equal(signs(packed, dim), np.where(vectors > 0, 1, -1)) and signs(packed, dim).dtype == np.float32


def test_int8_is_sentence_transformers_and_comes_back_within_half_a_step() -> None:
    vectors, more = unit(400, 24), unit(90, 24, 1)
    calibration = Calibration.of(vectors)
    codes = calibration.quantize(vectors)
    assert codes.dtype == np.int8 and np.array_equal(codes, quantize_embeddings(vectors, "int8"))
    steps = (vectors.max(axis=0) - vectors.min(axis=0)) / 255
    assert (
        np.abs(calibration.dequantize(codes) - vectors) <= steps / 2 * 1.001 + (vectors == vectors.max(axis=0)) * steps
    ).all()
    # the same ranges for what comes later, however it lies
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    assert np.array_equal(calibration.quantize(more), quantize_embeddings(more, "int8", ranges=ranges))
    assert calibration.clipped(vectors) == 0 < calibration.clipped(more) < 0.01 < calibration.clipped(10 * more)


def test_an_index_holds_the_steps_of_the_calibration() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = unit(3000, 48)
    for options in ({}, {"kind": "ivf"}, {"kind": "hnsw"}):
        index = Index.build(Embeddings([f"{row}" for row in range(3000)], vectors), precision="int8", **options)
        own = Calibration.of(vectors)
        assert np.allclose(index.calibration.ranges, own.ranges, atol=1e-7)
        held = index._parts.structure.take(np.arange(3000))
        step = (own.ranges[1] - own.ranges[0]) / 255
        apart = np.abs(held - own.dequantize(own.quantize(vectors)))
        # both round down, and differ where a number lies on the border of two steps
        assert (apart > 1e-6).mean() < 1e-3 and (apart <= step * 1.001).all()
    assert faiss.ScalarQuantizer.QT_8bit == index._parts.structure.index.sq.qtype if options == {} else True


def test_a_dimension_that_is_always_the_same_and_a_single_vector() -> None:
    vectors = unit(20, 6)
    vectors[:, 2] = 0.25
    calibration = Calibration.of(vectors)
    assert np.allclose(calibration.dequantize(calibration.quantize(vectors))[:, 2], 0.25)
    one = Calibration.of(vectors[:1])
    assert np.allclose(one.dequantize(one.quantize(vectors[:1])), vectors[:1]) and one.count == 1


def test_ranges_are_found_by_blocks_and_of_truncated_vectors(monkeypatch) -> None:
    vectors = unit(101, 12)
    whole, cut = Calibration.of(vectors), Calibration.of(vectors, truncate_dim=5)
    monkeypatch.setattr(quantization, "_FLOATS_A_BLOCK", 12 * 7)
    assert np.array_equal(Calibration.of(vectors).ranges, whole.ranges)
    expected = truncated(vectors, 5)
    assert np.array_equal(Calibration.of(vectors, truncate_dim=5).ranges, cut.ranges)
    assert np.array_equal(cut.ranges, np.stack([expected.min(axis=0), expected.max(axis=0)]))
    about = {"model": "m", "revision": "r", "model_fingerprint": "f", "other": 1}
    assert Calibration.of(Embeddings(["a"], vectors[:1], about)).source == {
        "model": "m",
        "revision": "r",
        "model_fingerprint": "f",
    }


def test_what_calibrates_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no vectors"):
        Calibration.of(np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match="NaN"):
        Calibration.of(np.array([[0, np.nan]], np.float32))


def test_truncated_is_sentence_transformers_of_length_one() -> None:
    import torch

    vectors = unit(30, 16)
    vectors[3, :4] = 0
    found = truncated(vectors, 4)
    expected = torch.nn.functional.normalize(truncate_embeddings(torch.from_numpy(vectors), 4), dim=1).numpy()
    assert np.allclose(found, expected, atol=1e-6) and found.dtype == np.float32 and not found[3].any()
    assert np.allclose(truncated(vectors[4:].astype(np.float16), 16), vectors[4:], atol=1e-3)
    for dim in (0, 17, -1):
        with pytest.raises(ValueError, match=f"truncate_dim={dim} of vectors of 16"):
            truncated(vectors, dim)


def test_unit_length_of_the_very_small_and_large() -> None:
    vectors = np.array([[3e-30, 4e-30], [3e30, 4e30], [0, 0]], dtype=np.float32)
    assert np.allclose(of_unit_length(vectors), [[0.6, 0.8], [0.6, 0.8], [0, 0]])
