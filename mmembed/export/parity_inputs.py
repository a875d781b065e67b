"""On which rows is an export compared with its model: the caller's own, or drawn ones that say so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from mmembed.encode import Reader, Use, reader_of
from mmembed.export.onnx_verbs import ExportError, image_of
from mmembed.images import load_image

SYNTHETIC = "synthetic: titles, descriptions and pictures of a drawn catalogue, no real data"
#: Rows on which a graph is compared; a caller's further ones are left out, evenly.
LARGEST = 200
_FEWEST = 8


@dataclass(frozen=True)
class Judgements:
    """Which documents are right for which queries, so that a graph's ranking can be compared with the model's.

    Args:
        queries: Rows as `encode` takes them: texts, PIL images, or {"text": …, "image": …}.
        documents: Rows likewise.
        relevant: For each query the numbers of its relevant documents, or their grades by number (relevant above 0).

    Raises:
        ExportError: If there is no query, a query has no relevant document, or a number is none of a document.

    Example:
        >>> Judgements(["red mug"], ["a mug, red", "a hat"], [[0]]).relevant
        [[0]]
    """

    queries: Sequence[Any]
    documents: Sequence[Any]
    relevant: Sequence[Mapping[int, int] | Collection[int]]

    def __post_init__(self) -> None:
        if not self.queries or len(self.relevant) != len(self.queries):
            raise ExportError(f"judgements: {len(self.queries)} queries and {len(self.relevant)} lists of documents.")
        for number, judged in enumerate(self.relevant):
            columns = list(judged)
            if not columns or not all(0 <= column < len(self.documents) for column in columns):
                raise ExportError(
                    f"judgements: the relevant documents of query {number} are {columns[:5]}; give at least one number "
                    f"below {len(self.documents)}."
                )


@dataclass(frozen=True)
class ParityInputs:
    """Rows on which an export is compared with its model, and calibrated.

    Args:
        texts: Texts.
        images: PIL images.
        pairs: Pairs of texts, for a reranker; None pairs each text with the two after it.
        judgements: What is right for which query, for the loss of NDCG@10.
        source: What the rows are, in words; it goes into the report.

    Example:
        >>> inputs = ParityInputs(texts=["red mug", "blue hat"], source="two titles")
        >>> inputs.rows("reranker")
        [('red mug', 'blue hat'), ('blue hat', 'red mug')]
    """

    texts: Sequence[str] = ()
    images: Sequence[Image.Image] = ()
    pairs: Sequence[tuple[str, str]] | None = None
    judgements: Judgements | None = None
    source: str = field(default="the caller's rows")

    def rows(self, verb: str) -> list[Any]:
        """The rows of a verb, each once, at most `LARGEST`.

        Args:
            verb: "text", "image", "fused" or "reranker".

        Returns:
            As `verb_features` takes them.
        """
        if verb == "text":
            return _spread(list(dict.fromkeys(self.texts)))
        if verb == "image":
            return _spread(list(self.images))
        if verb == "fused":
            return _spread([{"text": text, "image": image} for text, image in zip(self.texts, self.images)])
        if self.pairs is not None:
            return _spread(list(dict.fromkeys((query, passage) for query, passage in self.pairs)))
        texts = _spread(list(dict.fromkeys(self.texts)))
        count = len(texts)
        steps = range(1, min(3, count))
        return _spread([(texts[row], texts[(row + step) % count]) for row in range(count) for step in steps])

    def check(self, verb: str) -> list[Any]:
        """The rows of a verb, if they are enough to tell a right graph from a wrong one.

        Raises:
            ExportError: If there are fewer than eight.
        """
        rows = self.rows(verb)
        if len(rows) < _FEWEST:
            raise ExportError(
                f"{len(rows)} rows for the {verb} verb: a graph is compared on at least {_FEWEST} different ones; give more "
                "texts, images or pairs, or none for the drawn ones."
            )
        return rows


def synthetic_inputs(verbs: Sequence[str]) -> ParityInputs:
    """Rows drawn on the spot, for want of real ones: they show that a graph computes what its model does, not more.

    Args:
        verbs: What is to be compared.

    Returns:
        The rows, whose `source` says that they are synthetic.
    """
    from mmembed.data.catalogue import demo_catalogue

    table = demo_catalogue(products=48, photos=1, size=64, show_progress_bar=False).products
    texts = [text for text in table["text"][:] if text]
    texts += [
        text for text in (*table["description_en"][:24], *table["title_zh"][:12], *table["title_ru"][:12]) if text
    ]
    images: list[Image.Image] = []
    if set(verbs) & {"image", "fused"}:
        images = [load_image(image["bytes"]) for image in table["image"]]
        images += [image_of(seed, size) for seed, size in enumerate([(40, 90), (120, 30), (64, 64), (5, 7)])]
        texts = texts[: len(images)] if "text" not in verbs else texts
    return ParityInputs(texts=texts, images=images, source=SYNTHETIC)


def table_inputs(
    queries: Dataset,
    documents: Dataset,
    pairs: Dataset | None,
    *,
    query_use: Use = "text",
    document_use: Use = "image",
    reader: Reader | None = None,
    max_rows: int = LARGEST,
    max_queries: int = 500,
    max_documents: int = 2000,
    source: str = "",
) -> ParityInputs:
    """Rows, and judgements where there are relations, out of ITEMS and PAIRS.

    Args:
        queries: ITEMS.
        documents: ITEMS; may be the same table.
        pairs: PAIRS; None for none, and then there are no judgements.
        query_use: What of a query is read.
        document_use: What of a document.
        reader: Reads images; when None, paths are read below the folder that they have in common.
        max_rows: Texts and images to compare on.
        max_queries: Judged queries, taken evenly.
        max_documents: Documents among which they are ranked: the relevant ones first, then others evenly.
        source: What the rows are, in words.

    Returns:
        The rows.

    Raises:
        ExportError: If an image cannot be read.
    """
    readers = {
        id(table): reader or (reader_of(table) if "image" in table.column_names else None)
        for table in (queries, documents)
    }
    texts: list[str] = []
    images: list[Image.Image] = []
    tables = [queries] if queries is documents else [queries, documents]
    for table in tables:
        some = table.select(_evenly(len(table), max_rows))
        if "text" in some.column_names:
            texts += [text for text in some["text"][:] if text and text.strip()]
        if "image" in some.column_names:
            images += [row["image"] for row in _rows(some, "image", readers[id(table)], skip=True)]
    judgements = None
    if pairs is not None and len(pairs):
        judgements = _judgements(
            queries, documents, pairs, query_use, document_use, readers, max_queries, max_documents
        )
    return ParityInputs(_evenly_of(texts, max_rows), _evenly_of(images, max_rows), None, judgements, source)


def _judgements(
    queries: Dataset,
    documents: Dataset,
    pairs: Dataset,
    query_use: Use,
    document_use: Use,
    readers: Mapping[int, Reader | None],
    max_queries: int,
    max_documents: int,
) -> Judgements | None:
    query_rows = {id: row for row, id in enumerate(queries["id"][:])}
    document_rows = {id: row for row, id in enumerate(documents["id"][:])}
    judged = {
        query: [one for one in positives if one in document_rows]
        for query, positives in zip(pairs["query_id"][:], pairs["positive_ids"][:])
        if query in query_rows
    }
    names = [query for query, positives in judged.items() if positives]
    names = [names[row] for row in _evenly(len(names), max_queries)]
    if not names:
        return None
    wanted = list(dict.fromkeys(one for query in names for one in judged[query]))[:max_documents]
    known = set(wanted)
    others = [one for one in document_rows if one not in known]
    wanted += [others[row] for row in _evenly(len(others), max_documents - len(wanted))]
    number = {one: place for place, one in enumerate(wanted)}
    names = [query for query in names if any(one in number for one in judged[query])]
    return Judgements(
        _inputs(queries.select([query_rows[query] for query in names]), query_use, readers[id(queries)]),
        _inputs(documents.select([document_rows[one] for one in wanted]), document_use, readers[id(documents)]),
        [[number[one] for one in judged[query] if one in number] for query in names],
    )


def _inputs(table: Dataset, use: Use, reader: Reader | None) -> list[Any]:
    """A text as a string, an image as an image, both as both."""
    rows = _rows(table, use, reader, skip=False)
    return [row if len(row) == 2 else next(iter(row.values())) for row in rows]


def _rows(table: Dataset, use: str, reader: Reader | None, *, skip: bool) -> list[dict[str, Any]]:
    rows = []
    names = [name for name in ("text", "image") if name in table.column_names and use in (name, "fused")]
    for item in table.select_columns(["id", *names]):
        row: dict[str, Any] = {}
        if "text" in names and item["text"]:
            row["text"] = item["text"]
        if "image" in names and item["image"] is not None and reader is not None:
            image = reader.read(item["image"], id=item["id"])
            if image is None:
                raise ExportError(f"the image of item {item['id']!r} cannot be read; leave it out.")
            row["image"] = image
        if row:
            rows.append(row)
        elif not skip:
            raise ExportError(f"item {item['id']!r} has nothing to read as {use}; leave it out.")
    return rows


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the rows, from the first to the last."""
    if count <= most:
        return list(range(count))
    return [] if most < 1 else np.unique(np.linspace(0, count - 1, most).round().astype(np.int64)).tolist()


def _evenly_of(rows: list[Any], most: int) -> list[Any]:
    return [rows[row] for row in _evenly(len(rows), most)]


def _spread(rows: list[Any]) -> list[Any]:
    return _evenly_of(rows, LARGEST)
