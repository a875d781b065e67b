"""A server that really runs: uvicorn on a free port, in a thread of the test, with a client for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from mmembed.apps.listening import bind
from mmembed.apps.serve.limits import ServeLimits
from mmembed.apps.serve.running import DrainingServer, build_server
from mmembed.apps.serve.served import Served


@contextmanager
def started(served: Served, *, key: str | None = None, **limits: Any) -> Iterator[tuple[httpx.Client, DrainingServer]]:
    """The client speaks to 127.0.0.1; the server stops at the end."""
    server = build_server(served, limits=ServeLimits(**limits), key=key)
    with bind("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        while not server.started:
            time.sleep(0.005)
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            yield client, server
        server.should_exit = True
        thread.join(timeout=20)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error that an answer holds, and nothing else."""
    content = answer.json()
    assert set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
    return content["error"]
