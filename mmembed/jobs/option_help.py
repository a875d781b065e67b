"""What `--help` shows: each option's name, type, purpose and default."""

from __future__ import annotations

import dataclasses
import enum
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmembed.jobs.option_values import describe

OWN_OPTIONS = {
    "config": "a YAML file of these options; may be given again, a later file wins; options given beside it win over files",
    "print_config": "print the options that would be used, as YAML, and stop",
    "help": "show this help and stop",
}


def help_text(
    prog: str,
    description: str,
    known: Mapping[str, tuple[Any, dataclasses.Field[Any]]],
    *,
    takes_more: bool = False,
    passed_through: Mapping[str, tuple[Any, dataclasses.Field[Any]]] | None = None,
) -> str:
    """Write the help of a command.

    Args:
        prog: The command's name.
        description: What it does.
        known: Option to its type and its dataclass field.
        takes_more: Whether it passes options through, which ``--help_all`` lists.
        passed_through: Those options, where they are to be listed.

    Returns:
        The text, an option in two lines or more.

    Example:
        >>> field = dataclasses.field(default=1, metadata={"help": "passes over the data"})
        >>> print(help_text("mmembed try", "", {"epochs": (int, field)}).split("options:")[1][:67])
        <BLANKLINE>
          --epochs <whole number>
              passes over the data (default: 1)
    """
    lines = [f"usage: {prog or Path(sys.argv[0]).name} [--config FILE.yaml] [--OPTION VALUE ...]", ""]
    if description:
        lines += [textwrap.fill(" ".join(description.split()), 100), ""]
    lines.append("options:")
    for name, (kind, field) in known.items():
        lines += _option_lines(name, kind, field)
    own = OWN_OPTIONS | (
        {"help_all": "also list the options that are passed through (imports more)"} if takes_more else {}
    )
    for name, text in own.items():
        lines += [f"  --{name}", f"      {text}"]
    if passed_through is not None:
        lines += ["", "passed through:"]
        for name, (kind, field) in passed_through.items():
            if name not in known:
                lines += _option_lines(name, kind, field)
    return "\n".join(lines) + "\n"


def _option_lines(name: str, kind: Any, field: dataclasses.Field[Any]) -> list[str]:
    form = f"--{name} / --no_{name}" if kind is bool else f"--{name} <{describe(kind)}>"
    default = "required"
    if not is_required(field):
        value = default_of(field)
        value = value.value if isinstance(value, enum.Enum) else value
        words = {None: "null", True: "true", False: "false", "": "''"}
        default = f"default: {words.get(value, value) if isinstance(value, bool | str | None) else value}"
    text = textwrap.fill(f"{' '.join(str(field.metadata.get('help', '')).split())} ({default})".strip(), 100)
    return [f"  {form}", textwrap.indent(text, "      ")]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value that holds when nothing is given; ``dataclasses.MISSING`` where something must be.

    Args:
        field: A dataclass field.

    Returns:
        A fresh default.
    """
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether an option must be given.

    Args:
        field: A dataclass field.

    Returns:
        True where it has no default.
    """
    return default_of(field) is dataclasses.MISSING
