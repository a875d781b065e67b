"""How does a Gradio page start, and who reaches it? This machine's own browser, until a signal stops it."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmembed.apps.page_gate import LOOPBACK, UPLOAD_BYTES, PageGate
from mmembed.apps.page_style import CSS, page_theme

_WAITING = 32  # events that wait for the model; more are told to come back
_SESSIONS = 200  # whose state is kept
_CONNECTIONS = 256
_LAST_SECONDS = 2  # that an open stream may take to end
_OLD = (600, 3600)  # seconds: how often uploads are looked at, and after how many they go


class PageError(ValueError):
    """A page that cannot be opened where it was asked for."""


def is_loopback(host: str) -> bool:
    """Whether a page at this address is reached from this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reach(host: str, *, allow_remote: bool) -> None:
    """Refuse to be reached from elsewhere, unless that was said.

    Raises:
        PageError: naming what to do.

    Example:
        >>> check_reach("0.0.0.0", allow_remote=False)
        Traceback (most recent call last):
        mmembed.apps.page_server.PageError: at 0.0.0.0 anybody who reaches this machine sees the page and the items: ...
    """
    if not is_loopback(host) and not allow_remote:
        raise PageError(
            f"at {host} anybody who reaches this machine sees the page and the items: keep 127.0.0.1, or say --allow_remote"
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before anything is loaded.

    Args:
        host: an address, or the name of one.
        port: 0 takes a free one.

    Raises:
        PageError: it cannot be had.

    Example:
        >>> with bind("127.0.0.1", 0) as listening:
        ...     listening.getsockname()[1] > 0
        True
    """
    if not 0 <= port <= 65_535:
        raise PageError(f"cannot listen at {host}, port {port}: a port is a number from 0 to 65535")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise PageError(f"cannot listen at {host}, port {port}: {error}") from None
    return listening


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
    return PageGate(app, hosts=LOOPBACK if is_loopback(host) else None, upload_dir=upload_dir)


def build_page_server(blocks: Any, upload_dir: str, *, host: str = "127.0.0.1") -> Any:
    """A server of a page, to be started by its `run` with a socket of `bind`; SIGINT or SIGTERM stops it.

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

    return Server(
        uvicorn.Config(
            page_app(blocks, upload_dir, host=host),
            host=host,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
    )
