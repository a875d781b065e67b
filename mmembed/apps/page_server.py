"""How does a Gradio page start, and who reaches it? This machine's own browser, until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmembed.apps.listening import AddressError, is_loopback, own_names, server_config
from mmembed.apps.page_gate import UPLOAD_BYTES, PageGate
from mmembed.apps.page_style import CSS, page_theme

_WAITING = 32  # events that wait for the model; more are told to come back
_SESSIONS = 200  # whose state is kept
_CONNECTIONS = 256
_LAST_SECONDS = 2  # that an open stream may take to end
_OLD = (600, 3600)  # seconds: how often uploads are looked at, and after how many they go


def check_reach(host: str, *, allow_remote: bool) -> None:
    """Refuse to be reached from elsewhere, unless that was said.

    Raises:
        AddressError: naming what to do.

    Example:
        >>> check_reach("0.0.0.0", allow_remote=False)
        Traceback (most recent call last):
        mmembed.apps.listening.AddressError: at 0.0.0.0 anybody who reaches this machine sees the page and the items: ...
    """
    if not is_loopback(host) and not allow_remote:
        raise AddressError(
            f"at {host} anybody who reaches this machine sees the page and the items: keep 127.0.0.1, or say --allow_remote"
        )


@contextmanager
def upload_folder() -> Iterator[str]:
    """A folder of this page alone that Gradio is told to put uploads in, gone at the end; Gradio sends nothing home."""
    with tempfile.TemporaryDirectory(prefix="mmembed-page-") as folder:
        told = {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_EXAMPLES_CACHE": os.path.join(folder, "examples"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield folder
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def page_app(blocks: Any, upload_dir: str, *, host: str = "127.0.0.1") -> PageGate:
    """The page as an ASGI application, behind its gate.

    Args:
        blocks: a `gradio.Blocks`.
        upload_dir: of `upload_folder`, in which the blocks were made.
        host: address that it will listen at.

    Returns:
        The application.
    """
    import gradio
    from fastapi import FastAPI

    blocks.delete_cache, blocks.state_session_capacity = _OLD, _SESSIONS
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1, api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=host,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[],
        show_error=False,
        max_file_size=UPLOAD_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=page_theme(),
        css=CSS,
    )
    return PageGate(app, hosts=own_names(host), upload_dir=upload_dir)


def build_page_server(blocks: Any, upload_dir: str, *, host: str = "127.0.0.1") -> Any:
    """A server of a page, to be started by its `run` with a socket of `mmembed.apps.listening.bind`; SIGINT or SIGTERM stops it.

    Args:
        blocks: a `gradio.Blocks`.
        upload_dir: of `upload_folder`, in which the blocks were made.
        host: address that it will listen at.

    Returns:
        A `uvicorn.Server`.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn, which ends at a signal as a thing that was asked for, and not as one that failed."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

    logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
    app = page_app(blocks, upload_dir, host=host)
    return Server(
        server_config(app, host=host, max_connections=_CONNECTIONS, last_seconds=_LAST_SECONDS, log_level="warning")
    )


def _is_no_cut(record: logging.LogRecord) -> bool:
    """Streams that a page still has open when the server stops are cut off; that is no error to show a traceback of."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
