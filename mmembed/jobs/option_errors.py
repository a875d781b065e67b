"""Options that reach a function or a class as keyword arguments: what is wrong with them is said in a line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmembed.jobs.options import OptionsError, nearest


def check_names(option: str, given: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    """Refuse keywords that none of the functions names.

    Args:
        option: The option that holds the keywords.
        given: The keywords.
        takers: Functions or classes that take them.

    Raises:
        OptionsError: Naming the keyword and the nearest that exists.

    Example:
        >>> check_names("augmentation", {"flips": 1}, lambda crop, flip: None)
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: augmentation has no 'flips'; did you mean 'flip'? It has: crop, flip
    """
    known = {
        name
        for taker in takers
        for name, parameter in inspect.signature(taker).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in given:
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {near!r}?" if near else "."
            raise OptionsError(f"{option} has no {name!r}{hint} It has: {', '.join(sorted(known))}")


@contextmanager
def as_option_errors() -> Iterator[None]:
    """Values that a library refuses are the user's to mend: a line instead of a traceback.

    Example:
        >>> with as_option_errors():
        ...     raise ValueError("decay=2; it must lie in (0, 1].")
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: decay=2; it must lie in (0, 1].
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # DataError and its like say where they come from
            raise
        raise OptionsError(str(error)) from error
