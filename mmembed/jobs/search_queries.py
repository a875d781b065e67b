"""What a search is asked: on the command line, or in files with judgements."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmembed.data.reading import read_items, read_pairs
from mmembed.data.schema import DataError, did_you_mean
from mmembed.images import ImagePolicy, ImageReader, load_image
from mmembed.jobs.options import OptionsError
from mmembed.jobs.search_options import SearchOptions
from mmembed.search.queries import Query, as_query

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.jobs.search_parts import SearchParts


def asked_queries(options: SearchOptions, parts: SearchParts) -> dict[str, Query]:
    """The queries by id; those of the command line are called 1, 2, ….

    Args:
        options: What is asked.
        parts: What was read; the queries of a named format.

    Raises:
        QueryError: A query that is none.
        DataError: A file with a fault.
    """
    if options.dialogue:
        return {"1": as_query(list(options.dialogue))}
    if options.query or options.image:
        count = max(len(options.query), len(options.image))
        texts: list[str | None] = [*options.query, *[None] * (count - len(options.query))]
        images = [_image(path) for path in options.image] + [None] * (count - len(options.image))
        return {
            str(number): as_query({"text": text, "image": image}, number)
            for number, (text, image) in enumerate(zip(texts, images), 1)
        }
    if options.queries is not None:
        return queries_of_file(options, options.queries)
    return queries_of_items(options, parts.queries, parts.root) if parts.queries is not None else {}


def judged_queries(
    options: SearchOptions, parts: SearchParts, queries: Mapping[str, Query]
) -> dict[str, dict[str, int]] | None:
    """For each query the grades of its documents; None where nothing is judged.

    Raises:
        DataError: A judged query that is not asked.
    """
    if options.pairs is not None:
        judged = grades_of(options.pairs)
    elif parts.pairs is not None and not (options.query or options.image or options.dialogue):
        judged = grades_of_pairs(parts.pairs)
    else:
        return None
    missing = [id for id in judged if id not in queries]
    if missing:
        message = f"{len(missing)} of its queries are not asked, such as {missing[0]!r}"
        raise DataError(
            message + did_you_mean(missing[0], queries), file=options.pairs or options.data, field="query_id"
        )
    return judged


def grades_of(path: str) -> dict[str, dict[str, int]]:
    """The judgements of a file of PAIRS."""
    return grades_of_pairs(read_pairs(path))


def grades_of_pairs(pairs: Dataset) -> dict[str, dict[str, int]]:
    """Grades by query and document: the positives' scores where all are whole numbers from 1 on, else 1 each.

    Example:
        >>> from datasets import Dataset
        >>> rows = {"query_id": ["q"], "positive_ids": [["a", "b"]], "negative_ids": [[]], "positive_scores": [[3.0, 1.0]]}
        >>> grades_of_pairs(Dataset.from_dict(rows))
        {'q': {'a': 3, 'b': 1}}
    """
    plain = pairs.with_format(None)
    scores = plain["positive_scores"][:] if "positive_scores" in plain.column_names else [None] * len(plain)
    every = [score for own in scores for score in own or []]
    graded = bool(every) and all(score >= 1 and score == int(score) for score in every) and None not in scores
    return {
        query: {id: int(own[place]) if graded else 1 for place, id in enumerate(ids)}
        for query, ids, own in zip(plain["query_id"][:], plain["positive_ids"][:], scores, strict=True)
    }


def queries_of_file(options: SearchOptions, path: str) -> dict[str, Query]:
    """The queries of a file of ITEMS, with the columns id, text and image."""
    root = options.image_root or (path if os.path.isdir(path) else os.path.dirname(path) or ".")
    return queries_of_items(options, read_items(path, image_root=options.image_root), root)


def queries_of_items(options: SearchOptions, items: Dataset, root: str | None) -> dict[str, Query]:
    """The rows of ITEMS as queries.

    Args:
        options: `query_use`: text, image, or what is there; `dialogue_column`: rounds instead of the text.
        items: ITEMS.
        root: The folder below which their images lie.

    Raises:
        DataError: A row that lacks what is used.
    """
    column = options.dialogue_column
    if column is not None and column not in items.column_names:
        raise OptionsError(f"--dialogue_column: no column {column!r}{did_you_mean(column, items.column_names)}")
    reader = ImageReader(ImagePolicy(root=root))
    found: dict[str, Query] = {}
    for row, item in enumerate(items.with_format(None)):
        text = item["text" if column is None else column] if options.query_use != "image" else None
        image = item["image"] if options.query_use != "text" else None
        if text is None and image is None:
            what = "neither a text nor an image" if options.query_use == "fused" else f"no {options.query_use}"
            raise DataError(f"query {item['id']!r} has {what}", file=options.queries or options.data, row=row)
        picture = None if image is None else reader.read(image, id=item["id"])
        found[item["id"]] = as_query({"text": text, "image": picture}, row)
    return found


def _image(path: str) -> Any:
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        raise OptionsError(f"--image: there is no file {path}")
    return load_image(real, policy=ImagePolicy(root=os.path.dirname(real)))
