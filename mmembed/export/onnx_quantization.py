"""How does a graph become smaller and faster? Half precision, or 8-bit integers whose ranges are found at run time or calibrated."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmembed.export.onnx_graph import DATA, EXTERNAL_DATA_ABOVE, MODEL, require_onnx
from mmembed.export.onnx_verbs import ExportError

Features = Mapping[str, np.ndarray]

_METHODS = ("auto", "dynamic", "static")
#: What dynamic quantization turns into integers. A convolution would be slower than it was.
_DYNAMIC = ["MatMul", "Gather"]
_STATIC = [
    "Conv",
    "MatMul",
    "Gemm",
    "Add",
    "Mul",
    "AveragePool",
    "GlobalAveragePool",
    "MaxPool",
    "Concat",
    "Relu",
    "Clip",
]
#: Kept in float32 in a half-precision graph: sums of squares overflow, and pixels are scaled before anything else.
_BLOCKED_IN_HALF = [
    "LayerNormalization",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "Pow",
    "Sqrt",
    "Erf",
    "Range",
    "Resize",
]


@dataclass(frozen=True)
class Quantization:
    """How a graph is quantised to 8 bits.

    Args:
        method: "dynamic" finds the ranges of activations at run time, a batch at a time: for matrix products, so for
            transformers. "static" takes them from calibration rows: for convolutions. "auto" is static where the graph has
            convolutions of more than a patch embedding.
        per_channel: Scale each output channel of a weight by itself. Without it MiniLM's vectors lose a tenth.
        per_row: "dynamic": scale each token by itself where a product narrows, as at the end of a feed-forward block. A few
            tokens (the first, separators) hold values there that are a hundred times the others'
            (https://arxiv.org/abs/2402.17762), and with one scale for all the others keep few of their 8 bits.
        reduce_range: Use 7 of the 8 bits of a weight, for x86 machines without VNNI instructions, where 16-bit sums of 8-bit
            products saturate.
        calibration: "minmax", "entropy" or "percentile": how static ranges follow from the activations.
        keep_float: Nodes to leave in float, by name; or how many of those whose input loses most, an integer; or "auto": as
            few as the parity gate lets pass.

    Raises:
        ExportError: If one of them is not known.

    Example:
        >>> Quantization().method
        'auto'
    """

    method: Literal["auto", "dynamic", "static"] = "auto"
    per_channel: bool = True
    per_row: bool = True
    reduce_range: bool = False
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    keep_float: Sequence[str] | int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ExportError(f"method={self.method!r}; choose one of {', '.join(_METHODS)}.")
        if self.calibration not in ("minmax", "entropy", "percentile"):
            raise ExportError(f"calibration={self.calibration!r}; choose minmax, entropy or percentile.")
        if isinstance(self.keep_float, str) and self.keep_float != "auto":
            raise ExportError(f"keep_float={self.keep_float!r}; give names of nodes, a number or 'auto'.")


def method_for(source: Path, wanted: str = "auto") -> str:
    """ "dynamic" or "static": what "auto" means for a graph.

    Args:
        source: The float32 graph.
        wanted: A method; returned as it is unless it is "auto".
    """
    if wanted != "auto":
        return wanted
    import onnx

    model = onnx.load(source, load_external_data=False)
    return "static" if sum(node.op_type == "Conv" for node in model.graph.node) > 2 else "dynamic"


def quantize_graph(
    source: Path,
    folder: Path,
    settings: Quantization,
    *,
    calibration: Sequence[Features] = (),
    keep_float: Sequence[str] = (),
) -> dict[str, Any]:
    """Write an 8-bit copy of a graph.

    Args:
        source: The float32 graph.
        folder: Where `model.onnx` goes.
        settings: How.
        calibration: Batches of a graph's inputs, for "static".
        keep_float: Nodes to leave as they are.

    Returns:
        What was done, for the manifest.

    Raises:
        ExportError: If there is nothing to calibrate on, or the graph cannot be quantised.
    """
    require_onnx()
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

    method = method_for(source, settings.method)
    target = Path(folder) / MODEL
    large = _size(source) > EXTERNAL_DATA_ABOVE
    model = onnx.load(source)
    # What the exporter noted of shapes contradicts what the quantizer infers, for CLIP.
    del model.graph.value_info[:]
    shared: dict[str, Any] = {
        "per_channel": settings.per_channel,
        "reduce_range": settings.reduce_range,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": list(keep_float),
        "use_external_data_format": large,
    }
    if method == "dynamic" and settings.per_row:
        _scale_rows(model, keep_float)
    with _quiet(), tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / MODEL
        onnx.save(model, plain, save_as_external_data=large, location=DATA)
        try:
            if method == "dynamic":
                quantize_dynamic(
                    plain,
                    target,
                    op_types_to_quantize=_DYNAMIC,
                    extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
                    **shared,
                )
            else:
                if not calibration:
                    raise ExportError("static quantization needs rows to calibrate on.")
                methods = {
                    "minmax": CalibrationMethod.MinMax,
                    "entropy": CalibrationMethod.Entropy,
                    "percentile": CalibrationMethod.Percentile,
                }
                prepared = Path(temporary) / "prepared.onnx"
                _prepared(plain, prepared, large)
                quantize_static(
                    prepared,
                    target,
                    _Batches(calibration, [value.name for value in model.graph.input]),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=_STATIC,
                    activation_type=QuantType.QUInt8,
                    calibrate_method=methods[settings.calibration],
                    extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
                    **shared,
                )
        except ExportError:
            raise
        except Exception as error:  # ONNX Runtime raises many kinds
            raise ExportError(f"{source} cannot be quantised: {type(error).__name__}: {str(error)[:300]}") from error
    done = {**asdict(settings), "method": method, "keep_float": list(keep_float)}
    if method == "dynamic":
        del done["calibration"]
    else:
        del done["per_row"]
        done["calibration_rows"] = sum(len(next(iter(batch.values()))) for batch in calibration)
    return done


def write_half(source: Path, folder: Path) -> dict[str, Any]:
    """Write a half-precision copy of a graph; inputs and outputs stay as they are.

    Args:
        source: The float32 graph.
        folder: Where `model.onnx` goes.

    Returns:
        What was done, for the manifest.
    """
    require_onnx()
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load(source)
    del model.graph.value_info[:]
    with _quiet():
        half = convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=False,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_BLOCKED_IN_HALF],
        )
    large = half.ByteSize() > EXTERNAL_DATA_ABOVE
    onnx.save(half, Path(folder) / MODEL, save_as_external_data=large, location=DATA)
    return {"kept_in_float32": _BLOCKED_IN_HALF}


def noisiest_nodes(source: Path, features: Features, *, per_row: bool = False) -> list[str]:
    """The nodes that 8 bits would hurt most: those whose input, rounded to 256 values, differs most from itself.

    One pass over some rows. A matrix product of a few very large activations among many small ones comes first.

    Args:
        source: The float32 graph.
        features: A batch of its inputs.
        per_row: Whether products that narrow are scaled a token at a time.

    Returns:
        Names of matrix products with a constant weight and of convolutions, the noisiest first.
    """
    import onnx
    import onnxruntime

    model = onnx.load(source)
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in weights
    ]
    seen = list(dict.fromkeys(node.input[0] for node in nodes))
    given = {value.name for value in model.graph.input}
    for name in seen:
        if name not in given:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Fused nodes have no such values in between.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / MODEL
        onnx.save(model, path, save_as_external_data=_size(source) > EXTERNAL_DATA_ABOVE, location=DATA)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        wanted = [name for name in seen if name not in given]
        values = dict(
            zip(wanted, session.run(wanted, {value.name: features[value.name] for value in session.get_inputs()}))
        )
    scaled = _narrowing(model) if per_row else []
    noise = {
        node.name: _rounding_noise(values[node.input[0]], per_row=node.name in scaled)
        for node in nodes
        if node.input[0] in values
    }
    return [node.name for node in sorted(nodes, key=lambda node: -noise.get(node.name, 0.0))]


def _narrowing(model: Any) -> list[str]:
    """Names of the matrix products with a constant weight that gives fewer numbers than it takes."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2 and np.greater(*shapes[node.input[1]])
    ]


def _scale_rows(model: Any, left_out: Sequence[str]) -> None:
    """x W → s (x / s) W, with s the largest number of each row of x: the same, until x / s is rounded to 8 bits."""
    from onnx import helper, numpy_helper

    names = set(_narrowing(model)) - set(left_out)
    after_18 = any(one.domain in ("", "ai.onnx") and one.version >= 18 for one in model.opset_import)
    constants = {"row_scale_floor": np.array(1e-12, np.float32), "row_scale_axis": np.array([-1])}
    nodes = []
    for node in model.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        of = {what: f"{node.name}_{what}" for what in ("size", "largest", "scale", "scaled", "product")}
        along: dict[str, Any] = {"keepdims": 1} if after_18 else {"keepdims": 1, "axes": [-1]}
        given, result = node.input[0], node.output[0]
        node.input[0], node.output[0] = of["scaled"], of["product"]
        nodes += [
            helper.make_node("Abs", [given], [of["size"]]),
            helper.make_node("ReduceMax", [of["size"], *["row_scale_axis"] * after_18], [of["largest"]], **along),
            helper.make_node("Max", [of["largest"], "row_scale_floor"], [of["scale"]]),
            helper.make_node("Div", [given, of["scale"]], [of["scaled"]]),
            node,
            helper.make_node("Mul", [of["product"], of["scale"]], [result]),
        ]
    if names:
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rounding_noise(value: np.ndarray, *, per_row: bool = False) -> float:
    """‖x − x rounded to 256 steps of its range‖ / ‖x‖."""
    value = value.astype(np.float32)
    if per_row:
        value = value / np.maximum(np.abs(value).max(axis=-1, keepdims=True), 1e-12)
    low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
    step = (high - low) / 255
    length = float(np.linalg.norm(value))
    if not step or not length:
        return 0.0
    return float(np.linalg.norm(value - np.round(value / step) * step)) / length


def _prepared(source: Path, target: Path, large: bool) -> None:
    """The graph with its shapes inferred and its batch norms folded, as static quantization wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, target, skip_symbolic_shape=True, save_as_external_data=large)


class _Batches:
    """Batches of inputs, as ONNX Runtime's calibration takes them."""

    def __init__(self, batches: Sequence[Features], names: Sequence[str]) -> None:
        self.left = iter(batches)
        self.names = names

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.left, None)
        return None if batch is None else {name: batch[name] for name in self.names}


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's remarks on preparations and on nodes that it skips."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
