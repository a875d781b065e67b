"""An export as a model: a SentenceTransformer, or a CrossEncoder, whose numbers come from graphs instead of PyTorch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import PretrainedConfig

from mmembed.export.onnx_files import MANIFEST, ExportedGraph, check_files, read_export
from mmembed.export.onnx_sessions import Session, open_graph
from mmembed.export.onnx_verbs import ExportError
from mmembed.models.multimodal_transformer import MultimodalTransformer
from mmembed.rerankers.text_pairs import PairTransformer

#: What a reranker's logit becomes a score by.
ACTIVATIONS: dict[str, type[nn.Module]] = {"Identity": nn.Identity, "Sigmoid": nn.Sigmoid}


class OnnxEmbedder(SentenceTransformer):
    """The graphs that `export_onnx` wrote, in the place of the model: `encode` and all else of a `SentenceTransformer`.

    A row is a text, an image or both, and rows may be mixed; each goes to the graph of its kind. A string is always a
    text. Texts are sorted by length, so that a batch is padded little.

    Args:
        folder: What `export_onnx` wrote.
        precision: "fp32", "fp16" or "int8"; or one for each verb, such as {"text": "int8", "image": "fp32"}. None: the
            most exact that is there.
        backend: "onnxruntime" or "openvino".
        threads: Threads of one operator; None lets the runtime take one a core.
        providers: Execution providers of ONNX Runtime, best first; the CPU's when None.

    Raises:
        ExportError: If the folder is no export of an embedding model, a file in it is not what was written or leads out of
            it, or it lacks what was asked for.
        ImportError: Without the extra of the backend.

    Example:
        >>> embedder = OnnxEmbedder("runs/onnx", precision="int8", threads=2)  # doctest: +SKIP
        >>> embedder.encode(["a red mug", {"text": "mug", "image": photo}]).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        precision: str | Mapping[str, str] | None = None,
        backend: str = "onnxruntime",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        about, graphs = _opened(folder, "embedder")
        chosen = _chosen(graphs, precision, backend, folder)
        super().__init__(
            modules=[reader_of_export(folder, about)],
            device="cpu",
            prompts=about.get("prompts"),
            default_prompt_name=about.get("default_prompt_name"),
            similarity_fn_name=about.get("similarity"),
            truncate_dim=about.get("truncate_dim"),
        )
        self.folder = os.fspath(folder)
        self.about = about
        self.graphs: dict[str, ExportedGraph] = chosen
        self._options: dict[str, Any] = dict(precision=precision, backend=backend, threads=threads, providers=providers)
        self._sessions: dict[str, Session] = {
            verb: open_graph(folder, graph, threads=threads, providers=providers) for verb, graph in chosen.items()
        }
        self.eval()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> OnnxEmbedder:  # type: ignore[override]
        """The same as the class itself: `OnnxEmbedder(folder, **options)`."""
        return cls(folder, **options)

    @property
    def verbs(self) -> list[str]:
        """What it can encode: "text", "image", "fused"."""
        return list(self.graphs)

    @property
    def modalities(self) -> list[Any]:
        """The modalities that there is a graph for, as `SentenceTransformer.modalities` names them."""
        reader: Any = self[0]
        known = [verb for verb in ("text", "image") if verb in self.graphs]
        fused = [("image", "text")] if "fused" in self.graphs else []
        # Mixed rows are messages to sentence-transformers.
        return [*known, *fused, *(["message"] if "message" in reader.modalities else [])]

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Vectors of preprocessed rows, under "sentence_embedding".

        Args:
            input: What `preprocess` returns.
            **kwargs: Not read.

        Returns:
            The same dictionary with float32 (rows, dim) added.

        Raises:
            ExportError: If a row is of a kind of which there is no graph.
        """
        has_text, has_image = _kinds(input)
        vectors = np.empty((len(has_text), int(self.about["dim"])), dtype=np.float32)
        kinds = {"text": has_text & ~has_image, "image": has_image & ~has_text, "fused": has_text & has_image}
        for verb, rows in kinds.items():
            if not rows.any():
                continue
            if verb not in self._sessions:
                raise ExportError(
                    f"{int(rows.sum())} rows are to be encoded as {verb}, and {self.folder} has graphs of "
                    f"{', '.join(self.graphs)}; export that verb too."
                )
            features = _of_rows(input, rows, has_image)
            vectors[rows] = self._sessions[verb].run(features)[0]
        input["sentence_embedding"] = torch.from_numpy(vectors)
        return input

    def get_embedding_dimension(self) -> int:
        """Length of the vectors, after `truncate_dim` where that is set."""
        dim = int(self.about["dim"])
        return dim if self.truncate_dim is None else min(dim, self.truncate_dim)

    def save_pretrained(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Copy the export's files that the manifest names.

        Args:
            path: A new folder.
            *args: Not read.
            **kwargs: Not read.
        """
        _copy(self.folder, path)

    save = save_pretrained

    def extra_repr(self) -> str:
        """The graphs by their hashes: by this a store of vectors tells one export from another."""
        return ", ".join(f"{graph.name}={graph.files[graph.path]}" for graph in self.graphs.values())

    def __reduce__(self) -> tuple[Any, ...]:
        # Sessions cannot be sent to another process; the folder can be opened there.
        return _reopened, (type(self), self.folder, self._options, self.prompts, self.truncate_dim)

    def __deepcopy__(self, memo: Any) -> OnnxEmbedder:
        return self


class OnnxReranker(CrossEncoder):
    """A reranker that `export_onnx` wrote, in the place of the model: `predict` and `rank` of a `CrossEncoder`.

    Args:
        folder: What `export_onnx` wrote.
        precision: "fp32", "fp16" or "int8"; None: the most exact that is there.
        backend: "onnxruntime" or "openvino".
        threads: Threads of one operator; None lets the runtime take one a core.
        providers: Execution providers of ONNX Runtime, best first; the CPU's when None.

    Raises:
        ExportError: If the folder is no export of a reranker, a file in it is not what was written or leads out of it, or
            it lacks what was asked for.
        ImportError: Without the extra of the backend.

    Example:
        >>> OnnxReranker("runs/reranker-onnx").predict([("red mug", "a red mug")])  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        precision: str | None = None,
        backend: str = "onnxruntime",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        about, graphs = _opened(folder, "reranker")
        chosen = _chosen(graphs, precision, backend, folder)
        super().__init__(
            modules=[reader_of_export(folder, about)],
            device="cpu",
            prompts=about.get("prompts"),
            default_prompt_name=about.get("default_prompt_name"),
            activation_fn=ACTIVATIONS[about["activation"]](),
        )
        self.folder = os.fspath(folder)
        self.about = about
        self.graphs: dict[str, ExportedGraph] = chosen
        self._options: dict[str, Any] = dict(precision=precision, backend=backend, threads=threads, providers=providers)
        self._session = open_graph(folder, chosen["reranker"], threads=threads, providers=providers)
        self.eval()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> OnnxReranker:
        """The same as the class itself: `OnnxReranker(folder, **options)`."""
        return cls(folder, **options)

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Logits of preprocessed pairs, under "scores", as `CrossEncoder.forward` gives them.

        Args:
            input: What `preprocess` returns.
            **kwargs: Not read.

        Returns:
            The same dictionary with float32 (pairs, labels) added.
        """
        features = {name: value.numpy() for name, value in input.items() if isinstance(value, Tensor)}
        logits = self._session.run(features)[list(self._session.outputs).index("logits")]
        input["scores"] = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))
        return input

    def save_pretrained(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Copy the export's files that the manifest names, to a new folder."""
        _copy(self.folder, path)

    save = save_pretrained

    def extra_repr(self) -> str:
        """The graph by its hash."""
        return ", ".join(f"{graph.name}={graph.files[graph.path]}" for graph in self.graphs.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self.folder, self._options, self.prompts, None)

    def __deepcopy__(self, memo: Any) -> OnnxReranker:
        return self


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `export_onnx` wrote.

    Example:
        >>> is_export("/nowhere")
        False
    """
    return (Path(folder) / MANIFEST).is_file()


def load_export(folder: str | os.PathLike[str], **options: Any) -> OnnxEmbedder | OnnxReranker:
    """The model that an export is.

    Args:
        folder: What `export_onnx` wrote.
        **options: Arguments of `OnnxEmbedder` or `OnnxReranker`.

    Returns:
        One or the other.
    """
    about, _ = read_export(folder)
    return OnnxReranker(folder, **options) if about.get("kind") == "reranker" else OnnxEmbedder(folder, **options)


# --- the folder --------------------------------------------------------------------------------------------------


def _opened(folder: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], list[ExportedGraph]]:
    about, graphs = read_export(folder)
    if about.get("kind") != kind:
        other = "OnnxReranker" if kind == "embedder" else "OnnxEmbedder"
        raise ExportError(f"{folder} is the export of {about.get('kind')!r}, not of {kind!r}; open it with {other}.")
    if kind == "embedder" and (type(about.get("dim")) is not int or about["dim"] < 1):
        raise ExportError(f"{folder}: the manifest's dim is {about.get('dim')!r}.")
    if kind == "reranker" and about.get("activation") not in ACTIVATIONS:
        raise ExportError(f"{folder}: the manifest's activation is {about.get('activation')!r}.")
    check_files(folder, about["files"])
    return about, graphs


def _chosen(
    graphs: Sequence[ExportedGraph],
    precision: str | Mapping[str, str] | None,
    backend: str,
    folder: str | os.PathLike[str],
) -> dict[str, ExportedGraph]:
    """Verb → its graph."""
    here = [graph for graph in graphs if graph.backend == backend]
    chosen: dict[str, ExportedGraph] = {}
    for verb in dict.fromkeys(graph.verb for graph in here):
        ones = {graph.precision: graph for graph in here if graph.verb == verb}
        wanted = precision.get(verb) if isinstance(precision, Mapping) else precision
        if wanted is None:
            wanted = next(name for name in ("fp32", "fp16", "int8") if name in ones)
        if wanted in ones:
            chosen[verb] = ones[wanted]
        elif isinstance(precision, Mapping):
            raise ExportError(f"{folder} has no {wanted} graph of {verb}; it has {', '.join(ones)}.")
    if not chosen:
        there = ", ".join(graph.name for graph in graphs) or "no graph"
        raise ExportError(f"{folder} has no graph of precision {precision} for {backend}; it has {there}.")
    return chosen


class _NoWeights(nn.Module):
    """Stands where the transformers model stood."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = torch.float32


def reader_of_export(folder: str | os.PathLike[str], about: Mapping[str, Any]) -> Any:
    """The model's first module without its weights: what turns rows into tensors, exactly as the model did.

    Args:
        folder: The export's folder.
        about: What its manifest says of the model.

    Returns:
        A `MultimodalTransformer`, or what a reranker reads pairs with.

    Raises:
        ExportError: If the tokenizer or the processor cannot be loaded.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind: type[Any] = MultimodalTransformer
    if about["kind"] == "reranker":
        kind = PairTransformer if about.get("query_first") else Transformer

    class WithoutWeights(kind):
        def _load_model(self, name: str, task: str, config: PretrainedConfig, *args: Any, **kwargs: Any) -> Any:
            auto = AutoModelForSequenceClassification if task == "sequence-classification" else AutoModel
            with torch.device("meta"):
                return auto.from_config(config)

    try:
        module: Any = WithoutWeights.load(os.fspath(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ExportError(f"{folder}: its tokenizer or processor cannot be loaded: {error}") from error
    if getattr(module, "is_dual_encoder", False):
        _ = module._text_arguments  # looked up in the model's method, and remembered
    module.__class__ = kind
    module.model = _NoWeights(module.config)
    module.max_seq_length = about["max_length"]
    if about.get("query_first"):
        module.query_max_length = about.get("query_max_length")
    return module


def _reopened(
    kind: type[Any], folder: str, options: dict[str, Any], prompts: dict[str, str], truncate_dim: int | None
) -> Any:
    model = kind(folder, **options)
    model.prompts = prompts
    if truncate_dim is not None:
        model.truncate_dim = truncate_dim
    return model


def _copy(folder: str, path: str) -> None:
    about, graphs = read_export(folder)
    names = [MANIFEST, *about["files"], *(name for graph in graphs for name in graph.files)]
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ExportError(f"{path} is there already; name a new folder.")
    for name in names:
        target = Path(path) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / name, target)


# --- the rows ----------------------------------------------------------------------------------------------------


def _kinds(features: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """For each row whether it has a text, and whether it has an image."""
    if "input_ids" in features:
        mask = features.get("attention_mask")
        count = len(features["input_ids"])
        has_text = np.ones(count, dtype=bool) if mask is None else mask.bool().any(dim=1).numpy()
    else:
        count = len(features["pixel_values"])
        has_text = np.zeros(count, dtype=bool)
    if "pixel_values" not in features:
        return has_text, np.zeros(count, dtype=bool)
    counts = features.get("num_images_per_sample")
    has_image = np.ones(count, dtype=bool) if counts is None else counts.bool().numpy()
    if int(has_image.sum()) != len(features["pixel_values"]):
        raise ExportError(f"{len(features['pixel_values'])} images for {int(has_image.sum())} rows with an image.")
    return has_text, has_image


def _of_rows(features: Mapping[str, Any], rows: np.ndarray, has_image: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows' inputs of a graph."""
    taken = {}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in features:
            taken[name] = features[name].numpy()[rows]
    if "pixel_values" in features:
        taken["pixel_values"] = features["pixel_values"].numpy()[rows[has_image]]
    return taken
