"""A model → a folder of ONNX graphs, each kept only if it gives what the model gives."""

from __future__ import annotations

import copy
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tqdm.auto import tqdm

from mmembed.dataset_encoding import model_fingerprint
from mmembed.export.export_folder import ExportFolder, plain_reader_files
from mmembed.export.onnx_embedder import ACTIVATIONS, load_export, reader_of_export
from mmembed.export.onnx_files import BACKENDS, PRECISIONS, graph_name
from mmembed.export.onnx_graph import EXTERNAL_DATA_ABOVE, MODEL, OPSET, require_onnx, write_graph
from mmembed.export.onnx_quantization import Quantization, method_for, noisiest_nodes, quantize_graph, write_half
from mmembed.export.onnx_sessions import OnnxRuntimeSession, Session
from mmembed.export.onnx_verbs import ExportError, exportable, is_fixed_width, verb_features, verbs_of
from mmembed.export.parity_gate import LIMITS, Parity, ParityLimits, judged, measure_parity
from mmembed.export.parity_inputs import ParityInputs, synthetic_inputs
from mmembed.export.parity_reference import Reference, graph_features, run_graph
from mmembed.models.multimodal_transformer import adopt
from mmembed.rerankers.text_pairs import PairTransformer

_CALIBRATION_BATCH = 8
_MOST_IN_FLOAT = 16  # nodes that "auto" leaves in float at most


def export_onnx(
    model: SentenceTransformer | CrossEncoder,
    folder: str | os.PathLike[str],
    *,
    verbs: Sequence[str] | None = None,
    precisions: Sequence[str] = ("fp32",),
    inputs: ParityInputs | None = None,
    quantization: Quantization | None = None,
    backends: Sequence[str] = ("onnxruntime",),
    limits: Mapping[str, ParityLimits] | None = None,
    opset: int = OPSET,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
    model_name: str | None = None,
    overwrite: bool = False,
    show_progress_bar: bool = True,
) -> list[Parity]:
    """Export a model to a folder that `OnnxEmbedder`, or ONNX Runtime alone, runs without its weights.

    A graph holds all that `encode` does after the tokenizer and the image processor: towers, pooling, projection,
    normalisation. Before it is kept, it is run on real rows in batches of 1, 3 and 8, in both orders and with more padding,
    and compared with the model (`mmembed.export.parity_gate`); one that differs is not written under its name. A folder
    that an interrupted or refused export left is gone on with: graphs that are there and whole are not made again.

    Args:
        model: A `SentenceTransformer` of a text embedder, of two towers or of mmembed's own kind, or a `CrossEncoder` of
            texts. A stock first module is adopted, as `load_model` does.
        folder: Where to; new, empty, or an earlier export of this very model.
        verbs: Of "text", "image", "fused", "reranker"; all that the model has when None.
        precisions: Of "fp32", "fp16", "int8".
        inputs: Real rows to compare and to calibrate on; drawn ones when None, and the report says so.
        quantization: How "int8" is done.
        backends: Of "onnxruntime" and "openvino"; the latter adds graphs that OpenVINO runs.
        limits: What each precision must keep, instead of `mmembed.export.parity_gate.LIMITS`.
        opset: Version of ONNX's operators.
        external_data_above: Bytes of weights above which they lie in a file of their own.
        model_name: How the manifest calls the model.
        overwrite: Replace an export of another model.
        show_progress_bar: Show one over the graphs.

    Returns:
        How each graph compares with the model.

    Raises:
        ParityError: If a graph was refused; the others are in the folder, and the report.
        ExportError: If the model cannot be exported, or the folder holds something else.
        ImportError: Without the `onnx` extra, or that of a backend.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> folder = str(getfixture("tmp_path")) + "/export"
        >>> report = export_onnx(model, folder, verbs=["image"], show_progress_bar=False)
        >>> report[0].name, report[0].passed, report[0].max_difference < 1e-5
        ('image_fp32', True, True)
    """
    require_onnx()
    _check_names("precisions", precisions, PRECISIONS)
    _check_names("backends", backends, BACKENDS)
    if isinstance(model, SentenceTransformer):
        adopt(model)
    known = verbs_of(model)
    verbs = known if verbs is None else list(dict.fromkeys(verbs))
    _check_names("verbs", verbs, known)
    about = _about(model, model_name, opset)
    model = _in_float32(model)
    inputs = inputs if inputs is not None else synthetic_inputs(verbs)
    reference = Reference(model, inputs, verbs)
    if about["kind"] == "embedder":
        # What it gives: not every model says so itself (SigLIP's towers project to another width than that of its texts).
        about["dim"] = reference.vectors(verbs[0]).shape[1]
    target = ExportFolder(folder, about, lambda place: _write_reader(model, place), overwrite=overwrite)
    gate = _Gate(target, reference, reader_of_export(folder, about), {**LIMITS, **(limits or {})})
    settings = quantization or Quantization()
    wanted = [
        (verb, precision, backend)
        for verb in verbs
        for precision in PRECISIONS
        for backend in BACKENDS
        if precision in precisions and backend in backends
    ]
    with tqdm(total=len(wanted), desc="export", unit="graph", disable=not show_progress_bar) as bar:
        for verb, precision, backend in wanted:
            name = graph_name(verb, precision, backend)
            bar.set_postfix_str(name)
            if name not in target.graphs:
                with _exact_graph(gate, model, verb, opset, external_data_above) as exact:
                    _add(gate, exact, verb, precision, backend, settings)
            bar.update()
    return target.finished([graph_name(*one) for one in wanted])


def quantize_onnx(
    folder: str | os.PathLike[str],
    *,
    verbs: Sequence[str] | None = None,
    precisions: Sequence[str] = ("int8",),
    inputs: ParityInputs | None = None,
    quantization: Quantization | None = None,
    limits: Mapping[str, ParityLimits] | None = None,
    show_progress_bar: bool = True,
) -> list[Parity]:
    """Add smaller graphs to an export, from its float32 ones; the model's weights are not needed.

    Args:
        folder: What `export_onnx` wrote, with float32 graphs.
        verbs: Whose; of all that are there when None.
        precisions: "int8", "fp16".
        inputs: Real rows to compare and to calibrate on; drawn ones when None, and the report says so.
        quantization: How "int8" is done.
        limits: What each precision must keep of the float32 graph.
        show_progress_bar: Show one over the graphs.

    Returns:
        How each new graph compares with the float32 one.

    Raises:
        ParityError: If a graph was refused; nothing of it is kept.
        ExportError: If the folder has no float32 graph.

    Example:
        >>> quantize_onnx("runs/onnx", inputs=ParityInputs(texts=["red mug", ...]))  # doctest: +SKIP
    """
    _check_names("precisions", precisions, PRECISIONS[1:])
    model = load_export(folder, precision="fp32")
    known = list(model.graphs)
    verbs = known if verbs is None else list(dict.fromkeys(verbs))
    _check_names("verbs", verbs, known)
    inputs = inputs if inputs is not None else synthetic_inputs(verbs)
    reference = Reference(model, inputs, verbs)
    target = ExportFolder(folder, model.about)
    gate = _Gate(target, reference, model[0], {**LIMITS, **(limits or {})})
    wanted = [(verb, precision) for verb in verbs for precision in PRECISIONS if precision in precisions]
    with tqdm(total=len(wanted), desc="quantize", unit="graph", disable=not show_progress_bar) as bar:
        for verb, precision in wanted:
            name = graph_name(verb, precision)
            bar.set_postfix_str(name)
            if name not in target.graphs:
                source = Path(folder) / model.graphs[verb].path
                _add(gate, source, verb, precision, "onnxruntime", quantization or Quantization())
            bar.update()
    return target.finished([graph_name(*one) for one in wanted])


# --- one graph ---------------------------------------------------------------------------------------------------


class _Gate:
    """What every graph of an export has to pass."""

    def __init__(
        self, target: ExportFolder, reference: Reference, reader: Any, limits: Mapping[str, ParityLimits]
    ) -> None:
        self.target, self.reference, self.reader, self.limits = target, reference, reader, limits

    def measure(self, session: Session, verb: str, precision: str, name: str, size: int) -> Parity:
        def encode(rows: Sequence[Any], padding: int = 0) -> Any:
            return run_graph(session, self.reader, rows, padding)

        rows, vectors = self.reference.rows[verb], self.reference.vectors(verb)
        found = measure_parity(
            name, encode, rows, vectors, limits=self.limits[precision], source=self.reference.inputs.source
        )
        if found.passed:
            found = judged(found, self.reference.ndcg(verb, encode), self.limits[precision])
        found.size = size
        return found

    def calibration(self, verb: str) -> list[dict[str, Any]]:
        """Every second row, in batches: the gate has others to look at as well."""
        rows = self.reference.rows[verb][::2]
        return [
            graph_features(self.reader, rows[start : start + _CALIBRATION_BATCH])
            for start in range(0, len(rows), _CALIBRATION_BATCH)
        ]


def _add(gate: _Gate, exact: Path, verb: str, precision: str, backend: str, settings: Quantization) -> None:
    """Make one graph out of the float32 one, measure it, and keep or refuse it."""
    name = graph_name(verb, precision, backend)
    tried: Parity | None = None
    for kept_in_float in _ladder(gate, exact, verb, precision, settings):
        with gate.target.aside() as place:
            graph = _made(gate, exact, place, verb, precision, backend, settings, kept_in_float)
            size = sum(path.stat().st_size for path in place.iterdir())
            found = gate.measure(graph.session, verb, precision, name, size)
            if kept_in_float:
                found.note = f"{len(kept_in_float)} nodes left in float32"
            if found.passed:
                gate.target.keep(
                    place,
                    found,
                    graph.session,
                    verb=verb,
                    precision=precision,
                    backend=backend,
                    path=graph.path,
                    quantization=graph.done,
                )
                return
            tried = found
    assert tried is not None
    gate.target.refuse(tried)


class _Made(NamedTuple):
    session: Session
    path: str
    done: dict[str, Any]


def _made(
    gate: _Gate,
    exact: Path,
    place: Path,
    verb: str,
    precision: str,
    backend: str,
    settings: Quantization,
    kept_in_float: Sequence[str],
) -> _Made:
    half = precision == "fp16"
    if precision == "int8":
        static = method_for(exact, settings.method) == "static"
        done = quantize_graph(
            exact,
            place,
            settings,
            calibration=gate.calibration(verb) if static else (),
            keep_float=kept_in_float,
        )
    elif half and backend == "onnxruntime":
        done = write_half(exact, place)
    else:
        done = {}
        for path in exact.parent.iterdir():
            shutil.copyfile(path, place / path.name)
    if backend == "openvino":
        from mmembed.export.openvino import OpenVinoSession, write_openvino

        path = write_openvino(place, half=half)
        return _Made(OpenVinoSession(path, exact=precision == "fp32"), path.name, done)
    return _Made(OnnxRuntimeSession(place / MODEL), MODEL, done)


def _ladder(gate: _Gate, exact: Path, verb: str, precision: str, settings: Quantization) -> Iterator[list[str]]:
    """Which nodes stay in float32: none, and where that does not pass, more and more of the noisiest."""
    if precision != "int8" or not isinstance(settings.keep_float, (int, str)):
        yield (
            list(settings.keep_float) if precision == "int8" and not isinstance(settings.keep_float, (int, str)) else []
        )
        return
    if settings.keep_float in (0, "auto"):
        yield []
    if settings.keep_float == 0:
        return
    rows = gate.reference.rows[verb][:: max(1, len(gate.reference.rows[verb]) // 16)]
    per_row = settings.per_row and method_for(exact, settings.method) == "dynamic"
    noisy = noisiest_nodes(exact, graph_features(gate.reader, rows), per_row=per_row)
    if isinstance(settings.keep_float, int):
        yield noisy[: settings.keep_float]
        return
    count = 1
    while count <= min(_MOST_IN_FLOAT, len(noisy) // 2):
        yield noisy[:count]
        count *= 2


@contextmanager
def _exact_graph(gate: _Gate, model: Any, verb: str, opset: int, external_data_above: int) -> Iterator[Path]:
    """The float32 graph of a verb: the one in the folder, or one traced aside."""
    there = gate.target.graphs.get(graph_name(verb, "fp32"))
    if there is not None:
        yield gate.target.folder / there.path
        return
    with gate.target.aside() as place, exportable(model) as traced:
        rows = gate.reference.rows[verb][:3]
        yield write_graph(
            traced, verb, verb_features(traced, verb, rows), place, opset=opset, external_data_above=external_data_above
        )


# --- the model ---------------------------------------------------------------------------------------------------


def _in_float32(model: Any) -> Any:
    """The model on the CPU in float32: itself, or a copy."""
    if all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.int64) for p in model.parameters()):
        return model
    return copy.deepcopy(model).to("cpu").float()


def _about(model: Any, model_name: str | None, opset: int) -> dict[str, Any]:
    """What the manifest says of the model as a whole."""
    import onnx
    import onnxruntime
    import sentence_transformers
    import transformers

    from mmembed import __version__

    reranker = isinstance(model, CrossEncoder)
    module = model[0]
    about: dict[str, Any] = {
        "kind": "reranker" if reranker else "embedder",
        "model": _public_name(model_name or module.model.config._name_or_path),
        "architecture": type(module.model).__name__,
        "model_fingerprint": model_fingerprint(model),
        "max_length": model.max_seq_length,
        "fixed_length": is_fixed_width(model),
        "padding_side": module.tokenizer.padding_side if module.tokenizer is not None else None,
        "prompts": dict(model.prompts),
        "default_prompt_name": model.default_prompt_name,
        "opset": opset,
        "versions": {
            "mmembed": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence_transformers": sentence_transformers.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
    if reranker:
        activation = type(model.activation_fn).__name__
        if activation not in ACTIVATIONS:
            raise ExportError(f"the reranker's activation is {activation}; exported are {', '.join(ACTIVATIONS)}.")
        query_first = isinstance(module, PairTransformer)
        return {
            **about,
            "labels": model.num_labels,
            "activation": activation,
            "query_first": query_first,
            "query_max_length": module.query_max_length if query_first else None,
        }
    pooling = [part.pooling_mode for part in model if isinstance(part, Pooling)]
    return {
        **about,
        "truncate_dim": model.truncate_dim,
        "similarity": model.similarity_fn_name,
        "pooling": pooling[0] if pooling else None,
        "normalized": any(isinstance(part, Normalize) for part in model),
    }


def _public_name(name: str) -> str:
    """A model's name without the folders of this machine."""
    return os.path.basename(name.rstrip(os.sep)) if os.path.isdir(name) else name


def _write_reader(model: Any, folder: Path) -> None:
    """What turns rows into tensors: configuration, tokenizer, image processor; no weights and no code."""
    module = model[0]
    module.processor.save_pretrained(folder)
    config = copy.deepcopy(module.model.config)
    if hasattr(config, "auto_map"):
        del config.auto_map
    config.to_json_file(folder / "config.json")
    module.save_config(str(folder))
    plain_reader_files(folder)


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(given, str) or not given or not set(given) <= set(known):
        raise ExportError(f"{what}={given!r}; choose of {', '.join(known)}.")
