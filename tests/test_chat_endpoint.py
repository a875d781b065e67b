"""An OpenAI-compatible endpoint, against a stand-in server on this machine."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmembed.chat_endpoint import (
    BudgetSpentError,
    ChatEndpoint,
    EndpointError,
    UnreadableReplyError,
    image_data_url,
)
from mmembed.images import ImageError
from tests.stand_in_endpoint import StandIn, stand_in

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


def endpoint(server: StandIn, tmp_path: Path, **options: Any) -> ChatEndpoint:
    waits: list[float] = []
    made = ChatEndpoint(
        server.url, "m", **{"max_calls": 10, "cache_dir": tmp_path / "cache", "sleep": waits.append, **options}
    )
    made.waits = waits  # type: ignore[attr-defined]
    return made


def opened(url: str) -> Image.Image:
    assert url.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_what_is_sent_is_what_openais_own_client_sends(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = pytest.importorskip("openai")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    server.says("hi")
    red = Image.new("RGB", (4, 4), "red")
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    made = endpoint(server, tmp_path, temperature=0.5, max_new_tokens=7)
    assert made.reply([{"role": "user", "content": parts}], images=[red], sample=3) == "hi"
    filled = [{"type": "image_url", "image_url": {"url": image_data_url(red)}}, parts[1]]
    client = openai.OpenAI(base_url=server.url, api_key="k")
    client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": filled}], temperature=0.5, max_tokens=7, seed=3
    )
    ours, theirs = server.requests
    assert ours["path"] == theirs["path"] == "/v1/chat/completions" and ours["body"] == theirs["body"]
    assert "Authorization" not in ours["headers"] and "secret" not in str(ours) and "sk-of" not in str(ours)


def test_images_are_redrawn_small_upright_and_bare(server: StandIn, tmp_path: Path) -> None:
    file = io.BytesIO()
    turned = Image.new("RGB", (60, 20), "blue")
    exif = turned.getexif()
    exif[0x0112], exif[0x013B] = 6, "who took it"
    turned.save(file, "JPEG", exif=exif)
    made = endpoint(server, tmp_path, max_pixels=300)
    server.says("hi")
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    made.reply([{"role": "user", "content": content}], images=[file.getvalue(), np.zeros((5, 9, 3), np.uint8)])
    first, text, second = server.requests[0]["body"]["messages"][0]["content"]
    picture = opened(first["image_url"]["url"])
    assert picture.size == (10, 30) and not picture.getexif() and text == {"type": "text", "text": "and"}
    assert opened(second["image_url"]["url"]).size == (9, 5)
    assert opened(image_data_url(np.zeros((1, 9000, 3), np.uint8), max_pixels=100)).size == (948, 1)


@pytest.mark.security
@pytest.mark.parametrize("image", ["/etc/passwd", "https://127.0.0.1:9/a.png", "secret.png", b"<html>"])
def test_no_path_is_read_and_nothing_that_is_no_image_is_sent(server: StandIn, tmp_path: Path, image: Any) -> None:
    with pytest.raises(ImageError):
        endpoint(server, tmp_path).reply([{"role": "user", "content": [{"type": "image"}]}], images=[image])
    assert not server.requests


def test_images_and_their_places_must_be_as_many(server: StandIn, tmp_path: Path) -> None:
    made, red = endpoint(server, tmp_path), Image.new("RGB", (4, 4))
    for parts, images in (([{"type": "image"}], []), ([], [red]), ([{"type": "image"}] * 2, [red])):
        with pytest.raises(ValueError, match="places in the messages"):
            made.reply([{"role": "user", "content": parts}], images=images)
    for part in ({"type": "image", "image": red}, {"type": "image_url", "image_url": {"url": "https://x/"}}):
        with pytest.raises(ValueError, match="expected a text, or a bare image"):
            made.reply([{"role": "user", "content": [part]}], images=[red])
    assert not server.requests


def test_what_is_kept_is_not_asked_for_again(server: StandIn, tmp_path: Path) -> None:
    server.says("one")
    server.says("two \ud800 \u2028")
    first = endpoint(server, tmp_path)
    assert [first.reply(HELLO), first.reply(HELLO, sample=1)] == ["one", "two \ud800 \u2028"]
    again = endpoint(server, tmp_path, max_calls=0)
    assert [again.reply(HELLO), again.reply(HELLO, sample=1)] == ["one", "two \ud800 \u2028"] and again.calls == 0
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    seen = [{"role": "user", "content": [{"type": "image"}]}]
    assert first.reply(seen, images=[red]) and endpoint(server, tmp_path, max_calls=0).reply(seen, images=[red])
    for other in ({"sample": 2}, {"temperature": 0.5}):
        with pytest.raises(BudgetSpentError):
            again.reply(HELLO, **other)  # type: ignore[arg-type]
    for made, images in ((again, [blue]), (endpoint(server, tmp_path, max_calls=0, max_new_tokens=5), [red])):
        with pytest.raises(BudgetSpentError):
            made.reply(seen, images=images)
    assert all(path.suffix == ".json" for path in (tmp_path / "cache").iterdir())


def test_the_budget_of_calls_is_hard(server: StandIn, tmp_path: Path) -> None:
    server.says("", status=503)
    made = endpoint(server, tmp_path, max_calls=2, retries=5)
    with pytest.raises(BudgetSpentError, match=r"all 2 calls .* are used up.*larger max_calls \(last: status 503\)"):
        made.reply(HELLO)
    assert len(server.requests) == 2 == made.calls
    server.replies.clear()
    server.says("hi")
    many = endpoint(server, tmp_path, max_calls=5)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(many.reply, [{"role": "user", "content": str(number)}]) for number in range(40)]
    assert sum(one.exception() is None for one in asked) == 5 == len(server.requests) - 2


def test_the_budget_of_tokens_is_hard_and_logged(server: StandIn, tmp_path: Path) -> None:
    server.says("hi", usage={"prompt_tokens": 30, "completion_tokens": 25, "total_tokens": 55})
    made = endpoint(server, tmp_path, max_tokens=100, usage_log=tmp_path / "log" / "usage.jsonl", api_key="sk-secret")
    for number in range(2):
        made.reply([{"role": "user", "content": str(number)}])
    made.reply([{"role": "user", "content": "0"}])  # kept, and free
    with pytest.raises(BudgetSpentError, match=r"all 100 tokens \(110 were counted\).*larger max_tokens"):
        made.reply([{"role": "user", "content": "2"}])
    lines = [json.loads(line) for line in (tmp_path / "log" / "usage.jsonl").read_text().splitlines()]
    assert [(line["model"], line["prompt_tokens"], line["completion_tokens"]) for line in lines] == [("m", 30, 25)] * 2
    assert made.tokens == 110 and made.calls == 2 and "sk-secret" not in str(lines)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -5}, {"prompt_tokens": "5"}, {"prompt_tokens": True}, [5]]
)
def test_a_server_that_counts_no_tokens(server: StandIn, tmp_path: Path, usage: Any) -> None:
    server.says("hi", usage=usage)
    assert endpoint(server, tmp_path).reply(HELLO) == "hi"
    made = endpoint(server, tmp_path / "b", max_tokens=100)
    with pytest.raises(EndpointError, match="counts no tokens"):
        made.reply(HELLO)
    assert made.reply(HELLO) == "hi"  # it was paid for, and is kept


def test_passing_errors_are_tried_again_with_growing_waits(server: StandIn, tmp_path: Path) -> None:
    server.says("", status=500)
    server.says("", status=429, **{"Retry-After": "7"})
    server.says("", status=503, **{"Retry-After": email.utils.formatdate(time.time() + 20, usegmt=True)})
    server.says("", status=503, **{"Retry-After": "9999999"})
    server.says("", status=503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.says("", status=503, **{"Retry-After": "soon"})
    server.replies.append((200, {"Content-Length": "999"}, b'{"choices'))  # cut off
    server.says("hi")
    made = endpoint(server, tmp_path, retries=9, timeout=5.0)
    assert made.reply(HELLO) == "hi"
    waits = made.waits  # type: ignore[attr-defined]
    assert waits[:2] == [0.5, 7.0] and 17 < waits[2] <= 20 and waits[3:5] == [30.0, 0.0] and waits[5:] == [16.0, 30.0]
    assert made.calls == 8


def test_an_error_that_stays(server: StandIn, tmp_path: Path) -> None:
    server.says("", status=500)
    with pytest.raises(EndpointError, match="failed 3 times, last with: status 500"):
        endpoint(server, tmp_path, retries=2).reply(HELLO)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again(server: StandIn, tmp_path: Path, status: int) -> None:
    server.says("", status=status)
    made = endpoint(server, tmp_path)
    with pytest.raises(EndpointError, match=f"status {status}"):
        made.reply(HELLO)
    assert made.calls == 1


@pytest.mark.security
def test_the_key_is_sent_and_told_to_nobody(server: StandIn, tmp_path: Path) -> None:
    """Not in a file, an error, a name, a log or a representation; not even where the server repeats it."""
    server.says("your key is sk-secret", usage={"prompt_tokens": 1})
    server.says("sk-secret", status=401)
    server.replies.append((200, {}, b"sk-secret is no completion"))
    made = endpoint(server, tmp_path, api_key="sk-secret", usage_log=tmp_path / "usage.jsonl")
    assert made.reply(HELLO) == "your key is ***"
    for sample in (1, 2):
        with pytest.raises(EndpointError) as error:
            made.reply(HELLO, sample=sample)
        assert "sk-secret" not in str(error.value)
    assert [request["headers"]["Authorization"] for request in server.requests] == ["Bearer sk-secret"] * 3
    assert all(b"sk-secret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "sk-secret" not in made.name + repr(made)
    for key in ("sk-secret\n", "sk-secret\r\nX-Other: 1", "ключ", "", "  "):
        with pytest.raises(ValueError, match="api_key is empty or holds characters") as refused:
            endpoint(server, tmp_path, api_key=key)
        assert "sk-secret" not in str(refused.value)


@pytest.mark.security
def test_a_redirect_is_not_followed(server: StandIn, tmp_path: Path) -> None:
    server.says("", status=307, Location=server.url.replace("/v1", "/elsewhere"))
    with pytest.raises(EndpointError, match="status 307"):
        endpoint(server, tmp_path, api_key="sk-secret").reply(HELLO)
    assert [request["path"] for request in server.requests] == ["/v1/chat/completions"]


@pytest.mark.security
def test_an_endless_answer_is_cut(server: StandIn, tmp_path: Path) -> None:
    server.replies.append((200, {}, b" " * (5 << 20)))
    with pytest.raises(EndpointError, match="more than 4 MiB"):
        endpoint(server, tmp_path).reply(HELLO)


class Raw:
    """A server that speaks bytes, one by one with pauses."""

    def __init__(self, data: bytes, pause: float) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(1 << 16)
                try:
                    for byte in data:
                        self.request.sendall(bytes([byte]))
                        time.sleep(pause)
                except OSError:
                    pass

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.mark.security
@pytest.mark.parametrize(
    ("data", "pause", "message"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 500, 0.02, "took longer than timeout"),
        (b"not http at all\r\n\r\n", 0.0, "failed 2 times"),
        (b"", 0.0, "failed 2 times"),
        (b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n", 0.0, "failed 2 times"),
    ],
)
def test_a_server_that_speaks_no_http_or_too_slowly(tmp_path: Path, data: bytes, pause: float, message: str) -> None:
    raw = Raw(data, pause)
    try:
        start = time.monotonic()
        with pytest.raises(EndpointError, match=message):
            endpoint(raw, tmp_path, timeout=0.5, retries=1).reply(HELLO)  # type: ignore[arg-type]
        assert time.monotonic() - start < 10
    finally:
        raw.server.shutdown()
        raw.server.server_close()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"choices": []}', b"<html>", b'{"choices": [{}]}', b"[" * 100_000, b"\xff\xfe"]
)
def test_answers_that_are_no_completion(server: StandIn, tmp_path: Path, data: bytes) -> None:
    server.replies.append((200, {}, data))
    with pytest.raises(EndpointError, match="something else than a chat completion"):
        endpoint(server, tmp_path).reply(HELLO)


def test_a_reply_that_is_damaged_on_disk(server: StandIn, tmp_path: Path) -> None:
    server.says("hi")
    made = endpoint(server, tmp_path)
    made.reply(HELLO)
    next((tmp_path / "cache").iterdir()).write_text("{")
    with pytest.raises(EndpointError, match="is no kept reply"):
        made.reply(HELLO)


def test_a_reply_is_mended_once_and_no_more(server: StandIn, tmp_path: Path) -> None:
    server.says("seven<|im_end|>")
    server.says("7")
    server.says("eight")
    made = endpoint(server, tmp_path)
    assert made.read(HELLO, int) == 7 and (made.mended, made.unreadable, made.calls) == (1, 0, 2)
    first, second = (request["body"]["messages"] for request in server.requests)
    assert first == HELLO and second[:1] == HELLO and second[1] == {"role": "assistant", "content": "seven< |im_end|>"}
    assert "invalid literal" in second[2]["content"] and "<|im_end|>" not in second[2]["content"]
    with pytest.raises(UnreadableReplyError, match="answered twice in another form"):
        made.read(HELLO, int, sample=1)
    assert (made.mended, made.unreadable, made.calls) == (1, 1, 4)
    again = endpoint(server, tmp_path, max_calls=0)
    assert again.read(HELLO, int) == 7 and again.calls == 0


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:80", "file:///etc/passwd", "ftp://host/", "http://user:key@host/v1", "http://", "http://host:port/", "http://a b/",
        "http://host/v1?key=1", "http://host/v1#x", "http://host/\nX: y", "http://[::1", "http://hоst/", None,
    ],
)  # fmt: skip
def test_addresses(url: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no http or https address") as error:
        ChatEndpoint(url, "m", max_calls=1, cache_dir=tmp_path)
    assert "user:key" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"max_calls": -1}, {"retries": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"max_pixels": 0}, {"max_new_tokens": 0}]
)  # fmt: skip
def test_numbers_that_cannot_be(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ChatEndpoint("http://127.0.0.1:1/v1", "m", **{"max_calls": 1, "cache_dir": tmp_path, **options})
