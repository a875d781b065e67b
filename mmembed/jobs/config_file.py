"""What a YAML configuration file says, read safely and with line numbers.

A configuration may come from a stranger: nothing in it is executed, constructed or expanded. Only mappings, lists and
scalars are read. A plain (unquoted) scalar is kept as the text that stands in the file, because its meaning belongs to the
option it sets: ``2e-5`` is a number for a number (YAML 1.1 calls it a string) and ``no`` is a language code for a text.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 10_000  # counted after aliases are followed, so that a few lines cannot stand for billions
MAX_DEPTH = 50

_NULLS = {"", "~", "null", "Null", "NULL"}
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_RESOLVER = yaml.resolver.Resolver()


class OptionsError(ValueError):
    """An option, or a configuration file, that cannot be used; the message says which, what was found and what to write."""


class PlainText(str):
    """A text as it was typed, unquoted in YAML or on a command line: the type of the option decides what it means."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """What one file says.

    Args:
        source: The path as it was given, for messages.
        values: Top-level key to value: None, :class:`PlainText`, ``str`` (quoted in the file), list or dict of these.
        lines: Top-level key to its line, counted from 1.
    """

    source: str
    values: dict[str, Any]
    lines: dict[str, int]


def read_config(path: str | Path) -> ConfigFile:
    """Read a YAML file of options.

    Args:
        path: A file of at most 1 MB, in UTF-8, holding one mapping.

    Returns:
        Its keys, values and lines.

    Raises:
        OptionsError: If the file cannot be read, is too large, or holds anything but plain mappings, lists and scalars.
    """
    source = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise OptionsError(f"{source}: cannot read the configuration file: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise OptionsError(f"{source}: a configuration file has at most {MAX_BYTES:,} bytes; this one has more")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionsError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    values, lines = parse_yaml(text, source=source)
    if values is None:  # an empty file
        values = {}
    if not isinstance(values, dict):
        raise OptionsError(f"{source}:1: found {type(values).__name__}, wanted a mapping of `option: value` lines")
    if "env" in values:
        raise OptionsError(
            f"{source}:{lines['env']}: an `env` block is refused: a configuration file does not set environment "
            "variables; set them where the command is run"
        )
    return ConfigFile(source, values, lines)


def parse_yaml(text: str, *, source: str) -> tuple[Any, dict[str, int]]:
    """Parse one YAML document into None, :class:`PlainText`, ``str``, lists and dicts.

    Args:
        text: The document.
        source: Its name in messages.

    Returns:
        The value, and the line of each top-level key.

    Raises:
        OptionsError: For a syntax error, a tag such as ``!!python/object``, a duplicate or merge key, an alias that
            contains itself, more than 10,000 nodes or more than 50 levels.

    Example:
        >>> parse_yaml("lr: 2e-5", source="example")
        ({'lr': '2e-5'}, {'lr': 1})
    """
    try:
        _check_size(text, source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise OptionsError(f"{where}: not valid YAML: {problem}") from None
    if root is None:
        return None, {}
    lines: dict[str, int] = {}
    if isinstance(root, yaml.MappingNode):
        lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value}
    return _Builder(source).build(root, depth=0), lines


def _check_size(text: str, source: str) -> None:
    # The parser's events come one by one and without recursion, so a hostile file is refused before a tree is built.
    nodes = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            _refuse_size(source, event.start_mark.line + 1)


def _refuse_size(source: str, line: int) -> None:
    raise OptionsError(
        f"{source}:{line}: the configuration is too large: at most {MAX_NODES:,} values (aliases counted each time they "
        f"are used) and {MAX_DEPTH} levels"
    )


class _Builder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes = 0

    def build(self, node: yaml.Node, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            _refuse_size(self.source, line)
        if isinstance(node, yaml.ScalarNode):
            # Implicit tags (a date, `=`, `<<`) come from a plain scalar that we keep as text; an explicit one is refused.
            if node.style is None and not self._is_explicit(node):
                return None if node.value in _NULLS else PlainText(node.value)
            self._check_tag(node, line)
            return str(node.value)
        self._check_tag(node, line)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise OptionsError(f"{self.source}:{line}: a key must be a text, found a list or a mapping")
            self.nodes += 1
            self._check_tag(key_node, line, plain=key_node.style is None and not self._is_explicit(key_node))
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                raise OptionsError(f"{self.source}:{line}: merge keys (`<<`) are not supported; write the values out")
            if key in values:
                raise OptionsError(
                    f"{self.source}:{line}: the key {key!r} stands twice in one mapping; keep one of them"
                )
            values[key] = self.build(value_node, depth + 1)
        return values

    @staticmethod
    def _is_explicit(node: yaml.ScalarNode) -> bool:
        return bool(node.tag != _RESOLVER.resolve(yaml.ScalarNode, node.value, (True, False)))

    def _check_tag(self, node: yaml.Node, line: int, plain: bool = False) -> None:
        if not plain and node.tag not in _PLAIN_TAGS:
            raise OptionsError(
                f"{self.source}:{line}: the tag {node.tag!r} is refused: a configuration holds only texts, numbers, "
                "true, false, null, lists and mappings"
            )


def resolve_plain(value: Any) -> Any:
    """Give every plain text in a value the meaning that YAML 1.2 gives it, for places whose type is not declared.

    Args:
        value: What :func:`parse_yaml` returned, or a part of it.

    Returns:
        The value with ``true``/``false`` as bools and numbers (``2e-5`` among them) as numbers; the rest stays text.

    Example:
        >>> resolve_plain([PlainText("2e-5"), PlainText("no"), PlainText("true"), "7"])
        [2e-05, 'no', True, '7']
    """
    if isinstance(value, dict):
        return {key: resolve_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve_plain(item) for item in value]
    if not isinstance(value, PlainText):
        return value
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if _INTEGER.fullmatch(value):
        return int(value)
    if NUMBER.fullmatch(value):
        return float(value)
    if _INFINITY.fullmatch(value):
        return float(value.replace(".", ""))
    return str(value)
