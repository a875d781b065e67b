"""Parts of documents: how a text is cut, what a part is called, and which documents its parts find."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.search.vector_stage import VectorIndex

Span = tuple[int, int]

# Where a sentence may end: marks with what closes behind them, of which ASCII's end one only before a blank, or a new line.
# A run is only tried where it begins, so that the time is linear.
_MARKS = re.compile(r"(?<![.!?…])[.!?…]+[\"'»”’)\]]*|(?<![。！？])[。！？]+[」』”’）]*|\n")
_NUMBER = re.compile(r"0|[1-9]\d*")


def sentence_spans(text: str, *, max_characters: int = 500) -> list[Span]:
    """Cut a text into runs of whole sentences.

    Args:
        text: any text.
        max_characters: how long a run may be; a sentence beyond it is a run of its own, and is cut where it is beyond twice
            that.

    Returns:
        (start, end) places of characters, in order, without blanks at either end; none of a text of blanks.

    Raises:
        ValueError: max_characters below 1.

    Example:
        >>> text = "One mug. Two cups! Three?"
        >>> [text[start:end] for start, end in sentence_spans(text, max_characters=18)]
        ['One mug. Two cups!', 'Three?']
    """
    if max_characters < 1:
        raise ValueError(f"max_characters={max_characters}; give at least 1")
    ends = [
        found.end()
        for found in _MARKS.finditer(text)
        if found[0][0] in "。！？\n" or text[found.end() : found.end() + 1].isspace()
    ]
    sentences: list[Span] = []
    for start, end in zip([0, *ends], [*ends, len(text)]):
        while end - start > 2 * max_characters:
            sentences.append((start, start + max_characters))
            start += max_characters
        sentences.append((start, end))
    spans: list[Span] = []
    for start, end in sentences:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if start == end:
            continue
        if spans and end - spans[-1][0] <= max_characters:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def chunk_items(
    items: Dataset, spans: Callable[[str], Sequence[Span]] | Mapping[str, Sequence[Span]] = sentence_spans
) -> Dataset:
    """ITEMS of the parts of documents, to encode or index each by itself.

    Args:
        items: ITEMS with texts.
        spans: cuts a text; or the spans of each item by its id.

    Returns:
        A table of `id` (`document#0`, `document#1`, …) and `text`.

    Raises:
        DataError: an item without a text.

    Example:
        >>> items = Dataset.from_dict({"id": ["a"], "text": ["One mug. Two cups!"]})
        >>> chunk_items(items, lambda text: sentence_spans(text, max_characters=10)).to_dict()
        {'id': ['a#0', 'a#1'], 'text': ['One mug.', 'Two cups!']}
    """
    ids: list[str] = []
    texts: list[str] = []
    plain = items.with_format(None)
    for id, text in zip(plain["id"][:], plain["text"][:], strict=True):
        if text is None:
            raise DataError(f"item {id!r} has no text; leave it out", file="items", field="text")
        for number, (start, end) in enumerate(spans[id] if isinstance(spans, Mapping) else spans(text)):
            ids.append(chunk_id(id, number))
            texts.append(text[start:end])
    return Dataset.from_dict({"id": ids, "text": texts})


def chunk_id(document: str, number: int) -> str:
    """What part `number` of a document is called; the document's id may hold "#" itself.

    Example:
        >>> chunk_id("a", 0)
        'a#0'
    """
    return f"{document}#{number}"


def document_of(chunk: str) -> str:
    """The document that a part is of.

    Raises:
        ValueError: an id that is no part's.

    Example:
        >>> document_of("a#b#12")
        'a#b'
    """
    document, mark, number = chunk.rpartition("#")
    if not mark or not document or not _NUMBER.fullmatch(number):
        raise ValueError(f"{chunk!r} is no part of a document; parts are called document#0, document#1, …")
    return document


def best_of_chunks(ranking: Mapping[str, float]) -> dict[str, float]:
    """A ranking of parts as one of documents: each has the score of its best part.

    Args:
        ranking: scores by part, best first.

    Returns:
        Scores by document, best first.

    Example:
        >>> best_of_chunks({"a#1": 0.9, "b#0": 0.8, "a#0": 0.7})
        {'a': 0.9, 'b': 0.8}
    """
    found: dict[str, float] = {}
    for chunk, score in ranking.items():
        document = document_of(chunk)
        if score > found.get(document, -np.inf):
            found[document] = score
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


class ChunkedIndex:
    """An index over parts that finds documents: each by its best part.

    Args:
        index: an index over parts, which are called as `chunk_id` calls them.
        chunk_ids: all that are in it.

    Raises:
        ValueError: an id that is no part's.

    Example:
        >>> from mmembed.embeddings import Embeddings
        >>> from mmembed.search.vector_stage import ExactVectors
        >>> parts = Embeddings(["a#0", "a#1", "b#0"], np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32))
        >>> ChunkedIndex(ExactVectors(parts), parts.ids).search(np.array([[1, 0]], dtype=np.float32), k=2)
        [{'a': 1.0, 'b': 0.0}]
    """

    def __init__(self, index: VectorIndex, chunk_ids: Sequence[str]) -> None:
        self.index = index
        self.chunks: dict[str, list[str]] = {}
        for chunk in chunk_ids:
            self.chunks.setdefault(document_of(chunk), []).append(chunk)

    def __len__(self) -> int:
        return len(self.chunks)

    def search(
        self, queries: np.ndarray, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """The best documents of each query.

        Args:
            queries: float32 (q, dim).
            k: how many documents a query.
            allowed: documents that may be found; None for all.

        Returns:
            For each query its documents' scores by id, best first; fewer than k where fewer are there or allowed.
        """
        documents = self.chunks if allowed is None else {id: self.chunks[id] for id in allowed if id in self.chunks}
        within = None if allowed is None else [chunk for own in documents.values() for chunk in own]
        total = sum(map(len, documents.values()))
        wanted = min(k, len(documents))
        found: list[dict[str, float]] = [{} for _ in queries]
        if not wanted:
            return found
        open_, depth = list(range(len(queries))), min(total, 2 * k)
        while open_:
            rankings = self.index.search(queries[open_], depth, allowed=within)
            for number, ranking in zip(open_, rankings, strict=True):
                found[number] = dict(list(best_of_chunks(ranking).items())[:k])
            # Parts beyond the depth are no better than those within, so that k documents are the best k.
            open_ = [number for number in open_ if len(found[number]) < wanted] if depth < total else []
            depth = min(total, 4 * depth)
        return found

    def save(self, folder: Any) -> None:
        """Save the index over the parts."""
        self.index.save(folder)  # type: ignore[attr-defined]
