"""Which rows of ITEMS go through a model together, and what it is given of them: made ahead, while it works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

Use = Literal["text", "image", "fused"]
USES: tuple[Use, ...] = ("text", "image", "fused")

_DECODERS = 4
_WINDOW = 64  # batches; items of one length are encoded together within so many
_STALLED = 600  # seconds after which a worker process that gives nothing is given up


class Reader(Protocol):
    """What reads images: `mmembed.images.ImageReader`, or anything like it."""

    def read(self, source: Any, id: str) -> Image.Image | None: ...


@dataclass
class Batch:
    """What a model is given at once.

    Args:
        inputs: what `prepare` made of the rows: tensors by name, or the rows themselves.
        items: int64 (items,), their numbers in the table.
        owners: int64 (rows,), the item, numbered within the batch, that each row belongs to.
        weights: float32 (rows,), the row's weight there.
    """

    inputs: Any
    items: np.ndarray
    owners: np.ndarray
    weights: np.ndarray


class ItemRows(TorchDataset):
    """Numbers of items → a `Batch`: read, decode, tokenise, scale. Run in a worker process, or in a thread ahead.

    Args:
        items: ITEMS.
        use: "text", "image" or "fused".
        reader: reads images; None where there are none.
        prepare: rows of {"text", "image"} → what the model is given.
        decoders: threads that decode the images of a batch; None decodes them one after the other.
    """

    def __init__(
        self,
        items: Dataset,
        use: Use,
        reader: Reader | None,
        prepare: Callable[[list[dict[str, Any]]], Any],
        decoders: ThreadPoolExecutor | None = None,
    ) -> None:
        self.items, self.use, self.reader, self.prepare, self.decoders = items, use, reader, prepare, decoders

    def __getitem__(self, numbers: list[int]) -> Batch | ValueError:
        # A worker's own way to hand on an exception buries what was found under its traceback.
        try:
            return self._batch(numbers)
        except ValueError as error:
            return error

    def _batch(self, numbers: list[int]) -> Batch:
        batch = self.items[numbers]
        ids = batch.get("id") or [f"row {number}" for number in numbers]
        count = len(numbers)
        sources = batch.get("image") or [None] * count
        read = self.decoders.map if self.decoders is not None else map
        pictures = list(read(self._read, sources, ids))
        texts, parts = (batch.get(name) or [None] * count for name in ("text", "text_parts"))
        rows: list[dict[str, Any]] = []
        owners, weights, missing = [], [], []
        for item in range(count):
            image = {"image": pictures[item]} if pictures[item] is not None else {}
            weighted = [(part["text"], part["weight"]) for part in parts[item] or []]
            if not weighted and texts[item] is not None:
                weighted = [(texts[item], 1.0)]
            if (self.use == "text" and not weighted) or (self.use == "image" and not image) or not (weighted or image):
                missing.append(ids[item])
                continue
            for text, weight in weighted or [(None, 1.0)]:
                rows.append({"text": text, **image} if text is not None else dict(image))
                owners.append(item)
                weights.append(weight)
        if missing:
            shown = ", ".join(repr(id) for id in missing[:10]) + (" …" if len(missing) > 10 else "")
            what = "neither a text nor an image" if self.use == "fused" else f"no {self.use}"
            raise ValueError(
                f"{len(missing)} items of this batch have {what}: {shown}; leave them out or use another modality."
            )
        return Batch(self.prepare(rows), np.asarray(numbers), np.asarray(owners), np.asarray(weights, dtype=np.float32))

    def _read(self, source: Any, id: str) -> Image.Image | None:
        if source is None or self.reader is None:
            return None
        image = self.reader.read(source, id=id)
        if image is None:
            raise ValueError(
                f"the image of item {id!r} cannot be read; leave it out (mmembed.images.scan_images finds them)."
            )
        return image


def batch_numbers(items: Dataset, size: int) -> Iterator[list[int]]:
    """The numbers of the items of each batch: those of about one length together, the longest of a window first.

    A function of the table and the size alone, so that whoever encodes these items, and with how many others, puts the
    same rows together and gets the same bits.

    Args:
        items: ITEMS.
        size: items a batch.

    Yields:
        Numbers of rows.

    Example:
        >>> items = Dataset.from_dict({"id": list("abc"), "text": ["one", "one two three", "one two"]})
        >>> list(batch_numbers(items, 2))
        [[1, 2], [0]]
    """
    texts = items.select_columns([name for name in ("text", "text_parts") if name in items.column_names])
    for start in range(0, len(items), size * _WINDOW):
        stop = min(start + size * _WINDOW, len(items))
        order = np.arange(start, stop)
        if texts.column_names:
            window = texts[start:stop]
            none = [None] * (stop - start)
            lengths = [
                max((len(part["text"]) for part in parts or ()), default=len(text or ""))
                for text, parts in zip(window.get("text", none), window.get("text_parts", none))
            ]
            order = order[np.argsort([-length for length in lengths], kind="stable")]
        for first in range(0, len(order), size):
            yield order[first : first + size].tolist()


def batches_ahead(
    rows: ItemRows, numbers: Iterable[list[int]], *, num_workers: int = 0
) -> Generator[Batch, None, None]:
    """The batches in order, each made while the one before is being encoded.

    Args:
        rows: makes them.
        numbers: the items of each.
        num_workers: worker processes that make them; 0 makes them in a thread of this one.

    Yields:
        Each batch.

    Raises:
        ValueError: An item lacks what is used, or its image cannot be read; or another fault of a row.
    """
    made = _by_workers(rows, numbers, num_workers) if num_workers else _by_thread(rows, numbers)
    for batch in made:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


def _by_workers(rows: ItemRows, numbers: Iterable[list[int]], num_workers: int) -> Iterator[Batch | ValueError]:
    yield from DataLoader(
        rows,
        batch_size=None,
        sampler=numbers,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        timeout=_STALLED,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _by_thread(rows: ItemRows, numbers: Iterable[list[int]]) -> Iterator[Batch | ValueError]:
    with ThreadPoolExecutor(_DECODERS) as decoders, ThreadPoolExecutor(1) as ahead:
        rows.decoders = decoders
        waiting = None
        try:
            for some in numbers:
                following = ahead.submit(rows.__getitem__, some)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()
        finally:
            if waiting is not None:
                waiting.cancel()
