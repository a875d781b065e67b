"""How a configuration is written: as YAML that reads back to the same values, without secrets, whole or not at all."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmembed.jobs.config_file import NUMBER, PlainText

SECRETS_IN_ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
_PLAIN_STARTS = "-+.0123456789"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_plain(dumper: _Dumper, text: PlainText) -> yaml.ScalarNode:
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(text), (True, False)), str(text))


_Dumper.add_representer(PlainText, _represent_plain)
# A text that our reader would take for a number (2e-5) is written in quotes.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{NUMBER.pattern})$"), list(_PLAIN_STARTS))


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Write a mapping as YAML that :func:`~mmembed.jobs.config_file.read_config` reads back to the same values, without secrets.

    Args:
        mapping: Option to value; paths, enums, tuples and dataclasses become texts, their values, lists and mappings.

    Returns:
        The YAML, keys in the order given. The value of a key that names a secret is ``null``.

    Raises:
        TypeError: For a value that YAML has no plain form for.

    Example:
        >>> print(dump_yaml({"model": "tiny", "ks": (1, 5), "hub_token": "hf_abc"}), end="")
        model: tiny
        ks:
        - 1
        - 5
        hub_token: null
    """
    plain = _plain(without_secrets(mapping), "")
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def save_config(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Write a configuration file whole or not at all, without secrets.

    Args:
        path: Where; the folder is made if it is not there.
        mapping: Option to value, as for :func:`dump_yaml`.

    Raises:
        TypeError: For a value that YAML has no plain form for; nothing is written then.
        OSError: If the file cannot be written; what stood at `path` is untouched then.

    Example:
        >>> save_config(getfixture("tmp_path") / "config.yaml", {"model": "tiny"})
    """
    text = dump_yaml(mapping)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp's 0600 would hide the file from the group
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def without_secrets(value: Any, key: str = "") -> Any:
    """Replace every secret in a nested value by None.

    A secret is a text under a key with the word ``token``, anything under one with ``secret``, ``password`` or ``api_key``,
    and any text that contains a secret of the environment, such as that of ``HF_TOKEN``. A tokenizer is none.

    Args:
        value: A mapping, a list or a scalar.
        key: The key it stands under.

    Returns:
        A copy of the value without its secrets.

    Example:
        >>> without_secrets({"hub_token": "hf_abc", "tokenizer": "bert", "max_tokens": 77})
        {'hub_token': None, 'tokenizer': 'bert', 'max_tokens': 77}
    """
    name = key.lower().replace("-", "_")
    words = set(name.split("_"))
    if "api_key" in name or "apikey" in name or any(word in name for word in ("secret", "password")):
        return None
    if isinstance(value, Mapping):
        return {inner: without_secrets(item, str(inner)) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, key) for item in value]
    if isinstance(value, str):
        held = (os.environ.get(variable) for variable in SECRETS_IN_ENVIRONMENT)
        if words & {"token", "tokens"} or any(secret and secret in value for secret in held):
            return None
    return value


def _plain(value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = without_secrets(dataclasses.asdict(value))
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(inner): _plain(item, f"{key}.{inner}" if key else str(inner)) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if value is None or isinstance(value, PlainText) or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{key}: a {type(value).__name__} has no plain form in YAML: {value!r}")
