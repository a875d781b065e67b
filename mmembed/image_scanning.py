"""What happens to a bad image: an error, a gap or a grey one, and a scan that settles it before training."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from typing import Any, Literal

from PIL import Image
from tqdm.auto import tqdm

from mmembed.image_loading import DEFAULT_POLICY, ImagePolicy, load_image
from mmembed.image_paths import ImageError, shortened

_ON_BAD = ("error", "skip", "replace")
_ROWS_A_TASK = 32

OnBad = Literal["error", "skip", "replace"]


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
        >>> import numpy as np
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


def _checked_chunks(
    sources: Sequence[Any], policy: ImagePolicy, num_workers: int
) -> Iterator[tuple[int, int, int, list[tuple[int, str]]]]:
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
