"""How is a graph run? In a session of ONNX Runtime, once it is sure what the file holds and where its weights lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mmembed.export.onnx_files import ExportedGraph, check_files, external_data, plain_file
from mmembed.export.onnx_graph import require_onnx
from mmembed.export.onnx_verbs import ExportError

#: ONNX Runtime's names of types → numpy's.
_TYPES = {"tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
#: Tokens of one run, for each thread of a CPU: so many leave what lies between two operators in its caches.
_TOKENS_AT_ONCE = 512
_DENORMAL = sys.float_info.min / 4


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

    On a CPU many long texts are run a few at a time, and numbers too small for float32's exponent count as zero: attention
    is full of them where texts are padded, and each costs a hundred times another number.

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
        # This one holds for ONNX Runtime's own threads, `_tiny_as_zero` for the one that calls it.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        source: Any = str(path.resolve()) if beside else path.read_bytes()
        try:
            with _tiny_as_zero():
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
        self._tokens_at_once = None if providers else _TOKENS_AT_ONCE * (threads or os.cpu_count() or 1)

    def run(self, features: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `Session.run`.

        Raises:
            ExportError: If an input is missing or of another kind, or ONNX Runtime refuses it.
        """
        taken = matched(self.inputs, features)
        names = list(self.outputs)
        try:
            with _tiny_as_zero():
                parts = [self.session.run(names, piece) for piece in self._pieces(taken)]
        except Exception as error:  # ONNX Runtime's own kinds have no name in common
            shapes = ", ".join(f"{name} {value.shape}" for name, value in taken.items())
            raise ExportError(f"ONNX Runtime refuses {shapes}: {str(error).splitlines()[0][:300]}") from error
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts)]

    def _pieces(self, taken: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The rows, as many at a time as are run fastest."""
        ids = taken.get("input_ids")
        counts = {len(value) if value.ndim else 0 for value in taken.values()}
        if (
            self._tokens_at_once is None
            or ids is None
            or ids.ndim != 2
            or ids.size <= self._tokens_at_once
            or len(counts) > 1
        ):
            return [taken]
        rows = max(1, self._tokens_at_once // ids.shape[1])
        return [{name: value[at : at + rows] for name, value in taken.items()} for at in range(0, len(ids), rows)]


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


@contextmanager
def _tiny_as_zero() -> Iterator[None]:
    """In this thread, numbers below float32's (and float64's) smallest normal one are zero; afterwards as before."""
    before = _DENORMAL * 0.5 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


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
