"""How a verb becomes an ONNX file: traced by PyTorch, cleaned of what tells of this machine, checked, and written."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmembed.export.onnx_verbs import ExportError, VerbGraph, is_fixed_width, outputs_of

OPSET = 18
MODEL = "model.onnx"
DATA = "model.onnx.data"
#: Bytes of weights above which they lie in a file of their own; a protobuf file ends at 2 GiB.
EXTERNAL_DATA_ABOVE = 1_900_000_000


def write_graph(
    model: Any,
    verb: str,
    features: Mapping[str, Tensor],
    folder: str | os.PathLike,
    *,
    opset: int = OPSET,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> Path:
    """Trace one verb and write `model.onnx`, float32, with any number of rows and any length of texts.

    Args:
        model: The model, inside `exportable`.
        verb: One of `verbs_of(model)`.
        features: What `verb_features` gives for a few rows; which they are does not matter.
        folder: Where the file goes; it is there already.
        opset: Version of ONNX's operators.
        external_data_above: Bytes of weights above which they go into `model.onnx.data` beside it.

    Returns:
        The path of the file.

    Raises:
        ExportError: If the model cannot be traced.
        ImportError: Without the `onnx` extra.
    """
    require_onnx()
    batch = torch.export.Dim("batch")
    longest = model.max_seq_length
    length: Any = torch.export.Dim("length", max=longest) if longest and longest > 2 else torch.export.Dim("length")
    static_length = is_fixed_width(model)
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in features.items():
        shapes[name] = {0: batch} if value.ndim != 2 or static_length else {0: batch, 1: length}
    try:
        with _quiet():
            program = torch.onnx.export(
                VerbGraph(model, verb).eval(),
                (),
                kwargs=dict(features),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=list(features),
                output_names=list(outputs_of(verb)),
                external_data=False,
                verbose=False,
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
    except Exception as error:  # torch raises many kinds
        raise ExportError(
            f"the {verb} verb of {type(model[0].model).__name__} cannot be traced: {_reason(error)}"
        ) from error
    assert program is not None
    path = Path(folder) / MODEL
    graph = _with_usual_gelu(program.model)
    _without_traces(graph)
    save_ir(graph, path, external_data_above=external_data_above)
    return path


def save_ir(model: Any, path: Path, *, external_data_above: int = EXTERNAL_DATA_ABOVE) -> None:
    """Write an `onnx_ir` model, and check the file.

    Args:
        model: An `onnx_ir.Model`.
        path: Of the file.
        external_data_above: Bytes of weights above which they go into a file of their own.
    """
    import onnx
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if weights > external_data_above:
        onnx_ir.save(model, path, external_data=DATA, size_threshold_bytes=1024)
    else:
        onnx_ir.save(model, path)
    onnx.checker.check_model(str(path))


def require_onnx() -> None:
    """Raise an ImportError that names the extra, where one of its packages is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ImportError(f"{package} is not installed; `pip install mmembed[onnx]`")


def _with_usual_gelu(model: Any) -> Any:
    """GELU multiplied in the order in which ONNX Runtime knows it, and runs it as one operator.

    PyTorch writes x · (½ (erf(x / √2) + 1)), which stays five passes over the largest activations: for MiniLM in 8 bits a
    third of the time of texts of 64 tokens.
    """
    from onnx_ir.passes.common import LiftConstantsToInitializersPass
    from onnxscript.rewriter import pattern, rewrite

    def written(op: Any, x: Any) -> Any:
        return x * (0.5 * (op.Erf(x / math.sqrt(2)) + 1.0))

    def usual(op: Any, x: Any) -> Any:
        root, one, half = (op.Constant(value_float=value) for value in (math.sqrt(2), 1.0, 0.5))
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)

    rules = pattern.RewriteRuleSet([pattern.RewriteRule(written, usual)])
    model = rewrite(model, pattern_rewrite_rules=rules)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1)(model)
    return model


def _without_traces(model: Any) -> None:
    """Take out inputs that nothing reads, and the exporter's notes: stack traces name folders of this machine."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
            value.doc_string = None
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None
    for value in [value for value in model.graph.inputs if not value.uses() and value not in model.graph.outputs]:
        model.graph.inputs.remove(value)


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """`torch.sort(…, stable=True)`, which the exporter lacks: of equal values TopK gives the one with the lower index first."""
    from onnxscript import opset18

    along = opset18.Constant(value_ints=[dim])
    size = opset18.Gather(opset18.Shape(self), cast(Any, along), axis=0)
    return opset18.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on axes it renames."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The innermost cause in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
