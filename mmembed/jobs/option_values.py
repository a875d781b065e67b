"""What a text or a YAML value means for an option of a given type.

One rule for the command line and for YAML: a text becomes what the type asks for, and a value that cannot is refused with
what was found and what was wanted. A text given to a list or a mapping may be JSON or YAML's flow form (``[1, 5]``).
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mmembed.jobs.config_file import OptionsError, PlainText, parse_yaml, resolve_plain

_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]+")
_LISTS = (list, Sequence, tuple)
_MAPPINGS = (dict, Mapping)


class WrongTypeError(ValueError):
    """A value that does not fit the option's type; the message says what was found and what was wanted."""


def read_value(value: Any, kind: Any) -> Any:
    """Turn what was written into what an option's type asks for.

    Args:
        value: None, a text, a number, a bool, or a list or dict of these, from a command line or a YAML file.
        kind: The option's annotation: ``bool``, ``int``, ``float``, ``str``, ``Path``, an enum, ``Literal``, ``list[...]``,
            ``tuple[...]``, ``dict[...]``, ``Any``, or a union of these.

    Returns:
        The value, of that type.

    Raises:
        WrongTypeError: If it does not fit.

    Example:
        >>> read_value(PlainText("2e-5"), float), read_value(PlainText("[1, 5]"), list[int]), read_value(None, int | None)
        (2e-05, [1, 5], None)
    """
    origin = get_origin(kind)
    if origin is Annotated:
        return read_value(value, get_args(kind)[0])
    if kind is Any or kind is object:
        return resolve_plain(_flow_or_text(value) if isinstance(value, PlainText) else value)
    if origin in (Union, types.UnionType):
        return _read_union(value, kind)
    if origin is Literal:
        return _read_literal(value, kind)
    plain = origin or kind
    if plain in _LISTS:
        return _read_list(value, kind)
    if plain in _MAPPINGS:
        return _read_mapping(value, kind)
    return _read_scalar(value, kind)


def describe(kind: Any) -> str:
    """Say what an option's type asks for, in words.

    Args:
        kind: The annotation, as for :func:`read_value`.

    Returns:
        A short phrase for help and messages.

    Example:
        >>> describe(list[int] | None)
        'list of whole numbers or null'
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(args[0])
    if origin in (Union, types.UnionType):
        names = [describe(member) for member in _members(kind) if _can_be_written(member)]
        return " or ".join([*dict.fromkeys(names), *(["null"] if type(None) in args else [])])
    if origin is Literal:
        return "one of " + ", ".join(map(_written, args))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    plain = origin or kind
    if plain in _LISTS:
        inner = [argument for argument in args if argument is not Ellipsis]
        if plain is tuple and inner and Ellipsis not in args:
            return "list of " + ", ".join(describe(argument) for argument in inner)
        return f"list of {_plural(describe(inner[0]))}" if inner else "list"
    if plain in _MAPPINGS:
        return "mapping" if len(args) < 2 or args[1] is Any else f"mapping to {_plural(describe(args[1]))}"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "anything"}
    return words.get(kind, "null" if kind in (None, type(None)) else getattr(kind, "__name__", str(kind)))


def accepts_flag(kind: Any) -> bool:
    """Whether an option may stand without a value, as ``--flag``.

    Args:
        kind: The option's annotation.

    Returns:
        True where bool is the type or one member of it.

    Example:
        >>> accepts_flag(bool | None), accepts_flag(int)
        (True, False)
    """
    return kind is bool or (get_origin(kind) in (Union, types.UnionType) and bool in get_args(kind))


def is_mapping(kind: Any) -> bool:
    """Whether an option takes parts, as ``--option.part value``.

    Args:
        kind: The option's annotation.

    Returns:
        True where a mapping is the type or one member of it.

    Example:
        >>> is_mapping(dict[str, int] | None), is_mapping(str)
        (True, False)
    """
    return any((get_origin(member) or member) in (*_MAPPINGS, Any) for member in [kind, *_members(kind)])


def _members(kind: Any) -> list[Any]:
    """The members of a union, without None, the narrow ones first and text last; of another type, none."""
    if get_origin(kind) not in (Union, types.UnionType):
        return []
    order = {bool: 1, int: 2, float: 3, Path: 8, str: 9}

    def width(member: Any) -> int:
        origin = get_origin(member) or member
        return 5 if origin in _LISTS or origin in _MAPPINGS else order.get(member, 0)

    return sorted((member for member in get_args(kind) if member is not type(None)), key=width)


def _can_be_written(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    known = (bool, int, float, str, Path, Any, Literal, Union, types.UnionType, Annotated, *_LISTS, *_MAPPINGS)
    return plain in known or (isinstance(plain, type) and issubclass(plain, enum.Enum))


def _written(choice: Any) -> str:
    return "null" if choice is None else str(choice).lower() if isinstance(choice, bool) else str(choice)


def _plural(words: str) -> str:
    nouns = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "path": "paths"}
    return nouns.get(words, f"({words})" if " " in words else words)


def _mismatch(value: Any, kind: Any) -> WrongTypeError:
    found = "null" if value is None else f"the text {str(value)!r}" if isinstance(value, str) else repr(value)
    if isinstance(value, list | dict):
        found = f"{'list' if isinstance(value, list) else 'mapping'} {_shown(value)}"
    return WrongTypeError(f"found {found}, wanted {describe(kind)}")


def _shown(value: Any) -> str:
    text = repr(resolve_plain(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flow_or_text(value: Any) -> Any:
    """A text that opens a bracket, as the list or mapping it spells; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return parse_yaml(value, source="the value")[0]
    except OptionsError:
        return value


def _read_union(value: Any, kind: Any) -> Any:
    if value is None:
        if type(None) in get_args(kind):
            return None
        raise _mismatch(value, kind)
    quoted = isinstance(value, str) and not isinstance(value, PlainText)
    members = _members(kind)
    if quoted and str in members:  # a quoted text is no number and no bool, but may be a choice or a mapping's JSON
        members = [member for member in members if member not in (bool, int, float)]
    for member in members:
        plain = get_origin(member) or member
        if plain in _LISTS and isinstance(value, str) and str in members and not isinstance(_flow_or_text(value), list):
            continue  # one word where a text or a list may stand is the text
        try:
            return read_value(value, member)
        except WrongTypeError:
            continue
    raise _mismatch(value, kind)


def _read_literal(value: Any, kind: Any) -> Any:
    for choice in get_args(kind):
        if type(choice) is type(value) and choice == value:
            return choice
        if isinstance(value, str) and value == _written(choice):
            return choice
    raise _mismatch(value, kind)


def _read_list(value: Any, kind: Any) -> Any:
    given = value
    value = _flow_or_text(value)
    if value is None or isinstance(value, dict):
        raise _mismatch(given, kind)
    items = value if isinstance(value, list | tuple) else [value]
    plain, args = get_origin(kind) or kind, get_args(kind)
    inner = [argument for argument in args if argument is not Ellipsis]
    if plain is tuple and inner and Ellipsis not in args:
        if len(items) != len(inner):
            raise _mismatch(given, kind)
    else:
        inner = (inner or [Any])[:1] * len(items)
    try:
        read = [read_value(item, element) for item, element in zip(items, inner, strict=True)]
    except WrongTypeError as error:
        raise WrongTypeError(f"{error} in the {describe(kind)} {_shown(value)}") from None
    return tuple(read) if plain is tuple else read


def _read_mapping(value: Any, kind: Any) -> Any:
    given, value = value, _flow_or_text(value)
    if not isinstance(value, dict):
        raise _mismatch(given, kind)
    key_kind, item_kind = get_args(kind) or (str, Any)
    read = {}
    for key, item in value.items():
        try:
            read[read_value(PlainText(key), str if key_kind is Any else key_kind)] = read_value(item, item_kind)
        except WrongTypeError as error:
            raise WrongTypeError(f"under {key!r}: {error}") from None
    return read


def _read_scalar(value: Any, kind: Any) -> Any:
    if kind in (None, type(None)):
        if value is None:
            return None
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        for member in kind:
            if value == member or value == member.value or str(value) == str(member.value):
                return member
    elif kind is bool:
        word = str(value).lower() if isinstance(value, str) else None
        if isinstance(value, bool) or word in _TRUE | _FALSE:
            return value if isinstance(value, bool) else word in _TRUE
    elif kind is int:
        if type(value) is int or (isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value)):
            return int(value)
    elif kind is float:
        number = _number(value)
        if number is not None:
            return number
    elif kind is str:
        if isinstance(value, str):
            return str(value)
    elif kind is Path:
        if isinstance(value, str):
            return Path(value)
    else:
        name = getattr(kind, "__name__", str(kind))
        raise WrongTypeError(
            f"found {_shown(value)}, but a {name} cannot be written in a configuration; set it in Python"
        )
    raise _mismatch(value, kind)


def _number(value: Any) -> float | None:
    if type(value) in (int, float):
        return float(value)
    if not isinstance(value, str):
        return None
    if value.lower() in ("inf", "+inf", "-inf"):
        return float(value)
    resolved = resolve_plain(PlainText(value))
    return float(resolved) if type(resolved) in (int, float) else None
