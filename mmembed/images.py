"""From bytes, a path, a data URI, a PIL image or an array to 8-bit RGB, safely; and what to do with a bad one.

What `load_image` does with each kind of image (the tests hold the same table with numbers):

| found                            | becomes                                                                           |
|----------------------------------|-----------------------------------------------------------------------------------|
| EXIF (or XMP) orientation 1..8   | upright pixels; unreadable metadata counts as 1                                   |
| 8-bit grey, 1-bit, YCbCr, HSV    | RGB                                                                               |
| 16-bit grey (I;16, I;16B, I)     | value / 257, rounded; values outside 0..65535 are an error                        |
| 16-bit RGB                       | the high byte, as Pillow reads it                                                 |
| float grey (F)                   | values in 0..1 times 255, values in 0..255 as they are; NaN and others are errors |
| palette                          | its colours                                                                       |
| RGBA, LA, PA, transparent colour | composited on `ImagePolicy.background`, white by default                          |
| CMYK                             | through its profile, else (255-ink)(255-black)/255                                |
| CMYK JPEG                        | as CMYK; its inks are taken as inverted exactly if it has Adobe's marker          |
| LAB                              | sRGB, white point D50                                                             |
| embedded ICC profile             | converted to sRGB; if invalid, above 4 MiB or for another mode it is ignored      |
| animation, several pages         | the first frame                                                                   |
| JPEG, PNG, WebP, GIF, BMP, TIFF  | read; no other decoder is even tried (AVIF can be added to `formats`)             |
| more than max_pixels, max_bytes  | an error, found in the header before a pixel is decoded                           |
| empty, truncated, damaged, other | an error                                                                          |
| array                            | uint8 (height, width), (…, 1), (…, 3) or (…, 4); anything else is an error        |
| path                             | read if it really lies under `ImagePolicy.root`; see `mmembed.image_paths`        |
| URL                              | an error: nothing here opens a network connection                                 |
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mmembed.image_decoding import check_size, decode, normalised
from mmembed.image_paths import ImageError, check_spelling, read_under, resolve_under, shortened

__all__ = ["ImageError", "ImagePolicy", "ImageReader", "ScanResult", "load_image", "resolve_under", "scan_images"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_OPTIONAL_FORMATS = ("AVIF",)
_DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_ON_BAD = ("error", "skip", "replace")
_ROWS_A_TASK = 32

OnBad = Literal["error", "skip", "replace"]


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
        background = tuple(self.background)
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


@dataclass(frozen=True)
class ScanResult:
    """What `scan_images` found.

    Args:
        good: indices of the rows to keep, ascending; rows without an image are among them.
        bad: one `{"id", "row", "reason"}` for each image that cannot be read.
        checked: how many images were decoded, bad ones included.
    """

    good: list[int]
    bad: list[dict[str, Any]]
    checked: int


class ImageReader:
    """Reads images under one policy and decides what happens to a bad one.

    Args:
        policy: what may be read, and how.
        on_bad: "error" raises ImageError naming the id; "skip" returns None; "replace" returns a mid-grey 224x224
            image. The last two
            are recorded in `bad`. In a data loader's worker process the records stay there: run `scan_images` before
            training instead.

    Example:
        >>> reader = ImageReader(on_bad="skip")
        >>> reader.read(b"", id="sku-1") is None
        True
        >>> reader.bad
        [{'id': 'sku-1', 'reason': 'the image file is empty (0 bytes); copy or download it again'}]
    """

    def __init__(self, policy: ImagePolicy = DEFAULT_POLICY, on_bad: OnBad = "error") -> None:
        _check_on_bad(on_bad)
        self.policy = policy
        self.on_bad = on_bad
        self.bad: list[dict[str, Any]] = []

    def read(self, source: Any, id: str) -> Image.Image | None:
        """Load one image.

        Args:
            source: what `load_image` takes.
            id: the row's id, for messages and records.

        Returns:
            A PIL image of mode RGB; None for a bad one that is skipped.

        Raises:
            ImageError: the image is bad and `on_bad` is "error".

        Example:
            >>> ImageReader(on_bad="replace").read(b"", id="sku-1").size
            (224, 224)
        """
        try:
            return load_image(source, policy=self.policy)
        except ImageError as error:
            if self.on_bad == "error":
                raise ImageError(f"image of id {shortened(id)}: {error}") from None
            self.bad.append({"id": id, "reason": str(error)})
        return Image.new("RGB", (224, 224), (128, 128, 128)) if self.on_bad == "replace" else None

    def write_bad(self, path: str | os.PathLike[str]) -> None:
        """Write the records of bad images, one JSON object `{"id", "reason"}` a line.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     ImageReader().write_bad(os.path.join(folder, "bad_samples.jsonl"))
        """
        _write_records(path, self.bad)


def scan_images(
    ids: Sequence[str],
    sources: Sequence[Any],
    *,
    policy: ImagePolicy = DEFAULT_POLICY,
    on_bad: OnBad = "error",
    max_bad_fraction: float = 0.01,
    num_workers: int = 0,
    record_to: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
) -> ScanResult:
    """Decode every image once and say which rows to keep.

    Done before training, so that leaving a row out never changes which image goes with which text, and every rank and
    every resumed run
    leaves out the same rows.

    Args:
        ids: one id a row, for messages and records.
        sources: one source a row, as `load_image` takes it; None for a row without an image, which is kept.
        policy: what may be read, and how.
        on_bad: "error" stops at the first bad image; "skip" leaves its row out; "replace" keeps the row, as
            `ImageReader` will replace it.
        max_bad_fraction: stop as soon as more than this fraction of all rows is bad.
        num_workers: worker processes; 0 decodes in this one. The result is the same.
        record_to: JSON lines file to which the bad rows are written, also when the scan stops.
        show_progress_bar: show one.

    Returns:
        The rows to keep, the bad ones and the number of images decoded.

    Raises:
        ImageError: a bad image with `on_bad="error"`, or too many of them.
        ValueError: arguments that cannot be meant.

    Example:
        >>> images = [np.zeros((2, 2, 3), dtype=np.uint8), b"", None]
        >>> result = scan_images(["a", "b", "c"], images, on_bad="skip", max_bad_fraction=0.5, show_progress_bar=False)
        >>> result.good, [record["id"] for record in result.bad], result.checked
        ([0, 2], ['b'], 2)
    """
    _check_on_bad(on_bad)
    if len(ids) != len(sources):
        raise ValueError(f"got {len(ids)} ids and {len(sources)} sources: give one source a row")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction={max_bad_fraction!r}: give a number from 0 to 1")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers!r}: give 0 or more")
    bad: list[dict[str, Any]] = []
    checked = 0
    try:
        with tqdm(total=len(ids), desc="Checking images", unit="image", disable=not show_progress_bar) as progress:
            for start, stop, count, found in _checked_chunks(sources, policy, num_workers):
                checked += count
                progress.update(stop - start)
                for row, reason in found:
                    bad.append({"id": ids[row], "row": row, "reason": reason})
                    if on_bad == "error":
                        raise ImageError(f"row {row}, image of id {shortened(ids[row])}: {reason}")
                    if len(bad) > max_bad_fraction * len(ids):
                        raise _too_many(bad, stop, len(ids), max_bad_fraction, record_to)
    finally:
        if record_to is not None:
            _write_records(record_to, bad)
    left_out = {record["row"] for record in bad} if on_bad == "skip" else set()
    return ScanResult(good=[row for row in range(len(ids)) if row not in left_out], bad=bad, checked=checked)


def _too_many(bad: list[dict[str, Any]], seen: int, rows: int, fraction: float, record_to: Any) -> ImageError:
    first = "; ".join(f"row {record['row']}, id {shortened(record['id'])}: {record['reason']}" for record in bad[:3])
    where = (
        f"all reasons are in {os.fspath(record_to)}"
        if record_to is not None
        else "give record_to=... to keep all reasons"
    )
    return ImageError(
        f"{len(bad)} images are bad after {seen} of {rows} rows, more than max_bad_fraction={fraction:g} of them; "
        f"{where}. The first: {first}"
    )


def _check_chunk(sources: list[Any], start: int, policy: ImagePolicy) -> tuple[int, list[tuple[int, str]]]:
    """How many images were decoded, and (row, reason) for each bad one."""
    found = []
    for row, source in enumerate(sources, start):
        if source is not None:
            try:
                load_image(source, policy=policy)
            except ImageError as error:
                found.append((row, str(error)))
    return sum(source is not None for source in sources), found


def _checked_chunks(sources: Sequence[Any], policy: ImagePolicy, num_workers: int):
    """(start, stop, images decoded, bad rows) of each chunk of rows, in the order of the rows."""
    bounds = [(start, min(start + _ROWS_A_TASK, len(sources))) for start in range(0, len(sources), _ROWS_A_TASK)]
    if num_workers == 0:
        for start, stop in bounds:
            yield start, stop, *_check_chunk([sources[row] for row in range(start, stop)], start, policy)
        return
    # Not fork: the parent may hold threads and an accelerator.
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    pending: deque[tuple[int, int, Future]] = deque()
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context(method))
    try:
        for start, stop in bounds:
            chunk = [sources[row] for row in range(start, stop)]
            pending.append((start, stop, pool.submit(_check_chunk, chunk, start, policy)))
            if len(pending) > 2 * num_workers:  # bounds the encoded images held here
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(start: int, stop: int, future: Future) -> tuple[int, int, int, list[tuple[int, str]]]:
    try:
        return start, stop, *future.result()
    except BrokenProcessPool:
        raise ImageError(
            f"a worker process died while rows {start} to {stop - 1}, or rows shortly after, were decoded: it ran "
            "out of memory, an image crashes"
            " the decoder, or the calling script lacks `if __name__ == '__main__':`; run with num_workers=0 to see"
        ) from None


def _check_on_bad(on_bad: str) -> None:
    if on_bad not in _ON_BAD:
        raise ValueError(f"on_bad={on_bad!r}: give one of {', '.join(_ON_BAD)}")


def _write_records(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
