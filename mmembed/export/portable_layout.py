"""How is a folder written so that more than its own library reads it, and says nothing of the machine it was made on?

sentence-transformers 6 writes names and keys that other servers do not know: Text Embeddings Inference stops at a pooling
configuration without `pooling_mode_mean_tokens` and at one of lengths without `max_seq_length`, and releases of vLLM before
2026 look for the type `sentence_transformers.models.Pooling` and else pool as they like. A model of texts alone is therefore
published in the older spelling, which sentence-transformers reads to the same model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from mmembed.export.onnx_files import MANIFEST
from mmembed.export.published_files import PublishError, Source
from mmembed.models.folder_checks import read_json

_OLDER_TYPES = {
    f"sentence_transformers.{place}": f"sentence_transformers.models.{place.rpartition('.')[2]}"
    for place in (
        "base.modules.transformer.Transformer",
        "sentence_transformer.modules.pooling.Pooling",
        "base.modules.normalize.Normalize",
        "base.modules.dense.Dense",
    )
}
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# What sentence-transformers takes for granted where nothing is said.
_PLAIN_TEXT = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_OF_THIS_MACHINE = frozenset({"is_local", "local_files_only", "special_tokens_map_file", "tokenizer_file"})
ADAPTER = "adapter_config.json"
_VERSIONS = "config_sentence_transformers.json"
_REQUIRED = ("sentence-transformers", "transformers")
_NO_LIMIT = 10**9  # tokenizers without one have 1e30


def portable_layout(files: Mapping[str, Source]) -> dict[str, Source]:
    """Write a model's configurations as they are published; weights, vocabularies and code stay as they are.

    A model of texts alone gets the older spelling of its modules, its pooling and its longest input. In every model names
    of local folders go, and the least versions of the libraries stand in `config_sentence_transformers.json`, where
    sentence-transformers looks before it loads anything.

    Args:
        files: By their path in the repository, see `choose_files`.

    Returns:
        The same paths, rewritten files as bytes.

    Example:
        >>> config = b'{"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": true}'
        >>> kind = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
        >>> modules = json.dumps([{"idx": 1, "name": "1", "path": "1_Pooling", "type": kind}]).encode()
        >>> files = portable_layout({"modules.json": modules, "1_Pooling/config.json": config})
        >>> json.loads(files["1_Pooling/config.json"])["pooling_mode_mean_tokens"]
        True
    """
    if MANIFEST in files:
        return _export_layout(files)
    contents = {
        path: content_of(files, path) for path in files if path.endswith(("config.json", "modules.json", _VERSIONS))
    }
    changed: dict[str, Any] = {}
    for path, content in contents.items():
        if isinstance(content, dict):
            changed[path] = _without_places(content, path.endswith("tokenizer_config.json"))
    if _VERSIONS in changed and not changed[_VERSIONS].get("requirements") and (needs := least_versions()):
        changed[_VERSIONS]["requirements"] = needs
    if "modules.json" in files and is_of_texts_alone(files):
        _respell(files, changed)
    written: dict[str, Source] = dict(files)
    for path, content in changed.items():
        if content != contents[path]:
            written[path] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    return written


def _export_layout(files: Mapping[str, Source]) -> dict[str, Source]:
    """An ONNX export is published as it is, for its manifest holds the hash of every file; a folder's name goes from it."""
    about = content_of(files, MANIFEST)
    if not isinstance(about, dict) or not is_place(about.get("model")):
        return dict(files)
    about["model"] = re.split(r"[/\\]", str(about.get("model") or "").rstrip("/\\"))[-1]
    return {**files, MANIFEST: (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode("utf-8")}


def with_named_base(files: Mapping[str, Source], base_model: str | None) -> dict[str, Source]:
    """An adapter names the model that it belongs to by its name on the Hub: a folder of this machine is nobody else's.

    Args:
        files: By their path in the repository.
        base_model: That name; None keeps the one that is there.

    Returns:
        The files, `adapter_config.json` rewritten where it named a folder.

    Raises:
        PublishError: It names a folder, and nothing else was given.
    """
    about = content_of(files, ADAPTER)
    if not isinstance(about, dict) or not is_place(about.get("base_model_name_or_path")):
        return dict(files)
    if base_model is None:
        raise PublishError(f"{ADAPTER} names its base model by a folder of this machine; say base_model='owner/name'")
    about["base_model_name_or_path"] = base_model
    return {**files, ADAPTER: (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode("utf-8")}


def is_of_texts_alone(files: Mapping[str, Source]) -> bool:
    """Whether the model is a text transformer as sentence-transformers has known it since its first release."""
    config = content_of(files, "sentence_bert_config.json")
    if not isinstance(config, dict):
        return "sentence_bert_config.json" not in files and "1_Pooling/config.json" in files
    return all(config.get(key, value) == value for key, value in _PLAIN_TEXT.items())


def content_of(files: Mapping[str, Source], path: str) -> Any:
    """The JSON of a published file; None where there is no such file, or it is no JSON.

    Args:
        files: By their path in the repository.
        path: Of the file.
    """
    source = files.get(path)
    if source is None:
        return None
    try:
        return read_json(source) if isinstance(source, Path) else json.loads(source)
    except ValueError:
        return None


def least_versions() -> dict[str, str]:
    """The oldest versions that mmembed is tested with, as package → specifier; empty where it runs from a source tree."""
    try:
        lines = requires("mmembed") or []
    except PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        if match := re.fullmatch(r"([\w.-]+)\s*(>=[\w.]+)", line):
            found[match[1]] = match[2]
    return {package: found[package] for package in _REQUIRED if package in found}


def _without_places(content: dict[str, Any], is_tokenizer: bool) -> dict[str, Any]:
    kept = {}
    for key, value in content.items():
        if key in ("_name_or_path", "name_or_path") and is_place(value):
            continue
        if is_tokenizer and key in _OF_THIS_MACHINE:
            continue
        kept[key] = _without_places(value, is_tokenizer) if isinstance(value, dict) else value
    return kept


def is_place(value: Any) -> bool:
    """Whether a name is of this machine rather than of the Hub."""
    if not isinstance(value, str) or not value:
        return True
    return value.startswith(("/", ".", "~")) or "\\" in value or value.count("/") > 1 or os.path.exists(value)


def _respell(files: Mapping[str, Source], changed: dict[str, Any]) -> None:
    modules = content_of(files, "modules.json")
    if not isinstance(modules, list):
        return
    changed["modules.json"] = [
        {**module, "type": _OLDER_TYPES.get(module.get("type"), module.get("type"))} for module in modules
    ]
    for module in modules:
        path = f"{module.get('path')}/config.json"
        if str(module.get("type")).endswith(".Pooling") and isinstance(changed.get(path), dict):
            changed[path] = _older_pooling(changed[path])
    tokenizer = changed.get("tokenizer_config.json") or {}
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":  # its name since transformers 5, which reads both
        changed["tokenizer_config.json"] = {**tokenizer, "tokenizer_class": "PreTrainedTokenizerFast"}
    lengths = dict(changed.get("sentence_bert_config.json") or {})
    longest = lengths.get("max_seq_length") or _longest_input(tokenizer, changed.get("config.json") or {})
    if longest is not None:
        others = {key: value for key, value in lengths.items() if key not in _PLAIN_TEXT}
        changed["sentence_bert_config.json"] = {"max_seq_length": longest, "do_lower_case": False, **others}


def _older_pooling(config: dict[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode")
    if isinstance(modes, list) and len(modes) == 1:
        modes = modes[0]
    if (
        not isinstance(modes, str) or modes not in _POOLING_KEYS
    ):  # several are joined in an order that flags do not keep
        return config
    others = {key: value for key, value in config.items() if key not in ("embedding_dimension", "pooling_mode")}
    flags = {key: mode == modes for mode, key in _POOLING_KEYS.items()}
    return {"word_embedding_dimension": config.get("embedding_dimension"), **flags, **others}


def _longest_input(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Tokens at which sentence-transformers cuts a text: what the tokenizer allows, within the model's positions."""
    limits = [tokenizer.get("model_max_length"), config.get("max_position_embeddings")]
    if limits[1] is not None and config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        limits[1] -= (config.get("pad_token_id") or 0) + 1  # their positions start after the padding's
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT]
    return min(known, default=None)
