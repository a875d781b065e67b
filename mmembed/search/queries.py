"""What a person asks (a text, a picture, both, or a dialogue) → what words and vectors are searched with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from mmembed.data.keys import content_id
from mmembed.data.schema import check_characters, did_you_mean, shown
from mmembed.images import load_image
from mmembed.models.blip_bi_encoder.dialogue_text import DIALOGUE_TOKENS, dialogue_text

_BLIP = "mmembed_blip_bi_encoder"


class QueryError(ValueError):
    """A query that cannot be searched with, with its number and what to do."""


@dataclass(frozen=True)
class Query:
    """One query.

    Args:
        text: what is looked for in words; a dialogue's rounds joined. It is only ever a text: one that names a URL or a
            file is not fetched or opened.
        image: an RGB picture that results resemble.
        is_dialogue: whether the text is a dialogue's.

    Example:
        >>> Query("a red mug").kind
        'text'
    """

    text: str | None = None
    image: Image.Image | None = None
    is_dialogue: bool = False

    @property
    def kind(self) -> str:
        """text, image, composed (both) or dialogue."""
        if self.image is not None:
            return "image" if self.text is None else "composed"
        return "dialogue" if self.is_dialogue else "text"


def as_query(asked: Any, number: int = 0) -> Query:
    """A query of what a caller has.

    Args:
        asked: a text; a PIL image or uint8 array (height, width, 3); {"text": …, "image": …} with one or both, the text
            being a text or a dialogue; a dialogue as a list of texts, the caption first and then a question with its answer
            a round; or a `Query`.
        number: which query it is, for messages.

    Returns:
        The query; an image is RGB.

    Raises:
        QueryError: anything else, or nothing in it.

    Example:
        >>> as_query(["a dog", "is it brown? yes"])
        Query(text='a dog, is it brown? yes', image=None, is_dialogue=True)
        >>> as_query({"text": "mug", "imgae": None})
        Traceback (most recent call last):
        mmembed.search.queries.QueryError: query 0 has no part 'imgae'; did you mean 'image'? A query has 'text', 'image' or both
    """
    if isinstance(asked, Query):
        return asked
    parts = asked if isinstance(asked, Mapping) else None
    if parts is None:
        parts = {"image" if isinstance(asked, (Image.Image, np.ndarray)) else "text": asked}
    for name in parts:
        if name not in ("text", "image"):
            hint = did_you_mean(str(name), ("text", "image")) or ";"
            raise QueryError(f"query {number} has no part {name!r}{hint} A query has 'text', 'image' or both")
    text: Any = parts.get("text")
    image = parts.get("image")
    is_dialogue = isinstance(text, (list, tuple))
    try:
        if is_dialogue:
            text = dialogue_text(text)
        elif text is not None and not isinstance(text, str):
            raise ValueError(f"found {shown(text)}; a query is a text, an image, both in a dict, or a list of rounds")
        text = None if text is None or not check_characters(text).strip() else text
        if image is not None and not isinstance(image, (Image.Image, np.ndarray)):
            kinds = "a PIL image or a uint8 array; load it with mmembed.load_image"
            raise ValueError(f"found {shown(image)}; an image is {kinds}")
        image = None if image is None else load_image(image)
        if text is None and image is None:
            raise ValueError("it has neither a text nor an image; leave it out")
    except (ValueError, TypeError) as error:
        raise QueryError(f"query {number}: {error}") from None
    return Query(text, image, is_dialogue)


def as_queries(asked: Any) -> list[Query]:
    """Queries of a list; one text where a list belongs is refused, not read as characters.

    Args:
        asked: a sequence of what `as_query` takes.

    Raises:
        QueryError: no sequence, or a query in it is none.

    Example:
        >>> [query.kind for query in as_queries(["a mug", ["a mug", "is it red? no"]])]
        ['text', 'dialogue']
    """
    if isinstance(asked, (str, Mapping, Query, Image.Image)) or not isinstance(asked, Sequence):
        raise QueryError(f"found {type(asked).__name__}; give a list of queries, also of one")
    return [as_query(one, number) for number, one in enumerate(asked)]


def query_key(query: Query) -> str:
    """What a query is recognised by: a hash of its text and of its pixels.

    Example:
        >>> query_key(Query("a mug")) == query_key(as_query("a mug")) != query_key(Query("a mug", is_dialogue=True))
        True
    """
    pixels = None if query.image is None else query.image.tobytes()
    return content_id(query.text, pixels, "dialogue" if query.is_dialogue else None)


def encode_queries(
    model: SentenceTransformer,
    queries: Sequence[Query],
    *,
    prompt: str | None = None,
    text_weight: float | None = None,
    dialogue_tokens: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Vectors of queries.

    Text and image of one query become one row where the model fuses such rows; else, or where `text_weight` says so, the
    vector is w · text + (1 − w) · image of the two unit vectors, normalised again.

    Args:
        model: any `SentenceTransformer`.
        queries: q queries of any kinds.
        prompt: put before each text; None for the model's own prompt of queries, if it has one.
        text_weight: w from 0 to 1 of a weighted sum; None for the model's own fusion, or .5 where it has none.
        dialogue_tokens: tokens at which a dialogue is cut; None for the 200 of ChatIR where the model is a BLIP bi-encoder
            (its own limit is that of captions), else for the model's own limit.
        batch_size: rows a forward pass.

    Returns:
        float32 (q, dim), each row of length 1, in the order of the queries.

    Raises:
        QueryError: a query has what the model does not read.
        ValueError: a weight out of range.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], image_size=32)
        >>> picture = Image.new("RGB", (32, 32), "red")
        >>> encode_queries(model, [Query("mug"), Query(image=picture), Query("mug", picture)]).shape
        (3, 128)
    """
    if text_weight is not None and not 0 <= text_weight <= 1:
        raise ValueError(f"text_weight={text_weight}; it lies from 0 (the image alone) to 1 (the text alone)")
    fuses = text_weight is None and model.supports(("image", "text"))
    weight = np.float32(0.5 if text_weight is None else text_weight)
    for number, query in enumerate(queries):
        for part in ("text", "image"):
            if getattr(query, part) is not None and not model.supports(part):
                raise QueryError(f"query {number} has a part that the model does not read: its {part}")
    summed = [number for number, query in enumerate(queries) if query.kind == "composed" and not fuses]
    whole = [number for number in range(len(queries)) if number not in set(summed)]
    options: dict[str, Any] = {"prompt": prompt, "dialogue_tokens": dialogue_tokens, "batch_size": batch_size}
    vectors = np.zeros((len(queries), model.get_embedding_dimension() or 0), dtype=np.float32)
    vectors[whole] = _encode_rows(model, [queries[number] for number in whole], **options)
    if summed:
        texts = _encode_rows(model, [replace(queries[number], image=None) for number in summed], **options)
        images = _encode_rows(model, [replace(queries[number], text=None) for number in summed], **options)
        vectors[summed] = unit_rows(weight * texts + (1 - weight) * images)
    return vectors


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one.

    Args:
        vectors: (n, dim).

    Returns:
        float32 (n, dim).

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0).astype(np.float32)


def _encode_rows(
    model: SentenceTransformer,
    rows: Sequence[Query],
    *,
    prompt: str | None,
    dialogue_tokens: int | None,
    batch_size: int,
) -> np.ndarray:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    if dialogue_tokens is None and getattr(config, "model_type", None) == _BLIP:
        dialogue_tokens = DIALOGUE_TOKENS
    # One call a kind: most models refuse a batch that mixes texts with images.
    kinds: dict[tuple[str, bool], list[int]] = {}
    for number, row in enumerate(rows):
        is_long = row.is_dialogue and dialogue_tokens is not None
        kinds.setdefault((row.kind, is_long), []).append(number)
    vectors = np.zeros((len(rows), model.get_embedding_dimension() or 0), dtype=np.float32)
    for (_, is_long), numbers in kinds.items():
        options: dict[str, Any] = {"processing_kwargs": {"text": {"max_length": dialogue_tokens}}} if is_long else {}
        vectors[numbers] = model.encode_query(
            [_input(model, rows[number]) for number in numbers],
            prompt=prompt,
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            **options,
        )
    return vectors


def _input(model: SentenceTransformer, row: Query) -> Any:
    if not isinstance(model[0], Transformer):
        return row.text  # a module of words alone, which takes no dict
    # Spelled out as a text, a text is never taken for the address of an image.
    return {name: part for name, part in (("text", row.text), ("image", row.image)) if part is not None}
