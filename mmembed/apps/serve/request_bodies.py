"""How is a request's body read, so that it is bounded, arrives in time, and means what it says?"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from fastapi import Request
from PIL import Image

from mmembed.apps.serve.limits import Holding, ServeLimits
from mmembed.apps.serve.rejections import Rejection
from mmembed.images import ImageError, ImagePolicy, load_image

_DEEPEST = 32


async def read_body(request: Request, limits: ServeLimits, holding: Holding) -> bytes:
    """The body, of at most so many bytes and within so many seconds.

    Args:
        request: Whose body was not read yet.
        limits: The server's.
        holding: Where its bytes are counted.

    Raises:
        Rejection: 413, 408, or 429 where all bodies together are too long.
    """
    most = limits.max_body_bytes
    said = request.headers.get("content-length", "")
    too_long = Rejection(413, f"the body has more than {most:,} bytes; send fewer or smaller inputs", code="too_large")
    if said.isdigit() and int(said) > most:
        raise too_long  # before a byte of it is read

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_long
            if not holding.take("bytes", len(part)):
                message = "many requests are being read already; ask again in a moment"
                raise Rejection(429, message, code="too_many_bytes", retry_after=1)
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), limits.body_seconds)
    except TimeoutError:
        raise Rejection(
            408, f"the body did not arrive within {limits.body_seconds:g} seconds", code="slow_body"
        ) from None


async def read_json(request: Request, limits: ServeLimits, holding: Holding) -> dict[str, Any]:
    """A body that is one JSON object.

    Args:
        request: Whose body was not read yet.
        limits: The server's.
        holding: Where its bytes are counted.

    Raises:
        Rejection: 415 for another type, 400 for what is no JSON, or has a number that is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Rejection(415, "send JSON, with Content-Type: application/json", code="content_type")
    return parse_json(await read_body(request, limits, holding))


def parse_json(body: bytes) -> dict[str, Any]:
    """JSON as its standard has it: UTF-8, no NaN, no infinity, not nested without end.

    Args:
        body: The bytes.

    Raises:
        Rejection: 400.

    Example:
        >>> parse_json(b'{"input": NaN}')
        Traceback (most recent call last):
        mmembed.apps.serve.rejections.Rejection: the body is not JSON: NaN is no number
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise Rejection(400, "the body is not JSON: it is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise Rejection(400, "the body is not JSON: it is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        reason = getattr(error, "msg", None)
        place = f"{reason} at character {error.pos}" if reason else str(error)  # type: ignore[attr-defined]
        raise Rejection(400, f"the body is not JSON: {place}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise Rejection(400, "the body is no JSON object", code="invalid_json")
    if _depth(content) > _DEEPEST:
        raise Rejection(400, f"the body is nested more than {_DEEPEST} levels deep", code="invalid_json")
    return content


async def read_form(
    request: Request, limits: ServeLimits, holding: Holding
) -> tuple[list[str], list[bytes], dict[str, str]]:
    """A body of `multipart/form-data`: texts in fields `text`, image files in fields `image`, and other fields.

    Args:
        request: Whose body was not read yet.
        limits: The server's.
        holding: Where its bytes are counted.

    Returns:
        The texts, the images' bytes, and the other fields by name.

    Raises:
        Rejection: 400, 413, or 415 where `python-multipart` is not installed.
    """
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    body = await read_body(request, limits, holding)

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            Headers(raw=request.headers.raw),
            whole(),
            max_files=limits.max_rows,
            max_fields=limits.max_rows + 16,
            max_part_size=limits.max_body_bytes,
        )
        form = await parser.parse()
    except AssertionError:
        raise Rejection(415, "this server reads JSON alone; send images as base64", code="content_type") from None
    except (MultiPartException, ValueError, KeyError):
        raise Rejection(400, "the body is no multipart/form-data", code="invalid_form") from None
    texts, images, others = [], [], {}
    try:
        for name, value in form.multi_items():
            if name == "image" and isinstance(value, UploadFile):
                images.append(await value.read())
            elif name == "image" or isinstance(value, UploadFile):
                message = "an image is a file in a field named 'image'; nothing is fetched from a name or an address"
                raise Rejection(400, message, code="invalid_form", param=str(name)[:40])
            elif name == "text":
                texts.append(value)
            else:
                others[name] = value
    finally:
        await form.close()
    return texts, images, others


def decode_image(source: Any, limits: ServeLimits, param: str) -> Image.Image:
    """An image of a request: its file's bytes, or these in base64. A path or an address is neither.

    Args:
        source: bytes, base64, or a data URI of base64.
        limits: The server's.
        param: Which field it is, for the message.

    Returns:
        An RGB image.

    Raises:
        Rejection: 400, saying why it is none.
    """
    if isinstance(source, str):
        text = source.partition(";base64,")[2] if source[:11].lower() == "data:image/" else source
        try:
            source = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            message = f"{param}: not base64 of an image file; paths and addresses are not read"
            raise Rejection(400, message, code="invalid_image", param=param) from None
    if not isinstance(source, bytes):
        message = f"{param}: an image is the base64 of its file, found {_named(source)}"
        raise Rejection(400, message, code="invalid_image", param=param)
    try:
        return load_image(source, policy=ImagePolicy(max_pixels=limits.max_pixels, max_bytes=limits.max_body_bytes))
    except ImageError as error:
        raise Rejection(400, f"{param}: {error}", code="invalid_image", param=param) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(word: str) -> float:
    number = float(word)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{word[:20]} is too large a number")
    return number


def _depth(content: Any) -> int:
    deepest, waiting = 0, [(1, content)]
    while waiting:
        depth, value = waiting.pop()
        deepest = max(deepest, depth)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(depth + 1, one) for one in inner if isinstance(one, (dict, list))]
    return deepest


def _named(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
