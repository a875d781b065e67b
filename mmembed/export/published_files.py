"""Which files of a model's folder are published, and why do the others stay behind?

A folder that was trained in holds more than a model: optimizer states and arguments as pickles, caches, logs, a token. Only
kinds of files that a model has are published, and each of the others is told with its reason.
"""

from __future__ import annotations

import ast
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from mmembed.export.onnx_files import MANIFEST, check_files, read_export
from mmembed.models.folder_checks import check_model_folder, read_json

Source = Path | bytes  # of a published file: where it lies, or what it holds

_PICKLES = frozenset(
    ".bin .ckpt .dill .h5 .joblib .npy .npz .pickle .pkl .pt .pth .msgpack .keras".split()
)  # formats that can carry code, or that nobody needs beside safetensors
_SUFFIXES = frozenset(
    ".safetensors .json .txt .md .model .spm .jinja .png .jpg .jpeg .webp .gif .onnx .onnx_data .data".split()
)
_NAMES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|CITATION)[\w.-]*")
_FOLDERS = re.compile(r"checkpoint-\d+|runs|logs|wandb|__pycache__|\..*")
_TRAINING = frozenset({"trainer_state.json", "training_args.json", "metrics.json", "progress.json"})
_RESULTS = ".eval_results"
_TOLD_OF_EXPORT = ("README.md", "parity.json", "parity.txt")
_ROOTS = ("config.json", "modules.json", "adapter_config.json")
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6)) + (b"PK\x03\x04", b"\x93NUMPY")
_MOST_HEADER = 100 << 20  # bytes; what safetensors itself allows
_MOST_TEXT = 16 << 20
_TEXTS = (".json", ".txt", ".md", ".jinja", ".py", ".yaml", "")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")


class PublishError(ValueError):
    """A model that is not fit to be published, with what to do."""


def choose_files(folder: str | os.PathLike[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Look a model's folder through and choose what of it is published.

    Args:
        folder: What sentence-transformers, transformers or mmembed saved: an embedding model, a `CrossEncoder`, an ONNX
            folder.

    Returns:
        The files by their path below the folder, with slashes; and the reason of each that stays behind.

    Raises:
        ModelError: The folder is hostile, see `check_model_folder`.
        PublishError: It holds no weights, a file is not what its name says, an index names what is not there, code is
            missing or taken from elsewhere, or a text holds a token.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "config.json").write_text('{"model_type": "bert"}')
        >>> _ = (folder / "training_args.bin").write_bytes(b"x")
        >>> _ = (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        >>> files, left_out = choose_files(folder)
        >>> sorted(files), left_out
        (['config.json', 'model.safetensors'], {'training_args.bin': 'a format that can carry code'})
    """
    root = Path(folder)
    check_model_folder(root)
    if (root / MANIFEST).is_file():
        return _of_export(root)
    if not any((root / name).is_file() for name in _ROOTS) and not any(root.glob("*.onnx")):
        runs = sorted(path.parent.name for path in root.glob("*/modules.json"))
        hint = f"; did you mean {root / runs[0]}?" if runs else ""
        raise PublishError(f"{root} is no model's folder: it has neither {', '.join(_ROOTS)} nor an ONNX file{hint}")
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    code: dict[str, Path] = {}
    for current, folders, names in os.walk(root):
        here = Path(current).relative_to(root).as_posix()
        for name in sorted(folders):
            if _FOLDERS.fullmatch(name) and not (here == "." and name == _RESULTS):
                folders.remove(name)
                left_out[_below(here, name) + "/"] = "a folder that is no part of a model"
        for name in sorted(names):
            path = _below(here, name)
            if name.endswith(".py"):
                code[path] = Path(current, name)
            elif reason := _reason(path):
                left_out[path] = reason
            else:
                files[path] = Path(current, name)
    named = _named_code(root, files, code)
    files |= {path: code[path] for path in named}
    left_out |= {path: "code that no configuration names" for path in sorted(set(code) - set(named))}
    _check_weights(root, files, left_out)
    for path, source in files.items():
        _check_file(path, source)
    return dict(sorted(files.items())), left_out


def check_secrets(files: Mapping[str, Source], token: str | None = None) -> None:
    """Refuse texts that hold a token of the Hub.

    Args:
        files: What is to be published.
        token: The token in use, if there is one.

    Raises:
        PublishError: Naming the file, never the token.
    """
    own = token.encode() if token else None
    for path, source in files.items():
        if Path(path).suffix not in _TEXTS:
            continue
        if isinstance(source, Path):
            with open(source, "rb") as file:
                text = file.read(_MOST_TEXT)
        else:
            text = source[:_MOST_TEXT]
        if _TOKEN.search(text) or (own and own in text):
            raise PublishError(
                f"{path} holds an access token of the Hub: take it out, and revoke it if others have seen it"
            )


def _below(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _reason(path: str) -> str:
    """Why a file stays behind; "" where it does not."""
    name, suffix = path.rpartition("/")[2], Path(path).suffix.lower()
    if suffix in _PICKLES:
        return "a format that can carry code"
    if name in _TRAINING:
        return "a record of training, not of the model"
    if path.startswith(f"{_RESULTS}/"):
        return "" if suffix == ".yaml" and path.count("/") == 1 else "no result of an evaluation"
    if _NAMES.fullmatch(name) and suffix not in (".yaml", ".yml"):
        return ""
    if name == ".gitattributes":
        return "the repository's own business"
    if name.startswith("."):
        return "hidden"
    return "" if suffix in _SUFFIXES else "no kind of file that a model has"


def _of_export(root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """An ONNX export has a list of its files with their hashes: these, and what is told about them."""
    about, graphs = read_export(root)
    check_files(root, about["files"])
    for graph in graphs:
        check_files(root, graph.files)
    if not graphs:
        raise PublishError(f"{root} is an export without a graph: its parity gate kept none")
    named = {MANIFEST, *about["files"], *(name for graph in graphs for name in graph.files)}
    files, left_out = {}, {}
    for path in sorted(one for one in root.rglob("*") if one.is_file()):
        name = path.relative_to(root).as_posix()
        told = "/" not in name and (_NAMES.fullmatch(name) or name in _TOLD_OF_EXPORT)
        if name in named or told or (name.startswith(f"{_RESULTS}/") and not _reason(name)):
            files[name] = path
        else:
            left_out[name] = "no file of the export"
    for name, source in files.items():
        _check_file(name, source)
    return files, left_out


# --- code --------------------------------------------------------------------------------------------------------


def _named_code(root: Path, files: Mapping[str, Path], code: Mapping[str, Path]) -> list[str]:
    """The code that configurations name, and what that imports beside itself; all of it must be here."""
    waiting = []
    for path, source in files.items():
        if path.endswith("config.json") and source.stat().st_size < _MOST_TEXT:
            content = read_json(source)
            map_of = content.get("auto_map") if isinstance(content, dict) else None
            for named in map_of.values() if isinstance(map_of, dict) else []:
                for one in named if isinstance(named, list) else [named]:
                    if one is not None:
                        waiting.append((path, _below(path.rpartition("/")[0] or ".", f"{one.split('.')[0]}.py")))
    found: list[str] = []
    while waiting:
        by, path = waiting.pop()
        if path in found:
            continue
        if path not in code:
            raise PublishError(f"{root / by} names the code {path}, which is not there: save the model again")
        found.append(path)
        waiting += [(path, _below(path.rpartition("/")[0] or ".", name)) for name in _relative_imports(root / path)]
    return sorted(found)


def _relative_imports(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise PublishError(f"{file} is no Python ({type(error).__name__}): save the model again") from None
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or (node.module or "x").count("."):
                raise PublishError(f"{file}:{node.lineno} imports from another folder; code of the Hub stands in one")
            modules += [node.module] if node.module else [alias.name for alias in node.names]
    return [f"{module}.py" for module in modules]


# --- what the files hold -----------------------------------------------------------------------------------------


def _check_weights(root: Path, files: Mapping[str, Path], left_out: Mapping[str, str]) -> None:
    if not any(path.endswith((".safetensors", ".onnx")) for path in files):
        pickled = [path for path, reason in left_out.items() if "code" in reason and not path.endswith(".py")]
        hint = f"; {pickled[0]} is no safetensors: load the model and save it again" if pickled else ""
        raise PublishError(f"{root} holds no weights as safetensors or ONNX{hint}")
    for path, source in files.items():
        if path.endswith(".safetensors.index.json"):
            folder = path.rpartition("/")[0] or "."
            for name in sorted(set(read_json(source).get("weight_map", {}).values())):
                if _below(folder, name) not in files:
                    raise PublishError(f"{source} names {name}, which is not there: save the model again")


def _check_file(path: str, source: Path) -> None:
    with open(source, "rb") as file:
        start = file.read(8)
        if path.endswith(".safetensors"):
            _check_safetensors(source, file, start)
        elif start.startswith(_PICKLE_STARTS):
            raise PublishError(f"{source} holds a pickle or an archive under another name: remove it")


def _check_safetensors(source: Path, file, start: bytes) -> None:  # type: ignore[no-untyped-def]
    """The header alone: the format is made so that this is enough to know where every tensor lies."""
    size = source.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MOST_HEADER + 1
    wrong = PublishError(f"{source} is no safetensors, or is cut off: save the model again")
    if length > min(_MOST_HEADER, size - 8):
        raise wrong
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise wrong from None
    if max(ends, default=0) != size - 8 - length:
        raise wrong
