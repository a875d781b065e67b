"""A graph in a session gives each row its own, however many come at once, and leaves the calling thread as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmembed.export.onnx_sessions as sessions
from mmembed.export.onnx_sessions import OnnxRuntimeSession, matched
from mmembed.export.onnx_verbs import ExportError
from tests.export.tiny_exports import TEXTS

TINY = np.float32(1e-40)


@pytest.fixture
def features(text_model) -> dict[str, np.ndarray]:
    return {
        name: value.numpy() for name, value in text_model.preprocess(TEXTS).items() if isinstance(value, torch.Tensor)
    }


@pytest.mark.parametrize("tokens", [1, 30, 100, 10**9])
def test_rows_in_pieces_are_the_rows(text_export, features, monkeypatch, tokens):
    """Also where a piece would be less than a row."""
    path = text_export / "text_fp32" / "model.onnx"
    (whole,) = OnnxRuntimeSession(path, threads=1).run(features)
    monkeypatch.setattr(sessions, "_TOKENS_AT_ONCE", tokens)
    session = OnnxRuntimeSession(path, threads=1)
    length = features["input_ids"].shape[1]
    pieces = session._pieces({name: features[name] for name in session.inputs})
    assert max(len(piece["input_ids"]) for piece in pieces) == min(len(TEXTS), max(1, tokens // length))
    (found,) = session.run(features)
    np.testing.assert_allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("flushed", [False, True])
def test_the_calling_thread_rounds_as_before(text_export, features, flushed):
    """Tiny numbers are zero inside of a run, and after it only where they were before; also after an error."""
    session = OnnxRuntimeSession(text_export / "text_fp32" / "model.onnx", threads=1)
    seen = []
    inner = session.session.run

    class Watched:
        def run(self, *args):
            seen.append(float(torch.tensor(TINY) * 1.0))
            return inner(*args)

    session.session = Watched()
    try:
        torch.set_flush_denormal(flushed)
        session.run(features)
        with pytest.raises(ExportError, match="refuses"):
            session.run({**features, "attention_mask": features["attention_mask"][:, :1, None]})
        after = float(torch.tensor(TINY) * 1.0)
    finally:
        torch.set_flush_denormal(False)
    assert seen == [0.0, 0.0] and (after == 0.0) is flushed


def test_arrays_are_taken_by_name_and_type():
    inputs = {"input_ids": {"dtype": "int64"}, "pixel_values": {"dtype": "uint8"}}
    ids = np.ones((1, 2), np.int32)
    taken = matched(inputs, {"input_ids": ids, "pixel_values": np.ones((1, 3, 2, 2), np.uint8), "more": ids})
    assert list(taken) == list(inputs) and taken["input_ids"].dtype == np.int64
    with pytest.raises(ExportError, match="pixel_values is not there"):
        matched(inputs, {"input_ids": ids})
    with pytest.raises(ExportError, match="pixel_values is float32, and the graph takes uint8"):
        matched(inputs, {"input_ids": ids, "pixel_values": np.ones((1, 3, 2, 2), np.float32)})
