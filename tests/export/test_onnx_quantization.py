"""8 bits keep what they can: each token has a scale of its own where one scale for all would drown most of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from mmembed.export.onnx_quantization import Quantization, _rounding_noise, noisiest_nodes, quantize_graph, write_half

WIDE, NARROW = 64, 16


@pytest.fixture
def source(tmp_path) -> Path:
    """x → x W (16 → 64) → Relu → x V (64 → 16), as a feed-forward block has them."""
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(NARROW, WIDE)), "v": draw.normal(size=(WIDE, NARROW))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"], "up"),
        helper.make_node("Relu", ["wide"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "v"], ["y"], "down"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "length", NARROW])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "length", NARROW])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder = tmp_path / "exact"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def tokens(largest: float) -> np.ndarray:
    """(2, 5, 16), the first token of each row so many times as large as the others."""
    x = np.random.default_rng(1).normal(size=(2, 5, NARROW)).astype(np.float32)
    x[:, 0] *= largest
    return x


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(None, {"x": x})[0]


def quantised(source: Path, folder: Path, keep_float: tuple[str, ...] = (), **settings) -> Path:
    folder.mkdir()
    quantize_graph(source, folder, Quantization(**settings), keep_float=keep_float)
    return folder / "model.onnx"


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


def test_a_large_token_does_not_drown_the_others(source, tmp_path):
    x = tokens(100.0)
    exact = run(source, x)
    together = cosines(run(quantised(source, tmp_path / "together", ("up",), per_row=False), x), exact)[:, 1:].min()
    alone = cosines(run(quantised(source, tmp_path / "alone", ("up",)), x), exact)[:, 1:].min()
    assert alone > 0.999 > 0.99 > together


def test_scaling_changes_nothing_but_the_rounding(source, tmp_path):
    """Of tokens alike, of a token of zeros, of one row, of many."""
    path = quantised(source, tmp_path / "alone")
    for x in (tokens(1.0), np.concatenate([tokens(1.0), np.zeros((1, 5, NARROW), np.float32)]), tokens(1.0)[:1, :1]):
        found, exact = run(path, x), run(source, x)
        np.testing.assert_allclose(found, exact, atol=0.03 * np.abs(exact).max())
    assert np.isfinite(run(path, np.zeros((1, 1, NARROW), np.float32))).all()


def test_what_is_scaled_are_products_that_narrow_and_are_quantised(source, tmp_path):
    def scales(path: Path) -> int:
        return sum(node.op_type == "ReduceMax" for node in onnx.load(path).graph.node)

    assert scales(quantised(source, tmp_path / "both")) == 1
    assert scales(quantised(source, tmp_path / "off", per_row=False)) == 0
    assert scales(quantised(source, tmp_path / "kept", ("down",))) == 0


def test_the_noisiest_node_is_the_one_whose_input_loses_most(source):
    """Hand values: of 256 steps of 100, 0.1 keeps nothing and 100 all; a row of its own keeps nearly all of either."""
    assert sorted(noisiest_nodes(source, {"x": tokens(100.0)})) == ["down", "up"]
    few = np.array([[100.0, 100.0], [0.1, 0.1]], np.float32)
    assert _rounding_noise(few) == pytest.approx(0.001, rel=1e-3)
    assert _rounding_noise(few[1:]) == pytest.approx(0, abs=1e-6)
    assert _rounding_noise(few, per_row=True) == pytest.approx(0, abs=1e-6)


def test_half_precision_takes_and_gives_float32(source, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    write_half(source, folder)
    x = tokens(1.0)
    found = run(folder / "model.onnx", x)
    assert found.dtype == np.float32 and cosines(found, run(source, x)).min() > 0.9999
