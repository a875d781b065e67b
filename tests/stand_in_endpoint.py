"""A server on this machine that answers chat completions with what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn:
    """Answers with what `replies` holds, the last one for ever, or with what `thinks` makes of a request; keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.replies: list[tuple[int, dict[str, str], bytes]] = []
        self.thinks: Callable[[dict[str, Any]], str] | None = None
        this = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                this.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                if this.thinks is not None:
                    status, headers, data = 200, {}, completion(this.thinks(body))
                else:
                    status, headers, data = this.replies.pop(0) if len(this.replies) > 1 else this.replies[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, content: str, status: int = 200, usage: dict[str, Any] | None = None, **headers: str) -> None:
        self.replies.append((status, headers, completion(content, usage)))


def completion(content: str, usage: dict[str, Any] | None = None) -> bytes:
    value: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return json.dumps(value if usage is None else {**value, "usage": usage}).encode()


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    running = StandIn()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
