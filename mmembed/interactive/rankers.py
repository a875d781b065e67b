"""A dialogue so far → a score of every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mmembed.embeddings import Embeddings, read_rows
from mmembed.interactive.query_state import QueryText, QueryVector, caption_text, told, turn_text
from mmembed.interactive.questions import Turn

_FLOATS_A_BLOCK = 2**22
_TEXTS_KEPT = 100_000
_DIGITS = 6  # two equal vectors may differ in the last bits of a matrix product; equal candidates must tie


class Ranker(Protocol):
    """Whatever scores the candidates by what was said so far."""

    @property
    def ids(self) -> Sequence[str]:
        """The candidates, each once."""
        ...

    def scores(self, query: str, turns: Sequence[Turn]) -> NDArray[np.floating]:
        """(len(ids),), higher is better; −inf for what was not retrieved."""
        ...


class ScoredTexts(Protocol):
    """Whatever scores the candidates by one text, such as `mmembed.search.lexical.LexicalIndex`."""

    @property
    def ids(self) -> Sequence[str]:
        """The candidates, each once."""
        ...

    def scores(self, query: str) -> NDArray[np.floating]:
        """(len(ids),), higher is better."""
        ...


class TextRanker:
    """Ranks by the words of a dialogue.

    Args:
        index: scores candidates by a text, such as a `LexicalIndex`.
        query_text: makes one text of a query and its turns: `caption_text`, `joined_text`, or what `rewritten_text` gives.

    Example:
        >>> from mmembed.search.lexical import LexicalIndex
        >>> ranker = TextRanker(LexicalIndex.build(["a", "b"], ["a red hat", "a blue hat"]))
        >>> ranker.ids[int(ranker.scores("blue", []).argmax())]
        'b'
    """

    def __init__(self, index: ScoredTexts, query_text: QueryText = caption_text) -> None:
        self.ids = index.ids
        self._index, self._query_text = index, query_text
        self._last: tuple[str, NDArray[np.floating]] | None = None

    def scores(self, query: str, turns: Sequence[Turn]) -> NDArray[np.floating]:
        """As of `Ranker`."""
        text = self._query_text(query, turns)
        if self._last is None or self._last[0] != text:
            self._last = text, np.asarray(self._index.scores(text))
        return self._last[1]


class VectorRanker:
    """Ranks by the cosine of a dialogue's vector with those of the candidates.

    Args:
        model: encodes texts; any `SentenceTransformer`.
        embeddings: of the candidates, in the same space: of their images, their texts or both.
        query_text: makes one text of a query and its turns; with `query_vector` it is the first text alone.
        query_vector: makes one vector of a query's and its turns', such as `slerp_turns()` or `rocchio_turns()`; only
            answers that say what is there have vectors. None: the vector of the text.
        index: what finds the nearest candidates instead of a comparison with all: an `mmembed.search.index.Index` of the
            same ids, or a FAISS index of the same rows by inner product; the rest then counts as not retrieved.
        k: how many candidates are asked of `index`.
        prompt: put before each text.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> vectors = Embeddings(["a", "b"], model.encode(["red", "mug"], normalize_embeddings=True))
        >>> VectorRanker(model, vectors).scores("red", []).round(3).tolist()[0]
        1.0
    """

    def __init__(
        self,
        model: SentenceTransformer,
        embeddings: Embeddings,
        *,
        query_text: QueryText = caption_text,
        query_vector: QueryVector | None = None,
        index: Any = None,
        k: int = 1000,
        prompt: str | None = None,
    ) -> None:
        self.ids = embeddings.ids
        self.model, self.embeddings = model, embeddings
        self._query_text, self._query_vector, self._prompt = query_text, query_vector, prompt
        self._index, self._k = index, min(k, len(embeddings))
        self._encoded: dict[str, NDArray[np.float32]] = {}
        self._last: tuple[bytes, NDArray[np.floating]] | None = None

    def scores(self, query: str, turns: Sequence[Turn]) -> NDArray[np.floating]:
        """As of `Ranker`."""
        vector = self.vector(query, turns)
        if self._last is None or self._last[0] != vector.tobytes():
            self._last = vector.tobytes(), np.round(self._compared(vector), _DIGITS)
        return self._last[1]

    def vector(self, query: str, turns: Sequence[Turn]) -> NDArray[np.float32]:
        """The vector that is searched with: float32 (dim,), of length 1."""
        if self._query_vector is None:
            return self._encode([self._query_text(query, turns)])[0]
        vectors = self._encode([self._query_text(query, []), *(turn_text(turn) for turn in told(turns))])
        return self._query_vector(vectors[0], vectors[1:])

    def encode_ahead(self, texts: Sequence[str]) -> None:
        """Encode texts together that will be asked for one by one, such as the queries of a simulation."""
        self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self._encoded) > _TEXTS_KEPT:
            self._encoded.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._encoded))
        if new:
            # Spelled out as a text, a text is never taken for the address of an image.
            from mmembed.search.queries import Query, encode_queries

            vectors = encode_queries(self.model, [Query(text) for text in new], prompt=self._prompt)
            self._encoded.update(zip(new, vectors, strict=True))
        return np.stack([self._encoded[text] for text in texts])

    def _compared(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.full(len(self.embeddings), -np.inf, dtype=np.float32)
        if self._index is not None:
            hits = self._index.search(vector[None], self._k)
            if isinstance(hits[0], Mapping):
                found[self.embeddings.rows(list(hits[0]))] = list(hits[0].values())
                return found
            scores, rows = (np.asarray(part)[0] for part in hits)
            found[rows[rows >= 0]] = scores[rows >= 0]
            return found
        size = max(1, _FLOATS_A_BLOCK // vector.shape[0])
        for start in range(0, len(found), size):
            stop = min(start + size, len(found))
            block = read_rows(self.embeddings.vectors, start, stop)
            found[start:stop] = np.asarray(block, dtype=np.float32) @ vector
        return found
