"""Who speaks with an OpenAI-compatible server? One client: of chat completions, with images, a budget and kept replies."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http.client
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mmembed.images import ImagePolicy, load_image
from mmembed.prompt_safety import neutralised
from mmembed.whole_files import write_whole

ReplyT = TypeVar("ReplyT")

_MAX_REPLY_BYTES = 4 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 30.0  # seconds
_MAX_REPAIRED_CHARACTERS = 4000  # of a reply that is sent back to be mended
_JPEG_QUALITY = 90
_IMAGE_POLICY = ImagePolicy()
_MEND = "That could not be read: {error}\nReply again with what was asked for alone, in exactly the form that was asked for."


class EndpointError(ValueError):
    """An endpoint that did not answer as it should, with what to do."""


class BudgetSpentError(EndpointError):
    """The number of calls or tokens that was allowed is used up."""


class UnreadableReplyError(EndpointError):
    """A reply that is not of the form that was asked for, and did not become so when it was asked for again."""


class ChatEndpoint:
    """Chat completions of an OpenAI-compatible server; what is sent leaves this machine for `base_url` alone.

    Each reply is kept in `cache_dir` under a hash of all that was asked, and what is there is never asked for again. Every
    request counts against `max_calls`, repeated ones too. Redirects are not followed. The key is sent to `base_url` and is
    in no file, name or message. No environment variable is read for an address or a key. It may be used by many threads.

    The request is made with the standard library: huggingface_hub's client would send the locally saved Hub token where no
    key is given, follows redirects, and refuses local servers where HF_HUB_OFFLINE is set.

    Args:
        base_url: as in "http://127.0.0.1:8000/v1"; "/chat/completions" is added. There is no default.
        model: the server's name of the model.
        max_calls: how many requests may be made in all.
        cache_dir: folder of replies.
        api_key: sent as a bearer token; None sends none.
        max_tokens: how many tokens, of prompts and replies as the server counts them, may be used in all; the reply that
            passes it is still kept (as are those under way in other threads). A server that counts none is an error then.
        max_new_tokens: how long a reply may be, in tokens.
        temperature: 0 is the likeliest reply.
        max_pixels: an image with more pixels is made smaller before it is sent.
        retries: how often a request that failed in passing (a timeout, too many requests, a server's error) is made again.
        timeout: seconds that one request may take.
        usage_log: JSON lines file to which each reply that was paid for adds its model, tokens and seconds; None keeps none.
        sleep: waits between retries; for tests.

    Raises:
        ValueError: an address other than http or https, a key that no header can hold, or a number out of range.

    Example:
        >>> ChatEndpoint("file:///etc/passwd", "m", max_calls=1, cache_dir="cache")
        Traceback (most recent call last):
        ValueError: base_url 'file:///etc/passwd' is no http or https address of a server; a key is given as api_key
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        max_calls: int,
        cache_dir: str | os.PathLike[str],
        api_key: str | None = None,
        max_tokens: int | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        max_pixels: int = 512 * 512,
        retries: int = 3,
        timeout: float = 60.0,
        usage_log: str | os.PathLike[str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        _check_address(base_url)
        if max_calls < 0 or retries < 0 or not timeout > 0 or max_pixels < 1 or max_new_tokens < 1:
            raise ValueError(
                f"max_calls={max_calls}, retries={retries}, timeout={timeout}, max_pixels={max_pixels}, "
                f"max_new_tokens={max_new_tokens}: none below 0, and the last three above"
            )
        if api_key is not None and (not api_key.isascii() or not api_key.isprintable() or not api_key.strip()):
            raise ValueError("api_key is empty or holds characters that no header can hold, such as a line's end")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.max_calls = max_calls
        self.max_tokens = max_tokens
        self.calls = 0  # requests made
        self.tokens = 0  # as the server counted them
        self.mended = 0  # replies that were readable when asked for again
        self.unreadable = 0  # replies that were not even then
        self.name = f"endpoint 1, {self.url}, {model}, {max_new_tokens} tokens, {temperature}"
        self.max_pixels = max_pixels
        self.temperature = temperature
        self._cache = Path(cache_dir)
        self._settings = {"model": model, "max_tokens": max_new_tokens, "temperature": temperature}
        self._retries, self._timeout, self._sleep = retries, timeout, sleep
        self._usage_log = None if usage_log is None else Path(usage_log)
        self._key = api_key
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "mmembed"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        images: Sequence[Any] = (),
        sample: int | None = None,
        temperature: float | None = None,
    ) -> str:
        """What the model says.

        Args:
            messages: the conversation: "role" and "content", a text or a list of parts of the types "text" and "image", the
                latter without the image itself, as a chat template of transformers takes them.
            images: the images of those parts, in order: what `mmembed.load_image` takes, paths excepted. They are sent as
                JPEG of at most `max_pixels`, without metadata.
            sample: which of several replies to the same messages is asked for, sent as `seed`; None sends none.
            temperature: in the place of the endpoint's own.

        Returns:
            The reply's text, "" where it has none.

        Raises:
            BudgetSpentError: `max_calls` requests were made or `max_tokens` used; replies so far are kept.
            EndpointError: the server refused, or failed more often than `retries`.
            ValueError: as many images as there are places for them were not given.
        """
        asked: dict[str, Any] = {**self._settings, "messages": self._with_images(messages, images)}
        if sample is not None:
            asked["seed"] = sample
        if temperature is not None:
            asked["temperature"] = temperature
        body = json.dumps(asked, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
        kept = self._cache / f"{hashlib.sha256(self.url.encode() + b' ' + body).hexdigest()[:32]}.json"
        if kept.exists():
            try:
                return str(json.loads(kept.read_text(encoding="utf-8"))["reply"])
            except (ValueError, KeyError, TypeError) as error:
                raise EndpointError(f"{kept} is no kept reply ({type(error).__name__}); remove it") from None
        text, usage = self._ask(body)
        kept_text = json.dumps({"model": self.model, "reply": text, "usage": usage}, ensure_ascii=True)
        write_whole(kept, lambda new: Path(new).write_text(kept_text, encoding="utf-8"))
        if self.max_tokens is not None and not usage:
            raise EndpointError(
                f"{self.url} counts no tokens, so max_tokens={self.max_tokens} cannot be kept; pass None"
            )
        return text

    def read(
        self,
        messages: Sequence[Mapping[str, Any]],
        parse: Callable[[str], ReplyT],
        *,
        images: Sequence[Any] = (),
        sample: int | None = None,
        temperature: float | None = None,
    ) -> ReplyT:
        """What the model says, as `parse` reads it; a reply that it cannot read is sent back once to be mended.

        Args:
            messages: as `reply` takes them.
            parse: a strict reader of the reply, which raises ValueError for anything but what was asked for.
            images: as `reply` takes them.
            sample: as `reply` takes it.
            temperature: as `reply` takes it.

        Returns:
            What `parse` returns.

        Raises:
            UnreadableReplyError: neither the reply nor the mended one could be read.
            BudgetSpentError: as `reply` raises it.
            EndpointError: as `reply` raises it.
        """
        text = self.reply(messages, images=images, sample=sample, temperature=temperature)
        try:
            return parse(text)
        except ValueError as error:
            reason = error
        # The reply may repeat what a stranger wrote, and the reason repeats the reply.
        mend = [
            {"role": "assistant", "content": neutralised(text[:_MAX_REPAIRED_CHARACTERS]) or "(nothing)"},
            {"role": "user", "content": _MEND.format(error=neutralised(str(reason)[:300]))},
        ]
        text = self.reply([*messages, *mend], images=images, sample=sample, temperature=temperature)
        try:
            found = parse(text)
        except ValueError as error:
            with self._lock:
                self.unreadable += 1
            raise UnreadableReplyError(
                f"{self.model} answered twice in another form than was asked for: {error}"
            ) from None
        with self._lock:
            self.mended += 1
        return found

    def _with_images(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
        urls = [image_data_url(image, max_pixels=self.max_pixels) for image in images]
        places, filled = 0, []
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                parts = []
                for part in content:
                    if part["type"] == "text":
                        parts.append({"type": "text", "text": part["text"]})
                    elif part["type"] == "image" and set(part) == {"type"}:
                        parts.append(
                            {"type": "image_url", "image_url": {"url": urls[places] if places < len(urls) else ""}}
                        )
                        places += 1
                    else:
                        raise ValueError(
                            f"a part {sorted(part)} of type {part['type']!r}; expected a text, or a bare image"
                        )
                content = parts
            filled.append({"role": message["role"], "content": content})
        if places != len(urls):
            raise ValueError(f"{len(urls)} images for {places} places in the messages; give one for each")
        return filled

    def _ask(self, body: bytes) -> tuple[str, dict[str, int]]:
        problem = ""
        for attempt in range(self._retries + 1):
            self._count_call(problem)
            request = urllib.request.Request(self.url, data=body, headers=self._headers, method="POST")
            wait = min(0.5 * 2**attempt, _LONGEST_WAIT)
            start = time.monotonic()
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    data = _read_bounded(response, self.url, start + self._timeout)
                return self._paid(data, time.monotonic() - start)
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}"
                asked = _retry_after(error.headers.get("Retry-After", ""))
                error.close()
                if error.code not in _PASSING:
                    raise EndpointError(
                        f"{self.url} answered with status {error.code}; check base_url, model and api_key"
                    ) from None
                wait = wait if asked is None else min(asked, _LONGEST_WAIT)
            except (OSError, http.client.HTTPException) as error:
                problem = self._unsaid(str(getattr(error, "reason", error)) or type(error).__name__)
            if attempt < self._retries:
                self._sleep(wait)
        raise EndpointError(f"{self.url} failed {self._retries + 1} times, last with: {problem}")

    def _count_call(self, problem: str) -> None:
        spent = ""
        with self._lock:
            if self.calls >= self.max_calls:
                spent, larger = f"all {self.max_calls} calls", "max_calls"
            elif self.max_tokens is not None and self.tokens >= self.max_tokens:
                spent, larger = f"all {self.max_tokens} tokens ({self.tokens} were counted)", "max_tokens"
            else:
                self.calls += 1
        if spent:
            raise BudgetSpentError(
                f"{spent} to {self.url} are used up; replies so far are kept in {self._cache}: "
                f"run again with a larger {larger}" + (f" (last: {problem})" if problem else "")
            )

    def _paid(self, data: bytes, seconds: float) -> tuple[str, dict[str, int]]:
        """The text of a chat completion and what it cost, which is counted and logged."""
        try:
            completion = json.loads(data)
            content = completion["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            shown = self._unsaid(repr(data[:80]))
            raise EndpointError(f"{self.url} answered with something else than a chat completion: {shown}") from None
        counted = completion.get("usage")
        names = ("prompt_tokens", "completion_tokens")
        counted = counted if isinstance(counted, dict) else {}
        usage = {name: counted[name] for name in names if type(counted.get(name)) is int and counted[name] >= 0}
        with self._lock:
            self.tokens += sum(usage.values())
            if self._usage_log is not None:
                self._usage_log.parent.mkdir(parents=True, exist_ok=True)
                with open(self._usage_log, "a", encoding="utf-8") as file:
                    line = {"model": self.model, "url": self.url, **usage, "seconds": round(seconds, 3)}
                    file.write(json.dumps(line) + "\n")
        return self._unsaid(content if isinstance(content, str) else ""), usage

    def _unsaid(self, text: str) -> str:
        """What a server says, without the key, which it may repeat."""
        return text if self._key is None else text.replace(self._key, "***")


def image_data_url(image: Any, *, max_pixels: int = 512 * 512) -> str:
    """An image as a `data:` URL: drawn again as JPEG, in RGB, upright, without metadata.

    Args:
        image: what `mmembed.load_image` takes, paths and URLs excepted: bytes, a PIL image, a uint8 array, a row.
        max_pixels: a larger one is made smaller in its own proportions.

    Returns:
        "data:image/jpeg;base64,…".

    Raises:
        ImageError: the image cannot or may not be read.

    Example:
        >>> import numpy as np
        >>> image_data_url(np.zeros((4, 4, 3), np.uint8))[:30]
        'data:image/jpeg;base64,/9j/4AA'
    """
    picture = load_image(image, policy=_IMAGE_POLICY)
    width, height = picture.size
    if width * height > max_pixels:
        share = (max_pixels / (width * height)) ** 0.5
        picture = picture.resize((max(int(width * share), 1), max(int(height * share), 1)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # None makes the redirect an HTTPError: a key and a text go to no other address than the one that was given.
    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


def _check_address(base_url: str) -> None:
    plain = isinstance(base_url, str) and base_url.isascii() and base_url.isprintable() and " " not in base_url
    try:
        address = urlsplit(base_url if plain else "")
        plain = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is none
        plain = False
    if not plain or "@" in address.netloc or address.query or address.fragment:
        shown = str(base_url).rpartition("@")[2]  # what stands before it may be a password
        raise ValueError(f"base_url {shown!r} is no http or https address of a server; a key is given as api_key")


def _read_bounded(response: Any, url: str, deadline: float) -> bytes:
    """A reply's bytes, of which there may be too many, or too few a second."""
    pieces, size = [], 0
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_REPLY_BYTES:
            raise EndpointError(f"{url} answered with more than {_MAX_REPLY_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError("the reply took longer than timeout")
    if response.length:
        raise ConnectionError("the reply was cut off")
    return b"".join(pieces)


def _retry_after(value: str) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date."""
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
