"""Where does a server listen, who reaches it there, and by which names is it called? For pages and for `mmembed serve`."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

#: Names by which this machine's own programs call it.
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class AddressError(ValueError):
    """An address that cannot be listened at."""


def is_loopback(host: str) -> bool:
    """Whether a server at this address is reached from this machine alone.

    Args:
        host: an address, or the name of one.

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


def own_names(host: str) -> tuple[str, ...] | None:
    """Names that a request may call a server by that listens here; None where that is not known, beyond this machine.

    Args:
        host: address that it listens at.

    Example:
        >>> own_names("0.0.0.0") is None, "localhost" in own_names("127.0.0.1")
        (True, True)
    """
    return LOOPBACK if is_loopback(host) else None


def is_called(header: str, names: tuple[str, ...] | None) -> bool:
    """Whether a request calls the server by a name of its own.

    A page of another site whose name leads here, as in DNS rebinding, calls it by that site's name.

    Args:
        header: the request's `Host`.
        names: of `own_names`; None lets any through.

    Example:
        >>> is_called("127.0.0.1:7860", LOOPBACK), is_called("[::1]", LOOPBACK), is_called("evil.example:7860", LOOPBACK)
        (True, True, False)
    """
    host = header.lower()
    return names is None or (host if host.endswith("]") else host.rpartition(":")[0] or host) in names


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before anything is loaded.

    Args:
        host: an address, or the name of one.
        port: 0 takes a free one.

    Raises:
        AddressError: it cannot be had.

    Example:
        >>> with bind("127.0.0.1", 0) as listening:
        ...     shown_address("127.0.0.1", listening)
        'http://127.0.0.1:...'
    """
    if not 0 <= port <= 65_535:
        raise AddressError(f"cannot listen at {host}, port {port}: a port is a number from 0 to 65535")
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
        raise AddressError(f"cannot listen at {host}, port {port}: {error}") from None
    return listening


def shown_address(host: str, listening: socket.socket) -> str:
    """What a browser or a client is told to open.

    Args:
        host: as it was asked for.
        listening: of `bind`.
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def server_config(app: Any, *, host: str, max_connections: int, last_seconds: int, log_level: str | None = None) -> Any:
    """How uvicorn runs a server of ours: HTTP/1.1 alone, no header that tells what it is, and no trust in a proxy's.

    Args:
        app: an ASGI application.
        host: address that it will listen at.
        max_connections: open at once; more are refused.
        last_seconds: that a connection may take to end once the server is told to stop.
        log_level: of uvicorn's log; None leaves it as it is.

    Returns:
        A `uvicorn.Config`.
    """
    import uvicorn

    return uvicorn.Config(
        app,
        host=host,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=last_seconds,
    )
