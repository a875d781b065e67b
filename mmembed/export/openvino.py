"""How does a graph run on OpenVINO? Converted from its .onnx file to OpenVINO's own two files, without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.export.onnx_files import external_data, plain_file
from mmembed.export.onnx_graph import DATA, MODEL
from mmembed.export.onnx_sessions import matched
from mmembed.export.onnx_verbs import ExportError

XML = "model.xml"
BIN = "model.bin"
_TYPES = {"i64": "int64", "u8": "uint8", "f32": "float32", "f16": "float16"}


class OpenVinoSession:
    """A graph in OpenVINO, on the CPU.

    Args:
        path: Of the .xml file; the .bin lies beside it.
        threads: Threads; None lets OpenVINO choose.
        exact: Compute in float32. Otherwise OpenVINO takes bfloat16 or float16 where the machine has them, which is faster.

    Raises:
        ExportError: If it is no graph that can be run.
        ImportError: Without the `openvino` extra.
    """

    def __init__(self, path: str | os.PathLike, *, threads: int | None = None, exact: bool = True) -> None:
        openvino = _openvino()
        if threads is not None and threads < 1:
            raise ExportError(f"threads={threads}; give at least 1.")
        path = Path(path)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if exact:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        # Both files are read here, so that the graph names none.
        graph, weights = (plain_file(path.parent, name).read_bytes() for name in (path.name, BIN))
        try:
            core = openvino.Core()
            model = core.read_model(graph, openvino.Tensor(np.frombuffer(weights, dtype=np.uint8)))
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError and kinds of its own
            raise ExportError(f"{path} cannot be run by OpenVINO: {_first_line(error)}") from error
        if not model.inputs or not model.outputs:
            raise ExportError(f"{path} is a graph without inputs or outputs.")
        self.inputs = {value.get_any_name(): _described(value) for value in model.inputs}
        self.outputs = {value.get_any_name(): _described(value) for value in model.outputs}
        self._compiled = compiled
        self._weights = weights  # the graph reads them where they lie

    def run(self, features: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `mmembed.export.onnx_sessions.Session.run`.

        Raises:
            ExportError: If an input is missing or of another kind, or OpenVINO refuses it.
        """
        taken = matched(self.inputs, features)
        try:
            found = self._compiled(taken)
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in taken.items())
            raise ExportError(f"OpenVINO refuses {shapes}: {_first_line(error)}") from error
        return [np.array(found[name]) for name in self.outputs]


def write_openvino(folder: Path, *, half: bool = False) -> Path:
    """Put OpenVINO's files in the place of a folder's .onnx file.

    Args:
        folder: With `model.onnx`; it is removed, its weights too.
        half: Store the weights in half precision.

    Returns:
        The path of the .xml file.

    Raises:
        ExportError: If OpenVINO cannot read the graph.
        ImportError: Without the `openvino` extra.
    """
    openvino = _openvino()
    external_data(folder / MODEL)
    try:
        model = openvino.convert_model(folder / MODEL)
        openvino.save_model(model, folder / XML, compress_to_fp16=half)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot convert {folder / MODEL}: {_first_line(error)}") from error
    del model
    for name in (MODEL, DATA):
        (folder / name).unlink(missing_ok=True)
    return folder / XML


def _described(value: Any) -> dict[str, Any]:
    kind = value.get_element_type().get_type_name()
    shape = [dim.get_length() if dim.is_static else (dim.to_string() or "?") for dim in value.get_partial_shape()]
    return {"dtype": _TYPES.get(kind, kind), "shape": shape}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise ImportError("OpenVINO is not installed; `pip install mmembed[openvino]`") from None
    return openvino


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
