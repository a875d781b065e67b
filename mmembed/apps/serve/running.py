"""How does the server start, and how does it stop? It finishes what is under way, and refuses what comes."""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from mmembed.apps.listening import is_loopback, own_names, server_config
from mmembed.apps.serve.app import create_app
from mmembed.apps.serve.gate import Gate
from mmembed.apps.serve.limits import ServeError, ServeLimits
from mmembed.apps.serve.served import Served

logger = logging.getLogger(__name__)

_LOOK = 0.05  # seconds between looks at what is under way


class DrainingServer(uvicorn.Server):
    """uvicorn, which on the first signal refuses work, answers what it has taken, and then stops.

    Args:
        config: Of uvicorn.
        gate: What knows how many requests are under way.
        drain_seconds: How long they are waited for.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_seconds: float) -> None:
        super().__init__(config)
        self._gate, self._drain_seconds = gate, drain_seconds
        self._running: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: Any = None) -> None:
        """Serve until a signal, and until what is under way is answered."""
        self._running = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one ends it at once."""
        if self._gate.draining or self._running is None:
            self.should_exit = True
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self._gate.draining = True
        self._running.call_soon_threadsafe(self._begin_draining)

    def _begin_draining(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        while self._gate.in_flight and loop.time() < end:
            await asyncio.sleep(_LOOK)
        if self._gate.in_flight:
            logger.warning("%d requests were not finished within %g seconds", self._gate.in_flight, self._drain_seconds)
        self.should_exit = True


def check_reach(host: str, key: str | None, *, allow_unauthenticated: bool) -> None:
    """Refuse to be reached from elsewhere without a key.

    Args:
        host: Address to listen at.
        key: Callers' key, or None.
        allow_unauthenticated: Something before the server asks for one.

    Raises:
        ServeError: There is no key, or it is too short to be one.

    Example:
        >>> check_reach("127.0.0.1", None, allow_unauthenticated=False)
        >>> check_reach("0.0.0.0", None, allow_unauthenticated=False)
        Traceback (most recent call last):
        mmembed.apps.serve.limits.ServeError: at 0.0.0.0 the server is reached from other machines, and there is no key: ...
    """
    if key is not None and len(key) < 16:
        raise ServeError("the key has fewer than 16 characters, which is soon guessed; make a longer one")
    if not is_loopback(host) and key is None and not allow_unauthenticated:
        raise ServeError(
            f"at {host} the server is reached from other machines, and there is no key: set one, or say "
            "allow_unauthenticated if something before it asks for one"
        )


def build_server(
    served: Served,
    *,
    host: str = "127.0.0.1",
    limits: ServeLimits | None = None,
    key: str | None = None,
    allow_unauthenticated: bool = False,
) -> DrainingServer:
    """A server, to be started by its `run` with a socket of `mmembed.apps.listening.bind`.

    Args:
        served: Its model, pipeline and reranker.
        host: Address that it will listen at.
        limits: What may be asked at once.
        key: Callers' key.
        allow_unauthenticated: Serve beyond this machine without a key.

    Raises:
        ServeError: It would be reached from elsewhere without a key, or the key is too short to be one.
    """
    limits = limits or ServeLimits()
    check_reach(host, key, allow_unauthenticated=allow_unauthenticated)
    app: FastAPI = create_app(served, limits=limits, key=key, hosts=own_names(host))
    config = server_config(
        app, host=host, max_connections=limits.max_connections, last_seconds=max(1, round(limits.drain_seconds))
    )
    return DrainingServer(config, app.state.gate, limits.drain_seconds)
