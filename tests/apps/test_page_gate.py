"""What a page's own browser asks reaches the page; everything else ends at the gate, and an answer loads nothing."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from mmembed.apps.listening import LOOPBACK
from mmembed.apps.page_gate import PageGate

OWN = {"host": "127.0.0.1:7860"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


class Page:
    """What is behind the gate: it reads the whole body and says what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/config":
            raise RuntimeError("/home/anna/secret.txt at 0x7f00dead")
        self.seen.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the page"})


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def gate(page, tmp_path) -> PageGate:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "cat.png").write_bytes(b"cat")
    return PageGate(page, hosts=LOOPBACK, upload_dir=tmp_path / "uploads", upload_bytes=1000)


def ask(
    gate: PageGate,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: list[bytes] | None = None,
) -> tuple[int, dict[str, str], str]:
    """A request, and the answer's status, headers and text."""
    parts = list(body or [b""])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in {**OWN, **(headers or {})}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": given}
    asyncio.run(gate(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(one.get("body", b"") for one in sent[1:]).decode()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/theme.css", "/assets/index-Dp_hv.js", "/assets/src/a.js", "/static/img/logo_nosize.svg", "/manifest.json",
        "/gradio_api/queue/data", "/gradio_api/heartbeat/isj9qc6qr1", "/gradio_api/upload_progress",
    ],
)  # fmt: skip
def test_what_the_page_asks_reaches_it(gate, page, path) -> None:
    status, headers, text = ask(gate, path)
    assert (status, text) == (200, "the page") and page.seen == [(path, b"")]
    assert (
        headers["content-security-policy"].startswith("default-src 'none'")
        and "http" not in headers["content-security-policy"]
    )
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.security
@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1:80/", "/gradio_api/file=//etc/passwd",
        "/gradio_api/file=uploads/cat.png", "/gradio_api/file=", "/gradio_api/file=\0", "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://example.org/", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/runs",
        "/gradio_api/run-history/buckets", "/gradio_api/dev/reload", "/gradio_api/deep_link", "/monitoring", "/docs",
        "/openapi.json", "/static/../../etc/passwd", "/static/..", "/assets/.hidden", "/svelte/../x", "/token", "/login",
        "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/custom_component/1/client/component/x.js", "//", "/x",
    ],
)  # fmt: skip
def test_nothing_else_is_reached(gate, page, path) -> None:
    assert ask(gate, path)[0] == 404 and not page.seen
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(gate, path, method=method)[0] == 405
    assert ask(gate, "/gradio_api/run/predict", method="POST", body=[b"{}"])[0] == 404
    assert ask(gate, "/gradio_api/call/search", method="POST", body=[b"{}"])[0] == 404 and not page.seen


@pytest.mark.security
def test_only_what_was_uploaded_is_given_out_and_runs_nowhere(gate, page, tmp_path) -> None:
    own = tmp_path / "uploads" / "cat.png"
    status, headers, _ = ask(gate, f"/gradio_api/file={own}")
    assert status == 200 and headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.symlink(secret, tmp_path / "uploads" / "link.png")
    os.mkdir(tmp_path / "uploads-of-another")
    (tmp_path / "uploads-of-another" / "cat.png").write_bytes(b"cat")
    for path in (
        tmp_path / "uploads" / "link.png",
        tmp_path / "uploads" / ".." / "secret.txt",
        tmp_path / "uploads-of-another" / "cat.png",
        tmp_path / "uploads",
        tmp_path / "uploads" / "none.png",
    ):
        assert ask(gate, f"/gradio_api/file={path}")[0] == 404, path
    assert len(page.seen) == 1


@pytest.mark.security
def test_an_event_names_no_file_but_an_uploaded_one(gate, page, tmp_path) -> None:
    def event(path: Any) -> list[bytes]:
        file = {"path": path, "url": "http://127.0.0.1/x", "meta": {"_type": "gradio.FileData"}}
        return [json.dumps({"data": ["mug", [{"deep": [file]}]], "fn_index": 0}).encode()]

    own = str(tmp_path / "uploads" / "cat.png")
    assert ask(gate, JOIN, method="POST", body=event(own))[0] == 200
    assert json.loads(page.seen[0][1])["data"][1][0]["deep"][0]["path"] == own
    assert ask(gate, JOIN, method="POST", body=event(None))[0] == 200
    for path in (
        "/etc/passwd",
        "http://127.0.0.1:9/x.png",
        "https://example.org/x.png",
        f"{own}/../../secret",
        7,
        ["a"],
        "",
    ):
        assert ask(gate, JOIN, method="POST", body=event(path))[0] == 404, path
    for body in (b"not json", b"[" * 100_000, b"\xff"):
        assert ask(gate, JOIN, method="POST", body=[body])[0] == 400
    assert len(page.seen) == 2


@pytest.mark.security
def test_pages_of_others_are_refused(gate, page) -> None:
    assert ask(gate, "/", headers={"host": "evil.example"})[0] == 403  # a name that leads here, as in DNS rebinding
    assert ask(gate, "/", headers={"host": ""})[0] == 403
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860", "[::1]"):
        assert ask(gate, "/", headers={"host": host})[0] == 200
    body = [b"{}"]
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", ""):
        assert ask(gate, JOIN, method="POST", headers={"origin": origin}, body=body)[0] == 403, origin
    assert ask(gate, JOIN, method="POST", headers={"origin": "http://127.0.0.1:7860"}, body=body)[0] == 200
    anybody = PageGate(page, hosts=None, upload_dir="/tmp")
    assert ask(anybody, "/", headers={"host": "shop.example"})[0] == 200


@pytest.mark.security
def test_an_upload_or_an_event_that_is_too_long_is_cut_off(gate, page) -> None:
    assert ask(gate, UPLOAD, method="POST", body=[b"a" * 900, b"b" * 90])[0] == 200
    long = {"content-length": "40000000"}
    assert ask(gate, UPLOAD, method="POST", headers=long)[0] == 413
    assert ask(gate, UPLOAD, method="POST", headers={"content-length": "-1"})[0] == 413
    status, _, text = ask(gate, UPLOAD, method="POST", body=[b"a" * 9000] * 10)  # says nothing of its length
    assert status == 413 and text == "more than 21,000 bytes"
    assert ask(gate, JOIN, method="POST", body=[b'"' + b"a" * 300_000 + b'"'])[0] == 413
    assert len(page.seen) == 1


@pytest.mark.security
def test_a_failure_tells_nothing_of_this_machine(gate, caplog) -> None:
    status, headers, text = ask(gate, "/config")
    assert (status, text) == (500, "something failed inside the page")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "secret.txt" in caplog.text  # but its own log does


def test_websockets_are_closed_and_the_start_passes(page, tmp_path) -> None:
    gate = PageGate(page, hosts=LOOPBACK, upload_dir=tmp_path)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    asyncio.run(gate({"type": "websocket", "path": "/"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
