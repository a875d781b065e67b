"""Which requests reach the model? Those of this host, with the key, while the server is not about to stop."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from mmembed.apps.listening import is_called
from mmembed.apps.serve.metrics import Metrics
from mmembed.apps.serve.rejections import Rejection

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEALTH, METRICS = "/health", "/metrics"


class Gate:
    """ASGI middleware before all else: it counts, refuses, and turns what nobody expected into an answer without detail.

    Args:
        app: What is behind it.
        metrics: Where requests are counted.
        paths: Addresses that are counted by their name; any other is "other".
        key: Without which nothing but /health is answered; None asks for none.
        hosts: Names that a request may call this server by, of `mmembed.apps.listening.own_names`.
    """

    def __init__(
        self, app: Any, *, metrics: Metrics, paths: frozenset[str], key: str | None, hosts: tuple[str, ...] | None
    ) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths
        self.key = None if key is None else key.encode("utf-8")
        self.hosts = hosts
        self.draining = False
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        status = 500
        began = time.perf_counter()
        works = path not in (HEALTH, METRICS)
        self.in_flight += works
        self.metrics.in_flight.set(self.in_flight)

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope, path)
            await self.app(scope, receive, told)
        except Rejection as rejection:
            status = rejection.status
            await answer(send, rejection)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered
        except Exception:
            logger.exception("a request to %s failed", path)
            if status == 500:  # no answer has begun
                await answer(send, Rejection(500, "something failed inside the server", code="internal"))
        finally:
            self.in_flight -= works
            self.metrics.in_flight.set(self.in_flight)
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _check(self, scope: Scope, path: str) -> None:
        headers = {name: value for name, value in reversed(scope["headers"])}
        if not is_called(headers.get(b"host", b"").decode("latin-1"), self.hosts):
            self.metrics.rejected.labels("host").inc()
            raise Rejection(403, "this server answers requests to its own address alone", code="host")
        if self.key is not None and path != HEALTH:
            self._check_key(headers)
        if self.draining and path not in (HEALTH, METRICS):
            self.metrics.rejected.labels("draining").inc()
            raise Rejection(503, "the server is about to stop; ask another", code="draining", retry_after=5)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        assert self.key is not None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # Both are compared to their end, however early they differ.
        if not hmac.compare_digest(given, self.key):
            self.metrics.rejected.labels("key").inc()
            raise Rejection(401, "send the server's key, as in Authorization: Bearer KEY", code="invalid_api_key")


async def answer(send: Send, rejection: Rejection) -> None:
    """Send a rejection.

    Args:
        send: Of ASGI.
        rejection: What is said.
    """
    body = json.dumps(rejection.body(), ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **rejection.headers()}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": rejection.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
