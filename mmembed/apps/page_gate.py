"""Which requests reach a Gradio page? Those that its own browser makes, from this machine; all others end here.

Gradio answers far more than a page asks for: it fetches addresses, proxies other hosts, lists runs, calls functions by
name. None of that is needed, and so none of it is reached: what is not in the list below is not found. What is answered
goes out under a policy by which a browser loads nothing from anywhere else, whatever stood in a text of the data.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from mmembed.apps.listening import is_called

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Longest uploaded file, in bytes.
UPLOAD_BYTES = 10_000_000

_FORM_BYTES = 20_000  # of an upload, beside the file
_EVENT_BYTES = 200_000  # of what an event sends: a text, choices, numbers
_API = "/gradio_api/"
_JOIN, _UPLOAD, _FILE = f"{_API}queue/join", f"{_API}upload", f"{_API}file="
_SESSION = r"[A-Za-z0-9_-]{1,64}"
_READ = re.compile(
    r"/|/(?:theme\.css|favicon\.ico|manifest\.json|robots\.txt|config)"
    r"|/(?:assets|static)/(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*"
    rf"|{_API}(?:queue/data|upload_progress|startup-events|heartbeat/{_SESSION})"
)
_WRITTEN = (_JOIN, _UPLOAD, f"{_API}cancel", f"{_API}reset")
# Gradio's page has scripts and styles in its HTML and makes functions of texts that are ours.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


class Refused(Exception):
    """A request that is not answered by the page: a status of HTTP and a line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class PageGate:
    """ASGI middleware before the page.

    Args:
        app: the page.
        hosts: names that a request may call this server by, of `mmembed.apps.listening.own_names`.
        upload_dir: the folder that uploads go to, and the only one of which a file is given out.
        upload_bytes: longest uploaded file.

    Example:
        >>> gate = PageGate(None, hosts=("127.0.0.1",), upload_dir="/tmp/uploads")
        >>> gate.check("GET", "/gradio_api/file=/etc/passwd", {"host": "127.0.0.1:7860"})
        Traceback (most recent call last):
        mmembed.apps.page_gate.Refused: not found
    """

    def __init__(
        self,
        app: Any,
        *,
        hosts: tuple[str, ...] | None,
        upload_dir: str | os.PathLike[str],
        upload_bytes: int = UPLOAD_BYTES,
    ) -> None:
        self.app, self.hosts, self.upload_bytes = app, hosts, upload_bytes
        self.upload_dir = os.path.realpath(upload_dir)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        begun = False
        body: Bounded | None = None

        async def told(message: Message) -> None:
            nonlocal begun
            if body is not None and body.refusal is not None:
                return  # what the page makes of a body that was cut off
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), *_headers(path)]
            await send(message)

        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self.check(scope["method"], path, headers)
            if scope["method"] == "POST":
                most = self.upload_bytes + _FORM_BYTES if path == _UPLOAD else _EVENT_BYTES
                if not headers.get("content-length", "0").isdecimal() or int(headers.get("content-length", "0")) > most:
                    raise _too_much(most)
                receive = body = Bounded(receive, most)
                if path != _UPLOAD:
                    receive = self.checked(await whole_body(receive))
            await self.app(scope, receive, told)
        except Exception as error:
            refusal = body.refusal if body is not None and body.refusal is not None else error
            if not isinstance(refusal, Refused):
                logger.exception("a request to %s failed", path[:60])
                refusal = Refused(500, "something failed inside the page")
            if not begun:
                await answer(send, refusal, path)

    def check(self, method: str, path: str, headers: MutableMapping[str, str]) -> None:
        """Refuse what the page's own browser does not ask.

        Args:
            method: of HTTP.
            path: of the address, decoded.
            headers: by name in small letters.

        Raises:
            Refused: 403 for another host or site, 404 for another address, 405 for another method.
        """
        host = headers.get("host", "").lower()
        if not is_called(host, self.hosts):
            raise Refused(403, "this page is not called by that name")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            raise Refused(403, "a page of another site asks for this one")
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                self.check_file(path.removeprefix(_FILE))
            elif _READ.fullmatch(path) is None or ".." in path:
                raise Refused(404, "not found")
        elif method == "POST":
            if path not in _WRITTEN:
                raise Refused(404, "not found")
        else:
            raise Refused(405, "not done here")

    def check_file(self, path: Any) -> None:
        """Refuse a file that was not uploaded.

        Raises:
            Refused: it is none, or lies elsewhere.
        """
        real = os.path.realpath(path) if isinstance(path, str) and "\0" not in path else ""
        if not os.path.isabs(str(path)) or not real.startswith(self.upload_dir + os.sep) or not os.path.isfile(real):
            raise Refused(404, "not found")

    def checked(self, body: bytes) -> Receive:
        """What an event sends, once no file is named in it that was not uploaded: such a one would be read, or fetched.

        Raises:
            Refused: it is no JSON, or names such a file.
        """
        try:
            for part in _mappings(json.loads(body)) if body else ():
                if part.get("path") is not None:
                    self.check_file(part["path"])
        except (ValueError, RecursionError):
            raise Refused(400, "not JSON") from None
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return receive


class Bounded:
    """What arrives of a body, as long as it is not more than so many bytes; then `Refused`.

    Args:
        receive: of ASGI.
        most: bytes.
    """

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive, self.most, self.seen = receive, most, 0
        self.refusal: Refused | None = None

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.most:
            self.refusal = _too_much(self.most)
            raise self.refusal
        return message


def _too_much(most: int) -> Refused:
    return Refused(413, f"more than {most:,} bytes")


async def whole_body(receive: Receive) -> bytes:
    """All of a request's body."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def answer(send: Send, refusal: Refused, path: str) -> None:
    """A refusal as a line of plain text."""
    body = refusal.message.encode("utf-8")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close"), *_headers(path)]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = _FILE_POLICY if path.startswith(_FILE) else _POLICY
    return [
        (b"content-security-policy", policy.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


def _mappings(value: Any) -> list[dict[str, Any]]:
    """All JSON objects in a value."""
    found, left = [], [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found.append(one)
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found
