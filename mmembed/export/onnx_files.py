"""What stands in a folder of an export, and is it what was written? The manifest, the hashes, and weights in files of their own.

mmembed_onnx.json          what the folder holds: graphs, inputs, outputs, parity, SHA-256 of every file
text_fp32/model.onnx       a graph; model.onnx.data beside it where the weights are large
text_int8/model.onnx       the same in another precision; image_…, fused_…, reranker_… likewise
parity.json, parity.txt    what the parity gate measured, also of what it refused
config.json, tokenizer…    what turns rows into the graphs' inputs
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmembed.export.onnx_verbs import VERBS, ExportError
from mmembed.whole_files import write_whole

MANIFEST = "mmembed_onnx.json"
FORMAT = "mmembed-onnx"
VERSION = 1
PRECISIONS = ("fp32", "fp16", "int8")
BACKENDS = ("onnxruntime", "openvino")

_LARGEST_MANIFEST = 4 << 20
_LARGEST_PROTOBUF = 1 << 31
_FILE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}/)?[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ExportedGraph:
    """One graph of an export.

    Args:
        verb: "text", "image", "fused" or "reranker".
        precision: "fp32", "fp16" or "int8".
        backend: "onnxruntime" for an .onnx file, "openvino" for an .xml with its .bin.
        path: Of the file to open, below the export's folder.
        inputs: Name → {"dtype", "shape"}; names in a shape stand for any number.
        outputs: The same of the outputs, the one that counts first.
        files: Each of its files → its SHA-256.
        size: Bytes of all of them.
        quantization: How it was quantised; empty where it was not.
        parity: What the gate measured.
    """

    verb: str
    precision: str
    backend: str
    path: str
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    files: dict[str, str]
    size: int
    quantization: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder of its files, which is also what the report calls it."""
        return graph_name(self.verb, self.precision, self.backend)


def graph_name(verb: str, precision: str, backend: str = "onnxruntime") -> str:
    """What a graph, its folder and its row in the report are called.

    Example:
        >>> graph_name("text", "int8"), graph_name("text", "fp32", "openvino")
        ('text_int8', 'text_fp32_openvino')
    """
    return f"{verb}_{precision}" + ("" if backend == "onnxruntime" else f"_{backend}")


def read_export(folder: str | os.PathLike) -> tuple[dict[str, Any], list[ExportedGraph]]:
    """The manifest of an export, its fields checked; no other file is opened.

    Args:
        folder: The folder.

    Returns:
        What holds for the model as a whole, and its graphs.

    Raises:
        ExportError: If it is no such folder, with what is wrong.
    """
    path = Path(folder) / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ExportError(f"{path} is larger than {_LARGEST_MANIFEST >> 20} MiB; it is no manifest.")
        manifest = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        what = "holds no export" if Path(folder).is_dir() else "does not exist"
        raise ExportError(f"{folder} {what}: there is no {MANIFEST}; write it with export_onnx.") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{path} cannot be read ({error}); export the model again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ExportError(f"{path} is not the manifest of an export: no format {FORMAT!r}.")
    if manifest.get("version") != VERSION:
        raise ExportError(f"{path} has version {manifest.get('version')!r}; this mmembed reads version {VERSION}.")
    graphs = manifest.pop("graphs", None)
    if not isinstance(graphs, list):
        raise ExportError(f"{path}: 'graphs' is no list.")
    _check_files(manifest.get("files"), path, "files")
    return manifest, [_graph(entry, path) for entry in graphs]


def write_manifest(folder: str | os.PathLike, about: Mapping[str, Any], graphs: Iterable[ExportedGraph]) -> None:
    """Write the manifest, whole.

    Args:
        folder: The export's folder.
        about: What holds for the model as a whole.
        graphs: Its graphs.
    """
    manifest = {"format": FORMAT, "version": VERSION, **about, "graphs": [asdict(graph) for graph in graphs]}
    write_text(Path(folder) / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole."""

    def write(new: str) -> None:
        with open(new, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

    write_whole(path, write)


def check_files(folder: str | os.PathLike, files: Mapping[str, str]) -> None:
    """Make sure that files are there, lie in the folder, and are what was written.

    Args:
        folder: The export's folder.
        files: Path below it → SHA-256.

    Raises:
        ExportError: For the first that is missing, is a link (also a hard one), lies behind a link, or differs.
    """
    for name, digest in files.items():
        path = plain_file(folder, name)
        if sha256(path) != digest:
            raise ExportError(
                f"{path} is not the file that was written (its SHA-256 differs): it was damaged, cut or exchanged; "
                "export the model again."
            )


def plain_file(folder: str | os.PathLike, name: str) -> Path:
    """A file of the folder, once it is sure that it leads nowhere else.

    Args:
        folder: The folder; it may itself be reached through links.
        name: "file" or "folder/file".

    Returns:
        Its path.

    Raises:
        ExportError: If the name leads out, or the file or its folder is a link, or the file has another name elsewhere.
    """
    if not isinstance(name, str) or not _FILE.fullmatch(name) or ".." in name:
        raise ExportError(f"{folder}: {name!r} is no plain name of a file in the folder.")
    path = Path(folder)
    for part in name.split("/"):
        path = path / part
        try:
            found = os.lstat(path)
        except OSError as error:
            raise ExportError(f"{path} is missing ({error.strerror}); export the model again.") from None
        if stat.S_ISLNK(found.st_mode):
            raise ExportError(
                f"{path} is a link, which may lead anywhere; copy the folder with its files (snapshot_download with "
                "local_dir does)."
            )
    if not stat.S_ISREG(found.st_mode):
        raise ExportError(f"{path} is no plain file.")
    if found.st_nlink != 1:
        raise ExportError(f"{path} is a hard link: the same file has another name elsewhere; copy it.")
    return path


def external_data(path: str | os.PathLike) -> list[str]:
    """The files beside an .onnx file that hold its weights, once it is sure that they lie there.

    A graph names files for its weights by paths of its own choice, and whoever opens it reads them. Here such a path is
    the plain name of a file in the very folder; nothing is opened but the graph itself.

    Args:
        path: The .onnx file.

    Returns:
        Their names, sorted; none where all weights are in the graph.

    Raises:
        ExportError: If it is no graph, or a tensor lies elsewhere or past the end of its file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path)
    if path.stat().st_size >= _LARGEST_PROTOBUF:
        raise ExportError(f"{path} is larger than 2 GiB; no protobuf is.")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ExportError(f"{path} is no ONNX file ({type(error).__name__}); export the model again.") from None
    names: set[str] = set()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location in ("", ".", "..") or re.search(r"[/\\:\x00]", location):
            raise ExportError(
                f"{path}: the tensor {tensor.name!r} lies in {location!r}; weights are read from the graph's own folder only."
            )
        file = plain_file(path.parent, location)
        try:
            offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
        except ValueError:
            raise ExportError(f"{path}: the tensor {tensor.name!r} has no whole offset and length.") from None
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise ExportError(f"{path}: the tensor {tensor.name!r} reaches past the end of {location}.")
        names.add(location)
    return sorted(names)


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model: of its graphs, those inside of nodes too, and of its functions."""
    graphs = [model.graph, *(info for info in model.training_info for info in (info.initialization, info.algorithm))]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield sparse.values
                yield sparse.indices
            nodes.extend(graph.node)
        while nodes:
            for attribute in nodes.pop().attribute:
                # Fields of every kind, whatever the attribute says that its kind is.
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                sparse_tensors = list(attribute.sparse_tensors)
                if attribute.HasField("sparse_tensor"):
                    sparse_tensors.append(attribute.sparse_tensor)
                for sparse in sparse_tensors:
                    yield sparse.values
                    yield sparse.indices
                graphs.extend(attribute.graphs)
                if attribute.HasField("g"):
                    graphs.append(attribute.g)


def _graph(entry: Any, path: Path) -> ExportedGraph:
    known = set(ExportedGraph.__dataclass_fields__)
    if not isinstance(entry, dict) or set(entry) != known:
        raise ExportError(f"{path}: a graph has other fields than {', '.join(sorted(known))}.")
    for name, allowed in (("verb", VERBS), ("precision", PRECISIONS), ("backend", BACKENDS)):
        if entry[name] not in allowed:
            raise ExportError(f"{path}: {name} {entry[name]!r} is not one of {', '.join(allowed)}.")
    _check_files(entry["files"], path, "files of a graph")
    if entry["path"] not in entry["files"]:
        raise ExportError(f"{path}: the file {entry['path']!r} of a graph has no SHA-256.")
    for name in ("inputs", "outputs"):
        values = entry[name]
        if not isinstance(values, dict) or not values or not all(isinstance(one, dict) for one in values.values()):
            raise ExportError(f"{path}: {name} of a graph is no object of names.")
    return ExportedGraph(**entry)


def _check_files(files: Any, path: Path, what: str) -> None:
    if not isinstance(files, dict):
        raise ExportError(f"{path}: {what} is no object of names and SHA-256s.")
    for name, digest in files.items():
        if not _FILE.fullmatch(name) or ".." in name or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ExportError(f"{path}: {what} holds {name!r}: {digest!r}; expected a plain name and a SHA-256.")
