"""How is a graph run? In a session of ONNX Runtime, once it is sure what the file holds and where its weights lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmembed.export.onnx_files import ExportedGraph, check_files, external_data, plain_file
from mmembed.export.onnx_graph import require_onnx
from mmembed.export.onnx_verbs import ExportError

#: ONNX Runtime's names of types → numpy's.
_TYPES = {"tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class Session(Protocol):
    """A graph that can be run."""

    #: Name → {"dtype", "shape"}.
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]

    def run(self, features: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs; features that it does not take are left out."""
        ...


class OnnxRuntimeSession:
    """An .onnx file in ONNX Runtime.

    Args:
        path: Of the file.
        threads: Threads of one operator; None lets ONNX Runtime take one a core.
        providers: Execution providers of ONNX Runtime, best first; the CPU's when None.
        optimize: Let ONNX Runtime rewrite the graph for this machine.

    Raises:
        ExportError: If it is no graph that can be run, or names weights outside its folder.
        ImportError: Without the `onnx` extra.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        optimize: bool = True,
    ) -> None:
        require_onnx()
        import onnxruntime

        if threads is not None and threads < 1:
            raise ExportError(f"threads={threads}; give at least 1.")
        path = Path(path)
        # Before the session is made: ONNX Runtime opens what the graph names.
        beside = external_data(plain_file(path.parent, path.name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source: Any = str(path.resolve()) if beside else path.read_bytes()
        try:
            self.session = onnxruntime.InferenceSession(
                source,
                options,
                providers=list(providers or ["CPUExecutionProvider"]),
                # On a CPU the fused sum and norm is slower than the two, which are vectorised.
                disabled_optimizers=None if providers else ["SkipLayerNormFusion"],
            )
        except Exception as error:  # ONNX Runtime's own kinds have no name in common
            raise ExportError(f"{path} cannot be run by ONNX Runtime: {str(error).splitlines()[0][:300]}") from error
        self.inputs = {value.name: _described(value) for value in self.session.get_inputs()}
        self.outputs = {value.name: _described(value) for value in self.session.get_outputs()}

    def run(self, features: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `Session.run`.

        Raises:
            ExportError: If an input is missing or of another kind, or ONNX Runtime refuses it.
        """
        taken = matched(self.inputs, features)
        try:
            return self.session.run(list(self.outputs), taken)
        except Exception as error:  # ONNX Runtime's own kinds have no name in common
            shapes = ", ".join(f"{name} {value.shape}" for name, value in taken.items())
            raise ExportError(f"ONNX Runtime refuses {shapes}: {str(error).splitlines()[0][:300]}") from error


def open_graph(
    folder: str | os.PathLike,
    graph: ExportedGraph,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Session:
    """Open a graph of an export, once its files are what was written.

    Args:
        folder: The export's folder.
        graph: The graph.
        threads: Threads of one operator.
        providers: Execution providers of ONNX Runtime.

    Returns:
        The session.

    Raises:
        ExportError: If a file is missing, exchanged or a link, or cannot be run.
        ImportError: Without the extra of the graph's backend.
    """
    check_files(folder, graph.files)
    path = Path(folder) / graph.path
    if graph.backend == "openvino":
        from mmembed.export.openvino import OpenVinoSession

        if providers is not None:
            raise ExportError("providers are ONNX Runtime's; this graph is OpenVINO's.")
        return OpenVinoSession(path, threads=threads, exact=graph.precision == "fp32")
    named = {f"{path.parent.name}/{name}" for name in external_data(path)}
    if not named <= set(graph.files):
        raise ExportError(
            f"{path} reads {', '.join(sorted(named - set(graph.files)))}, which the manifest does not name."
        )
    return OnnxRuntimeSession(path, threads=threads, providers=providers)


def _described(value: Any) -> dict[str, Any]:
    return {"dtype": _TYPES.get(value.type, value.type), "shape": list(value.shape)}


def matched(inputs: Mapping[str, Any], features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that a graph takes, of its dtypes.

    Args:
        inputs: A session's.
        features: Arrays by name; others are left out.

    Raises:
        ExportError: If one is missing, or is of numbers where the graph takes integers, or the reverse.
    """
    missing = [name for name in inputs if name not in features]
    if missing:
        raise ExportError(f"the graph takes {', '.join(inputs)}, and {', '.join(missing)} is not there.")
    taken = {}
    for name, about in inputs.items():
        value, kind = np.asarray(features[name]), np.dtype(about["dtype"])
        if (value.dtype.kind == "f") != (kind.kind == "f"):  # pixels that were scaled already, or never
            raise ExportError(f"{name} is {value.dtype}, and the graph takes {kind}.")
        taken[name] = np.ascontiguousarray(value, dtype=kind)
    return taken
