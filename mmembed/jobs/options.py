"""A dataclass as a command line: `--config file.yaml`, then `--option value` over it.

Each field of the dataclass is an option: its type says what may be written, its default what holds when nothing is, and
``metadata["help"]`` what it is for. Files of options import nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints, overload

from mmembed.jobs.config_file import OptionsError, PlainText, read_config
from mmembed.jobs.config_writing import dump_yaml, save_config
from mmembed.jobs.option_help import OWN_OPTIONS, default_of, help_text, is_required
from mmembed.jobs.option_values import WrongTypeError, accepts_flag, describe, is_mapping, read_value

__all__ = ["OptionsError", "apply_extra", "nearest", "parse_options", "save_config", "to_yaml"]

OptionsT = TypeVar("OptionsT")

_OPTION = re.compile(r"--[A-Za-z]")
_COMMAND_LINE = "command line"


@overload
def parse_options(
    options: type[OptionsT],
    argv: Sequence[str] | None = None,
    *,
    passthrough: Callable[[], type] | None = None,
    prog: str = "",
    description: str = "",
) -> OptionsT: ...
@overload
def parse_options(
    options: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    passthrough: Callable[[], type] | None = None,
    prog: str = "",
    description: str = "",
) -> tuple[Any, ...]: ...
def parse_options(
    options: type[OptionsT] | Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    passthrough: Callable[[], type] | None = None,
    prog: str = "",
    description: str = "",
) -> OptionsT | tuple[Any, ...]:
    """Read a command line, and the YAML files it names, into a dataclass.

    ``--option value``, ``--option=value``, ``--flag`` and ``--no_flag`` for a bool, ``--list 1 5 10`` or ``--list [1,5]``,
    ``--mapping '{"a": 1}'`` or ``--mapping.a 1``, ``null`` for None. Dashes in a name are as good as underscores.
    ``--help`` and ``--print_config`` write to standard output and exit with status 0.

    A dataclass with ``allow_extra: ClassVar[bool] = True`` also takes options it has no field for. They are not looked at
    until :func:`apply_extra` is called, so the dataclass that knows them need not be imported; they stand in its fields
    ``extra: dict[str, Any]`` and ``sources: dict[str, str]``, which it declares with ``init=False``.

    Args:
        options: A dataclass, or several whose options share one command line.
        argv: The words after the verb; None takes them from ``sys.argv``.
        passthrough: Imports and returns the dataclass that knows the extra options. Called only for ``--help_all``,
            which lists them, and for ``--print_config``, which then checks them.
        prog: The command's name in the help.
        description: What the command does, for the help.

    Returns:
        An instance; a tuple of them where several dataclasses were given.

    Raises:
        OptionsError: For an unknown option (the message has the nearest name), a value of the wrong type, a missing
            option, or a configuration file that :func:`~mmembed.jobs.config_file.read_config` refuses.
        SystemExit: With status 0, after ``--help``, ``--help_all`` and ``--print_config``.

    Example:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     model: str = dataclasses.field(metadata={"help": "name or folder of a model"})
        ...     ks: list[int] = dataclasses.field(default_factory=lambda: [1, 10], metadata={"help": "ranks to report"})
        >>> parse_options(Options, ["--model", "tiny", "--ks", "1", "5"])
        Options(model='tiny', ks=[1, 5])
        >>> parse_options(Options, ["--modle", "tiny"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: unknown option --modle; did you mean --model?
    """
    classes = [options] if isinstance(options, type) else list(options)
    known = _known_options(classes)
    extra_home = next((kind for kind in classes if getattr(kind, "allow_extra", False)), None)
    words = _split(sys.argv[1:] if argv is None else argv)
    asked = {name for name, _ in words}
    if asked & {"help", "help_all"}:
        more = passthrough is not None
        passed_through = None
        if passthrough is not None and "help_all" in asked:
            passed_through = _known_options([passthrough()], reserved=False)
        sys.stdout.write(help_text(prog, description, known, takes_more=more, passed_through=passed_through))
        raise SystemExit(0)

    given = _Given(known, allow_extra=extra_home is not None, takes_help_all=passthrough is not None)
    for name, values in words:
        if name == "config":
            if not values:
                raise OptionsError("--config needs the path of a YAML file")
            for path in values:
                given.take_file(path)
    for name, values in words:
        if name not in OWN_OPTIONS:
            given.take_words(name, values)

    instances = given.build(classes, extra_home)
    if "print_config" in asked:
        mapping = {name: value for instance in instances for name, value in _mapping(instance).items()}
        if extra_home is not None and passthrough is not None:
            read = apply_extra(passthrough(), given.extra, given.sources, known=known)
            mapping = {name: mapping[name] for name in known} | read
        sys.stdout.write(dump_yaml(mapping))
        raise SystemExit(0)
    return instances[0] if isinstance(options, type) else tuple(instances)


def apply_extra(
    kind: type,
    extra: Mapping[str, Any],
    sources: Mapping[str, str] | None = None,
    *,
    known: Iterable[str] = (),
) -> dict[str, Any]:
    """Check options that were collected unread against the dataclass that knows them.

    Args:
        kind: The dataclass, once imported; its fields with ``init=True`` are the options.
        extra: Name to value as written, from an options dataclass with ``allow_extra``.
        sources: Name to the file and line, or "command line", for messages.
        known: Names of other options, for the nearest name in a message.

    Returns:
        Keyword arguments for `kind`, each of its field's type.

    Raises:
        OptionsError: For an unknown name or a value of the wrong type.

    Example:
        >>> @dataclasses.dataclass
        ... class Arguments:
        ...     learning_rate: float = 5e-5
        ...     bf16: bool = False
        >>> apply_extra(Arguments, {"learning_rate": "2e-5", "no_bf16": "true"})
        {'learning_rate': 2e-05, 'bf16': False}
    """
    sources = sources or {}
    kinds = {name: hint for name, (hint, _) in _known_options([kind], reserved=False).items()}
    values = {}
    for name, value in extra.items():
        source = sources.get(name, _COMMAND_LINE)
        positive = name.removeprefix("no_")
        if name not in kinds and accepts_flag(kinds.get(positive)) and value == "true":
            name, value = positive, False
        if name not in kinds:
            raise _unknown(name, source, [*known, *kinds])
        values[name] = _read(name, value, kinds[name], source)
    return values


def to_yaml(instance: Any) -> str:
    """Write an options dataclass as the YAML that `--config` reads back to the same options.

    Args:
        instance: A dataclass instance.

    Returns:
        One ``option: value`` line (or block) a field, in their order, then the extra options; secrets are ``null``.

    Raises:
        TypeError: For a value that YAML has no plain form for.

    Example:
        >>> print(to_yaml(dataclasses.make_dataclass("Options", ["lr"])(2e-5)), end="")
        lr: 2.0e-05
    """
    return dump_yaml(_mapping(instance))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like one that was mistyped.

    Args:
        name: What was written.
        names: What could have been meant.

    Returns:
        The nearest, or None where nothing is near.

    Example:
        >>> nearest("modle", ["model", "data"])
        'model'
    """
    found = difflib.get_close_matches(name, sorted(set(names)), n=1, cutoff=0.6)
    return found[0] if found else None


def _known_options(classes: Sequence[type], *, reserved: bool = True) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    known: dict[str, tuple[Any, dataclasses.Field[Any]]] = {}
    for kind in classes:
        if reserved and getattr(kind, "allow_extra", False):
            hidden = {field.name for field in dataclasses.fields(kind) if not field.init}
            if not {"extra", "sources"} <= hidden:
                raise TypeError(f"{kind.__name__} allows extra options: declare `extra` and `sources` with init=False")
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if not field.init:
                continue
            if reserved and (field.name in known or field.name in (*OWN_OPTIONS, "help_all", "env")):
                raise TypeError(f"{kind.__name__}.{field.name}: an option of that name is already there")
            known[field.name] = (hints[field.name], field)
    return known


def _split(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The words as (option, its values), in their order; the option with underscores and without the dashes."""
    words: list[tuple[str, list[str]]] = []
    for word in argv:
        if word == "-h":
            word = "--help"
        if _OPTION.match(word):
            name, equals, value = word[2:].partition("=")
            name, dot, part = name.partition(".")
            words.append((name.replace("-", "_") + dot + part, [value] if equals else []))
        elif not words:
            raise OptionsError(f"found {word!r} where an option was expected; options are written --name value")
        else:
            words[-1][1].append(word)
    return words


class _Given:
    """What files and the command line gave so far: a later one wins."""

    def __init__(self, known: Mapping[str, tuple[Any, Any]], *, allow_extra: bool, takes_help_all: bool) -> None:
        self.known = known
        self.allow_extra = allow_extra
        self.names = [*known, *OWN_OPTIONS, *(["help_all"] if takes_help_all else [])]
        self.values: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def take_file(self, path: str) -> None:
        file = read_config(path)
        for name, value in file.values.items():
            source = f"{file.source}:{file.lines[name]}"
            if name in OWN_OPTIONS or not (name in self.known or self.allow_extra):
                raise _unknown(name, source, list(self.known))
            self._put(name, value, source)

    def take_words(self, name: str, words: list[str]) -> None:
        name, _, part = name.partition(".")
        kind = self.known[name][0] if name in self.known else None
        positive = name.removeprefix("no_")
        if name not in self.known and positive in self.known and accepts_flag(self.known[positive][0]) and not part:
            if words:
                raise OptionsError(
                    f"--{name}: found the value {words[0]!r}; write --{name} alone, or --{positive} false"
                )
            return self._put(positive, False, _COMMAND_LINE)
        if name not in self.known and not self.allow_extra:
            raise _unknown(name, _COMMAND_LINE, self.names)
        if not words:
            if part or (name in self.known and not accepts_flag(kind)):
                raise OptionsError(f"--{name}{'.' if part else ''}{part}: found no value, wanted {describe(kind)}")
            words = ["true"]
        values: list[Any] = [None if word == "null" else PlainText(word) for word in words]
        value = values[0] if len(values) == 1 else values
        if part:
            value = self._with_part(name, part, kind, value)
        self._put(name, value, _COMMAND_LINE)

    def _with_part(self, name: str, part: str, kind: Any, value: Any) -> dict[str, Any]:
        """The mapping so far, from a file or the default, with one part of it set."""
        if name in self.known and not is_mapping(kind):
            raise OptionsError(f"--{name}.{part}: {name} is {describe(kind)} and has no parts")
        default = default_of(self.known[name][1]) if name in self.known else {}
        whole = (self.values if name in self.known else self.extra).get(name, default)
        if isinstance(whole, str):
            whole = _read(name, whole, dict[str, Any], self.sources[name])
        whole = copy.deepcopy(whole) if isinstance(whole, dict) else {}
        inner = whole
        *path, last = part.split(".")
        for key in path:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[last] = value
        return whole

    def _put(self, name: str, value: Any, source: str) -> None:
        (self.values if name in self.known else self.extra)[name] = value
        self.sources[name] = source

    def build(self, classes: Sequence[type], extra_home: type | None) -> list[Any]:
        read = {
            name: _read(name, value, self.known[name][0], self.sources[name]) for name, value in self.values.items()
        }
        missing = [f"--{name}" for name, (_, field) in self.known.items() if name not in read and is_required(field)]
        if missing:
            hint = ""
            guesses = {name: nearest(name, (option[2:] for option in missing)) for name in self.extra}
            for name, guess in guesses.items():  # a mistyped required option was collected as an extra one
                hint = f" ({_written(name, self.sources[name])} is unknown; did you mean --{guess}?)" if guess else hint
            raise OptionsError(f"missing: {', '.join(missing)}{hint}")
        instances = []
        for kind in classes:
            names = [field.name for field in dataclasses.fields(kind) if field.init and field.name in read]
            try:
                instance = kind(**{name: read[name] for name in names})
            except ValueError as error:
                raise OptionsError(str(error)) from error
            if kind is extra_home:
                instance.extra = self.extra
                instance.sources = self.sources
            instances.append(instance)
        return instances


def _mapping(instance: Any) -> dict[str, Any]:
    mapping = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init}
    if getattr(instance, "allow_extra", False):
        mapping.update(instance.extra)
    return mapping


def _written(name: str, source: str) -> str:
    return f"--{name}" if source == _COMMAND_LINE else f"{source}: {name}"


def _read(name: str, value: Any, kind: Any, source: str) -> Any:
    try:
        return read_value(value, kind)
    except WrongTypeError as error:
        raise OptionsError(f"{_written(name, source)}: {error}") from None


def _unknown(name: str, source: str, names: Sequence[str]) -> OptionsError:
    guess = nearest(name, names)
    if source == _COMMAND_LINE:
        return OptionsError(
            f"unknown option --{name}" + (f"; did you mean --{guess}?" if guess else "; --help lists them")
        )
    return OptionsError(f"{source}: unknown option {name!r}" + (f"; did you mean {guess!r}?" if guess else ""))
