"""What is told of how a run was made: its command, and the hashes of its data, without folders and secrets of a machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmembed.jobs.config_writing import without_secrets

_PIECE = 1 << 20
_NOT_TOLD = ("extra", "sources")


def told_command(verb: str, options: Any, *, extra: Mapping[str, Any] | None = None) -> str:
    """The command line of a run: every option that was not left at its default.

    Args:
        verb: Such as "train".
        options: An instance of the verb's dataclass of options.
        extra: Options that the dataclass has no field for; None: its `extra`.

    Returns:
        One line for a shell. Of a path its last part stands there; a secret is left out.

    Example:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     items: str | None = None
        ...     ks: list[int] = dataclasses.field(default_factory=lambda: [1, 5])
        ...     bf16: bool = False
        >>> told_command("train", Options("/data/anna/red shoes.jsonl", [1], True))
        "mmembed train --items 'red shoes.jsonl' --ks '[1]' --bf16 true"
    """
    given: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if field.name not in _NOT_TOLD and field.init and value != made:
            given[field.name] = value
    given |= dict(getattr(options, "extra", {}) if extra is None else extra)
    words = ["mmembed", verb]
    for name, value in given.items():
        told = without_secrets(value, name)
        if told is not None or value is None:
            told = _without_folders(told)
            words += [f"--{name}", told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, default=str)]
    return shlex.join(words)


def data_hashes(paths: Iterable[str | os.PathLike[str] | None]) -> dict[str, str]:
    """The SHA-256 of each file; of a folder that of its files' names and hashes, in order.

    Args:
        paths: Files and folders that were trained on; None and what is not there are passed over.

    Returns:
        Name → hash in hexadecimal, in the order given.

    Example:
        >>> path = getfixture("tmp_path") / "a.jsonl"
        >>> _ = path.write_text("{}")
        >>> data_hashes([path, None])
        {'a.jsonl': '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'}
    """
    found: dict[str, str] = {}
    for path in (Path(one) for one in paths if one is not None):
        if path.is_file():
            found[path.name] = _file_hash(path)
        elif path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(one for one in path.rglob("*") if one.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()} {_file_hash(file)}\n".encode())
            found[f"{path.name}/"] = digest.hexdigest()
    return found


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        # A name of the Hub has one slash; what has a place on this machine, or looks as if, is told by its last part.
        local = re.match(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\])", value) or (
            ("/" in value or "\\" in value) and os.path.exists(value)
        )
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if local else value
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(one) for one in value]
    return value
