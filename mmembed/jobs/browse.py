"""`mmembed browse`: a page over an index, or one that asks back, until it is told to stop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mmembed.jobs.browse_options import BrowseOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

_EXTRA = ("gradio", "gradio_client", "uvicorn", "fastapi")
_COMPRESSED = ("int8", "binary")


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `browse`.

    Returns:
        0 when the page was told to stop.

    Raises:
        OptionsError: If an option is unknown, of the wrong type, or the options contradict each other.
        AddressError: If others would reach the page and that was not said, or the port is taken.
        DataError: If a file has a fault, or an index is of another model.
        ImportError: If `mmembed[browse]` is not installed.

    Example:
        >>> main(["--index", "shop-index", "--vectors", "shop"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --index and --vectors both say what is searched; give one
    """
    run(parse_options(BrowseOptions, argv, prog="mmembed browse", description=BrowseOptions.__doc__ or ""))
    return 0


def run(options: BrowseOptions) -> None:
    """Open the page and serve it until SIGINT or SIGTERM.

    Args:
        options: What is shown, and where.
    """
    from mmembed.apps.listening import bind, is_loopback, shown_address
    from mmembed.apps.page_server import build_page_server, check_reach, upload_folder

    _check(options)
    check_reach(options.host, allow_remote=options.allow_remote)
    with bind(options.host, options.port) as listening, upload_folder() as folder:
        with _extra_of_pages():
            import gradio  # noqa: F401  what is missing is said before a model is loaded
        shown = options.pipeline or options.index or options.vectors or options.items or "the drawn catalogue"
        sys.stdout.write(f"opening         {shown}\n")
        if not is_loopback(options.host):
            sys.stdout.write(
                f"warning         {options.host} is reached from other machines, and there is no password\n"
            )
        sys.stdout.flush()
        with as_option_errors():
            page = _dialogue(options) if options.dialogue else _search(options)
        server = build_page_server(page, folder, host=options.host)
        sys.stdout.write(f"page            {shown_address(options.host, listening)}/    (Ctrl-C stops it)\n")
        sys.stdout.flush()
        server.run(sockets=[listening])
    sys.stdout.write("stopped\n")


def _search(options: BrowseOptions) -> Any:
    from mmembed.apps.browse.page import browse_page
    from mmembed.apps.browse.searching import PageSearch
    from mmembed.apps.item_cards import ItemCards
    from mmembed.jobs.browse_parts import page_pipeline, read_page

    parts = read_page(options)
    pipeline = page_pipeline(options, parts)
    search = PageSearch(
        pipeline, compressed=options.compressed, seed=options.seed, show_progress_bar=options.show_progress_bar
    )
    cards = ItemCards(parts.items, parts.reader, columns=parts.columns)
    return browse_page(search, cards, about=parts.about, examples=parts.examples, k=options.k)


def _dialogue(options: BrowseOptions) -> Any:
    from mmembed.jobs.dialogue_parts import dialogue_page_of

    return dialogue_page_of(options)


@contextlib.contextmanager
def _extra_of_pages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _EXTRA:
            raise ImportError(f"a page needs {error.name}: pip install 'mmembed[browse]'") from error
        raise


def _check(options: BrowseOptions) -> None:
    """What can be said before anything heavy is imported or read."""
    given = [name for name in ("pipeline", "index", "vectors") if getattr(options, name) is not None]
    if len(given) > 1:
        raise OptionsError(f"--{given[0]} and --{given[1]} both say what is searched; give one")
    if options.pipeline is not None and (options.items or options.lexical or options.reranker):
        raise OptionsError("--pipeline has its own parts; leave --items, --lexical and --reranker out")
    if options.use is not None and given:
        raise OptionsError(f"--use says what of items is encoded, and --{given[0]} is encoded already")
    if options.reranker is not None and given and options.items is None:
        raise OptionsError("--reranker reads the items; name them by --items")
    if options.dialogue and given and options.items is None:
        raise OptionsError("--dialogue asks about attributes of items; name them by --items")
    for name in options.compressed:
        if name not in _COMPRESSED:
            raise OptionsError(f"--compressed: found {name!r}; choose {', '.join(_COMPRESSED)}, or [] for nothing")
    for name in ("k", "rounds"):
        if getattr(options, name) < 1:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least 1")
