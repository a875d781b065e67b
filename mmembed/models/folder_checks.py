"""Is a model folder safe to read? Nothing in it may lead out of it, name somebody else's code, or exhaust what reads it.

transformers and sentence-transformers read a local folder as if it were ours: a weight map may name `../other.safetensors`,
a configuration another repository's code or kernels, a link any file. A downloaded folder is a stranger's, so it is looked
through before either of them sees it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MOST_FILES = 20_000
_DEEPEST_FOLDER = 16
_DEEPEST_JSON = 100
_MOST_BYTES = 16 << 20  # of a configuration
_MOST_INDEX_BYTES = 64 << 20  # of the map of a very large model's weights
_MOST_VOCABULARY_BYTES = 1 << 30

_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
# What a loader reads; other JSON is nobody's business.
_READ_BY_LOADERS = re.compile(
    r"(.*config|config_sentence_transformers|modules|.*\.index|chat_template|special_tokens_map)\.json"
)

_ST_CLASS = re.compile(r"sentence_transformers(\.\w+)*\.(models|modules)(\.\w+)*\.[A-Z]\w*")
_OWN_CODE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
_FOREIGN_CODE = re.compile(r"[\w.-]+(/[\w.-]+)?--[A-Za-z_]\w*\.[A-Za-z_]\w*")
_IMPLEMENTATION = re.compile(r"(paged\|)?[a-z0-9_]+")
_ACTIVATION = re.compile(r"\w+|torch\.nn(\.\w+)+")
_TEMPLATE_NAME = re.compile(r"\w[\w.-]*")
_PEFT_LIBRARY = re.compile(r"(transformers|sentence_transformers|mmembed)(\.\w+)*")


class ModelError(ValueError):
    """A folder or name that no model can be made of, or should be, with what to do."""


def check_model_folder(folder: str | os.PathLike[str], *, trust_remote_code: bool = False) -> None:
    """Refuse a model folder that leads out of itself, names foreign code, or holds what no model holds.

    Looked at are names, links and JSON; no weight is read and nothing is run. Refused are links out of the folder (those of
    the Hub's own cache aside), pipes and devices; weight maps that name other files than the folder's, or pickles among
    safetensors; modules at other paths or of other packages than sentence-transformers; `auto_map` to another repository or
    to anything but a class of a file; attention and other kernels by a Hub name; activations that are none of torch's;
    `trust_remote_code` set by a file; vocabulary files elsewhere; templates whose names are paths; JSON of absurd size or
    depth.

    Args:
        folder: Of a model that transformers, sentence-transformers or mmembed saved.
        trust_remote_code: The caller allows code: modules of other packages, and code of another repository, may be named.

    Raises:
        ModelError: With the file, what was found in it, and what to do.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../w.safetensors"}}')
        >>> check_model_folder(folder)
        Traceback (most recent call last):
        mmembed.models.folder_checks.ModelError: .../model.safetensors.index.json: weight_map names ...
    """
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(f"{root} is not a folder")
    for path in _files(root):
        if path.name in _VOCABULARIES:
            # Read by parsers of their own, which name nothing else.
            if (size := path.stat().st_size) > _MOST_VOCABULARY_BYTES:
                raise ModelError(f"{path}: has {size:,} bytes, a vocabulary has at most {_MOST_VOCABULARY_BYTES:,}")
        elif _READ_BY_LOADERS.fullmatch(path.name):
            _check_content(path, read_json(path), trust_remote_code)


def read_json(path: Path) -> Any:
    """JSON of at most a configuration's size and depth.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        ModelError: It is too large or too deep, or no JSON.
    """
    name = path.name
    most = _MOST_INDEX_BYTES if name.endswith(".index.json") else _MOST_BYTES
    if (size := path.stat().st_size) > most:
        raise ModelError(f"{path}: has {size:,} bytes, a file of this name has at most {most:,}")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
        deep = any(depth > _DEEPEST_JSON for depth, _, _ in _entries(content))
    except RecursionError:
        deep = True
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error}); save the model again") from None
    if deep:
        raise ModelError(f"{path}: is nested more than {_DEEPEST_JSON} levels deep, which no configuration is")
    return content


# --- names and links ---------------------------------------------------------------------------------------------


def _files(root: Path) -> Iterator[Path]:
    """The regular files below a folder, none of them reached through a link out of it."""
    real = root.resolve()
    # The Hub's cache holds a model as links into the blobs beside its snapshots.
    blobs = real.parent.parent / "blobs" if real.parent.name == "snapshots" else None
    waiting: list[tuple[Path, int]] = [(root, 0)]
    count = 0
    while waiting:
        current, depth = waiting.pop()
        with os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                count += 1
                path = current / entry.name
                if count > _MOST_FILES:
                    raise ModelError(f"{root}: holds more than {_MOST_FILES:,} files, which is no model")
                if entry.is_symlink():
                    _check_link(path, real, blobs)
                if entry.is_dir(follow_symlinks=False):
                    if depth == _DEEPEST_FOLDER:
                        raise ModelError(
                            f"{path}: lies more than {_DEEPEST_FOLDER} folders deep, which no model's does"
                        )
                    if entry.name != ".git":
                        waiting.append((path, depth + 1))
                elif stat.S_ISREG(entry.stat().st_mode):
                    yield path
                else:
                    raise ModelError(f"{path}: is neither a file nor a folder but a pipe, socket or device; remove it")


def _check_link(path: Path, root: Path, blobs: Path | None) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelError(f"{path}: is a link to nothing; remove it or put the file there") from None
    if target.is_dir():
        raise ModelError(f"{path}: is a link to a folder; put the folder itself there")
    inside = [root] if blobs is None else [root, blobs]
    if not any(target.is_relative_to(one) for one in inside):
        raise ModelError(
            f"{path}: is a link out of the model's folder; if you mean its target, put the file itself there"
        )


def _is_inside(name: object) -> bool:
    """Whether a name is a plain path below the folder it stands in."""
    if not isinstance(name, str) or "\\" in name or ":" in name or "\0" in name or name.startswith(("/", "~")):
        return False
    return ".." not in name.split("/")


# --- what stands in the files ------------------------------------------------------------------------------------


def _entries(content: Any) -> Iterator[tuple[int, str, Any]]:
    """(depth, key, value) of every entry of every mapping, without recursion."""
    waiting: list[tuple[int, Any]] = [(1, content)]
    while waiting:
        depth, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield depth, key, inner
                waiting.append((depth + 1, inner))
        elif isinstance(value, list):
            if not value:
                yield depth, "", None
            for inner in value:
                yield depth, "", None
                waiting.append((depth + 1, inner))


def _check_content(path: Path, content: Any, trusted: bool) -> None:
    if path.name == "modules.json":
        _check_modules(path, content, trusted)
    if path.name == "router_config.json" and isinstance(content, dict):
        _check_types(path, content.get("types"), trusted)
    for _, key, value in _entries(content):
        if value is not None and key in _CHECKS:
            _CHECKS[key](path, key, value, trusted)


def _refuse(path: Path, what: str, todo: str) -> ModelError:
    return ModelError(f"{path}: {what}; {todo}")


def _check_modules(path: Path, content: Any, trusted: bool) -> None:
    if not isinstance(content, list) or not all(isinstance(module, dict) for module in content):
        raise _refuse(path, "is no list of modules", "save the model again")
    for module in content:
        place = module.get("path")
        if not _is_inside(place):
            raise _refuse(path, f"names a module at {place!r:.80}", "a module lies in the model's own folder")
        _check_class(path, module.get("type"), trusted)


def _check_types(path: Path, types: Any, trusted: bool) -> None:
    for place, kind in types.items() if isinstance(types, dict) else []:
        if not _is_inside(place):
            raise _refuse(path, f"names a module at {place!r:.80}", "a module lies in the model's own folder")
        _check_class(path, kind, trusted)


def _check_class(path: Path, kind: Any, trusted: bool) -> None:
    if not isinstance(kind, str) or not (trusted or _ST_CLASS.fullmatch(kind)):
        what = f"names a module of the class {kind!r:.80}, which is none of sentence-transformers'"
        raise _refuse(path, what, "pass trust_remote_code=True if you trust whoever made it")


def _check_auto_map(path: Path, key: str, value: Any, trusted: bool) -> None:
    named = value.values() if isinstance(value, dict) else [value]
    for one in named:
        for code in one if isinstance(one, list) else [one]:
            if code is None or (isinstance(code, str) and _OWN_CODE.fullmatch(code)):
                continue
            if not isinstance(code, str) or not _FOREIGN_CODE.fullmatch(code) or ".." in code:
                raise _refuse(path, f"auto_map names {code!r:.80}, which is no class of a file", "remove the entry")
            if not trusted:
                todo = (
                    "remove auto_map where the architecture is transformers' own, else pass trust_remote_code=True if "
                    "you trust whoever made it"
                )
                raise _refuse(path, f"auto_map names the code of another repository, {code!r:.80}", todo)


def _check_weight_map(path: Path, key: str, value: Any, trusted: bool) -> None:
    files = value.values() if isinstance(value, dict) else [value]
    safe = "safetensors" in path.name
    for file in files:
        if not _is_inside(file) or "/" in file:
            todo = "the parts of a model lie beside their index"
            raise _refuse(path, f"weight_map names {file!r:.80}, which is not beside it", todo)
        if safe and not file.endswith(".safetensors"):
            raise _refuse(
                path, f"weight_map names {file!r:.80} among safetensors", "save the model again as safetensors"
            )


def _check_implementation(path: Path, key: str, value: Any, trusted: bool) -> None:
    if isinstance(value, dict):
        for one in value.values():
            if one is not None:
                _check_implementation(path, key, one, trusted)
    elif not isinstance(value, str) or not _IMPLEMENTATION.fullmatch(value):
        raise _refuse(path, f"{key} is {value!r:.80}, which is code of the Hub", "remove the entry")


def _check_internal(path: Path, key: str, value: Any, trusted: bool) -> None:
    raise _refuse(path, f"sets {key} to {value!r:.80}, which no saved model does", "remove the entry")


def _check_switch(path: Path, key: str, value: Any, trusted: bool) -> None:
    if value is not False and not trusted:
        raise _refuse(path, f"sets {key}, which is the caller's to say", "remove the entry")


def _check_activation(path: Path, key: str, value: Any, trusted: bool) -> None:
    if isinstance(value, str) and not trusted and not _ACTIVATION.fullmatch(value):
        raise _refuse(path, f"{key} is {value!r:.80}, which is no activation of torch.nn", "remove the entry")


def _check_templates(path: Path, key: str, value: Any, trusted: bool) -> None:
    names: list[Any] = []
    if isinstance(value, list):
        names = [one.get("name") if isinstance(one, dict) else one for one in value]
    elif isinstance(value, dict):
        names = list(value)
    for name in names:
        if not isinstance(name, str) or not _TEMPLATE_NAME.fullmatch(name):
            raise _refuse(path, f"names a chat template {name!r:.80}, which is no plain name", "rename it")


def _check_file(path: Path, key: str, value: Any, trusted: bool) -> None:
    for name in value if isinstance(value, list) else [value]:
        # Older tokenizers carry paths of the machine that saved them; one that leads to nothing here is read by nobody.
        if not isinstance(name, str) or (
            not _is_inside(name) and os.path.lexists(path.parent / os.path.expanduser(name))
        ):
            raise _refuse(path, f"{key} is {name!r:.80}, which is not in the model's folder", "remove the entry")


def _check_library(path: Path, key: str, value: Any, trusted: bool) -> None:
    if not trusted and not (isinstance(value, str) and _PEFT_LIBRARY.fullmatch(value)):
        raise _refuse(path, f"{key} is {value!r:.80}, which is no library of models", "remove the entry")


_CHECKS: dict[str, Callable[[Path, str, Any, bool], None]] = {
    "auto_map": _check_auto_map,
    "weight_map": _check_weight_map,
    "attn_implementation": _check_implementation,
    "_attn_implementation": _check_implementation,
    "experts_implementation": _check_implementation,
    "_experts_implementation": _check_implementation,
    "_attn_implementation_internal": _check_internal,
    "_experts_implementation_internal": _check_internal,
    "trust_remote_code": _check_switch,
    "use_kernels": _check_switch,
    "activation_function": _check_activation,
    "activation_fn": _check_activation,
    "chat_template": _check_templates,
    "chat_templates": _check_templates,
    "vocab_file": _check_file,
    "merges_file": _check_file,
    "tokenizer_file": _check_file,
    "spm_file": _check_file,
    "added_tokens_file": _check_file,
    "fast_tokenizer_files": _check_file,
    "parent_library": _check_library,
}
