"""What may be given as an image, and what of it is read? The table is in `mmembed.images`."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmembed.image_decoding import check_size, decode, normalised
from mmembed.image_paths import ImageError, check_spelling, read_under, shortened

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_OPTIONAL_FORMATS = ("AVIF",)
_DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class ImagePolicy:
    """What may be read as an image, and how.

    Args:
        root: directory under which image paths must lie once links are resolved; None refuses every path.
        formats: Pillow's names of the formats to read.
        max_pixels: largest width x height of an image.
        max_bytes: longest encoded image in bytes.
        background: RGB colour under transparent pixels.
        allow_hardlinks: read files that have more than one name. Off, as a hard link to a file from outside the root
            cannot be told from any
            other; downloaded and unpacked data sets have none, a `cp -al` copy or a hard-linked cache does.

    Raises:
        ValueError: a value that cannot be meant.

    Example:
        >>> ImagePolicy(root="data/images").max_pixels
        89478485
    """

    root: str | os.PathLike[str] | None = None
    formats: tuple[str, ...] = FORMATS
    max_pixels: int = 89_478_485  # a quarter of a gibibyte as RGB, Pillow's own threshold
    max_bytes: int = 64 << 20
    background: tuple[int, int, int] = (255, 255, 255)
    allow_hardlinks: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.formats, str) or not self.formats:
            raise ValueError(f"formats={self.formats!r}: give a tuple of format names such as {FORMATS}")
        object.__setattr__(self, "formats", tuple(name.upper() for name in self.formats))
        if unknown := [name for name in self.formats if name not in FORMATS + _OPTIONAL_FORMATS]:
            raise ValueError(f"formats holds {unknown}; only {FORMATS + _OPTIONAL_FORMATS} are read")
        for name in ("max_pixels", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
        background = tuple(self.background) if isinstance(self.background, (tuple, list)) else ()
        if len(background) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in background):
            raise ValueError(f"background={self.background!r}: give three whole numbers from 0 to 255")
        object.__setattr__(self, "background", background)


DEFAULT_POLICY = ImagePolicy()  # frozen, so one may serve as every default


def load_image(source: Any, *, policy: ImagePolicy = DEFAULT_POLICY, at_least: int | None = None) -> Image.Image:
    """Load one image as 8-bit RGB, or say why not.

    Args:
        source: the encoded file as bytes; a path under `policy.root`; a `data:image/...;base64,` URI; a PIL image of
            any mode; a uint8 array of
            shape (height, width), (height, width, 3) or (height, width, 4); or a `{"bytes": ..., "path": ...}` row of
            `datasets.Image`, of which
            `bytes` wins.
        policy: what may be read, and how.
        at_least: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 size while its short side keeps at least this many
            pixels. Faster, and
            not the same pixels.

    Returns:
        A new PIL image of mode RGB without metadata.

    Raises:
        ImageError: the source may not or cannot be read. No other exception is raised for a bad source.

    Example:
        >>> load_image(np.zeros((2, 3), dtype=np.uint8)).size
        (3, 2)
        >>> load_image(b"<html>")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        mmembed.image_paths.ImageError: not an image of a format read here (JPEG, ...): it is an HTML page, ...
    """
    if at_least is not None and (not isinstance(at_least, int) or at_least < 1):
        raise ValueError(f"at_least={at_least!r}: give a number of pixels of at least 1, or None")
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            source = source["bytes"]
            if not isinstance(source, (bytes, bytearray, memoryview)):
                raise ImageError(
                    f"the field 'bytes' of the image holds {type(source).__name__}: give the encoded file as bytes"
                )
        elif source.get("path") is not None:
            source = source["path"]
        else:
            raise ImageError("the image has neither 'bytes' nor 'path': give one of them, or None instead of the image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), policy, at_least)
    if isinstance(source, Image.Image):
        return _from_pil(source, policy)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if isinstance(path, str):
            return _from_bytes(_from_text(path, policy), policy, at_least)
    raise ImageError(
        f"an image cannot be made from {type(source).__name__}: give bytes, a path, a data URI, a PIL image, a uint8 "
        "array of shape"
        " (height, width, 3) or a row with 'bytes' or 'path'"
    )


def _from_bytes(data: bytes, policy: ImagePolicy, at_least: int | None) -> Image.Image:
    if len(data) > policy.max_bytes:
        raise ImageError(
            f"the encoded image has {len(data)} bytes, more than max_bytes={policy.max_bytes}; make it smaller or "
            "raise it"
        )
    return decode(
        data, formats=policy.formats, max_pixels=policy.max_pixels, background=policy.background, at_least=at_least
    )


def _from_pil(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    check_size(*image.size, policy.max_pixels)
    try:
        return normalised(image, background=policy.background)
    except ImageError:
        raise
    except Exception as error:  # opened elsewhere, decoded here; and decoders raise nearly everything
        raise ImageError(
            f"the PIL image cannot be read ({type(error).__name__}): it is damaged, or its file was closed"
        ) from None


def _from_array(array: np.ndarray, policy: ImagePolicy) -> Image.Image:
    if array.dtype != np.uint8:
        remedy = (
            "(image * 255).round().astype('uint8') if its values lie in 0..1"
            if array.dtype.kind == "f"
            else "an array of uint8"
        )
        raise ImageError(
            f"an array of {array.dtype} is not taken as an image, as its range is not known: give {remedy}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        remedy = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            f"an array of shape {array.shape} is not an image: give (height, width), (height, width, 3) or (…, "
            f"4){remedy}"
        )
    check_size(array.shape[1], array.shape[0], policy.max_pixels)
    return normalised(Image.fromarray(np.ascontiguousarray(array)), background=policy.background)


def _from_text(text: str, policy: ImagePolicy) -> bytes:
    if text[:5].lower() == "data:":
        header = _DATA_URI.match(text, 0, 300)
        if header is None:
            raise ImageError("the data URI is not of the form data:image/<type>;base64,<data>; give that, or the bytes")
        if (len(text) - header.end()) * 3 // 4 > policy.max_bytes + 2:
            raise ImageError(
                f"the data URI holds more than max_bytes={policy.max_bytes} bytes; make the image smaller or raise it"
            )
        try:
            return base64.b64decode("".join(text[header.end() :].split()), validate=True)
        except (binascii.Error, ValueError):
            raise ImageError("the data URI is not valid base64; encode the image's bytes again") from None
    if policy.root is None:
        check_spelling(text)  # a URL gets the answer for URLs
        raise ImageError(
            f"image path {shortened(text)} is refused: no root is declared; pass ImagePolicy(root=...), the "
            "directory under which the image"
            " files lie, or pass the file's bytes"
        )
    return read_under(policy.root, text, max_bytes=policy.max_bytes, allow_hardlinks=policy.allow_hardlinks)
