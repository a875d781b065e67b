"""What does the model answer? The work of each verb, for requests that share a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer

from mmembed.apps.serve.limits import ServeError
from mmembed.apps.serve.rejections import Rejection
from mmembed.search.filters import FilterError, filter_columns
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.queries import Query, QueryError

ENCODE, SEARCH, RERANK = "encode", "search", "rerank"


@dataclass(frozen=True)
class Served:
    """What a server answers with.

    Args:
        names: What callers may name the model; the first is its own.
        model: Encodes; any `SentenceTransformer`, or what has its `encode`.
        pipeline: Searches.
        reranker: Scores pairs.
        dimensions: Lengths to which a caller may have vectors cut, as a Matryoshka model allows.
        batch_size: Rows of a forward pass.
    """

    names: tuple[str, ...]
    model: SentenceTransformer | None = None
    pipeline: SearchPipeline | None = None
    reranker: CrossEncoder | None = None
    dimensions: tuple[int, ...] = ()
    batch_size: int = 32
    _rows: dict[str, int] = field(default_factory=dict, repr=False)
    _columns: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ServeError("give the model a name")
        if self.model is None and self.pipeline is None and self.reranker is None:
            raise ServeError("nothing to serve: give a model, a pipeline, or a reranker")
        width = self.width
        for length in self.dimensions:
            if width is None or not 1 <= length <= width:
                raise ServeError(f"dimensions={length}: the model's vectors have {width or 'no'} numbers")
        if self.items is not None:
            self._rows.update({id: row for row, id in enumerate(self.items["id"][:])})
            self._columns.extend(filter_columns(self.items))

    @property
    def items(self) -> Dataset | None:
        """ITEMS of what is searched, if they are known."""
        return self.pipeline.items if self.pipeline is not None else None

    @property
    def width(self) -> int | None:
        """Numbers of a vector."""
        return None if self.model is None else self.model.get_embedding_dimension()

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name."""
        prompts: Any = getattr(self.model, "prompts", None) or {}
        return {name: text for name, text in prompts.items() if text is not None}

    def run(self, verb: str, settings: Any, payloads: Sequence[Any]) -> Sequence[Any]:
        """Work for requests that share a call; the batcher's thread calls it.

        Args:
            verb: ENCODE, SEARCH or RERANK.
            settings: What they have in common.
            payloads: One a request.

        Returns:
            One answer a request, in order.
        """
        work: dict[str, Callable[[Any, Sequence[Any]], Sequence[Any]]] = {
            ENCODE: self._encode, SEARCH: self._search, RERANK: self._rerank
        }  # fmt: skip
        return work[verb](settings, payloads)

    def reads(self, part: str) -> bool:
        """Whether the model reads texts, or images.

        Args:
            part: "text" or "image".
        """
        supports = getattr(self.model, "supports", None)
        return part == "text" if supports is None else bool(supports(part))

    def check_rows(self, rows: Sequence[dict[str, Any]], param: str) -> None:
        """Refuse rows with a part that the model does not read.

        Raises:
            Rejection: 400.
        """
        for number, row in enumerate(rows):
            for part in row:
                if not self.reads(part):
                    what = "texts" if part == "text" else "images"
                    message = f"{param}[{number}]: this model does not read {what}"
                    raise Rejection(400, message, code="modality", param=param)

    def count_tokens(self, rows: Sequence[dict[str, Any]]) -> int:
        """Tokens that the model reads of the rows' texts, special ones among them; 0 where it has no tokenizer."""
        tokenizer: Any = getattr(self.model, "tokenizer", None)
        texts = [row["text"] for row in rows if "text" in row]
        if not texts or not callable(tokenizer):
            return 0
        longest = getattr(self.model, "max_seq_length", None)
        most = {"truncation": True, "max_length": longest} if isinstance(longest, int) and longest < 10**9 else {}
        return sum(map(len, tokenizer(texts, **most)["input_ids"]))

    # --- in the batcher's thread ---------------------------------------------------------------------------------

    def _encode(self, prompt: str | None, payloads: Sequence[list[dict[str, Any]]]) -> list[tuple[np.ndarray, int]]:
        rows = [row for payload in payloads for row in payload]
        model: Any = self.model
        given: list[Any] = rows
        if isinstance(model, SentenceTransformer) and not isinstance(model[0], Transformer):
            given = [row["text"] for row in rows]  # a module of words alone, which takes no dict
        vectors = np.asarray(
            model.encode(given, prompt=prompt, batch_size=self.batch_size, show_progress_bar=False), dtype=np.float32
        )
        if not np.isfinite(vectors).all():
            raise RuntimeError("the model gave numbers that are not finite")
        answers, start = [], 0
        for payload in payloads:
            answers.append((vectors[start : start + len(payload)], self.count_tokens(payload)))
            start += len(payload)
        return answers

    def _search(self, settings: tuple[int, bool, Any], payloads: Sequence[tuple[Query, Any]]) -> list[Any]:
        k, rerank, _ = settings
        assert self.pipeline is not None
        filters = payloads[0][1]  # the same in all of them: it stands in the settings
        try:
            return self.pipeline.search([query for query, _ in payloads], k, filters=filters, rerank=rerank)
        except (QueryError, FilterError) as error:
            raise Rejection(400, str(error), code="query") from None

    def _rerank(self, _: None, payloads: Sequence[list[tuple[Any, Any]]]) -> list[np.ndarray]:
        assert self.reranker is not None
        pairs = [pair for payload in payloads for pair in payload]
        scores = np.asarray(self.reranker.predict(pairs, batch_size=self.batch_size, show_progress_bar=False))
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise RuntimeError(
                f"the reranker gave scores of shape {scores.shape} for {len(pairs)} pairs, or not finite ones"
            )
        answers, start = [], 0
        for payload in payloads:
            answers.append(scores[start : start + len(payload)])
            start += len(payload)
        return answers

    # --- items -----------------------------------------------------------------------------------------------------

    def check_fields(self, names: Sequence[str]) -> None:
        """Refuse attributes that the items do not have.

        Raises:
            Rejection: 400.
        """
        for name in names:
            if name not in self._columns:
                there = ", ".join(self._columns) or "none: this server knows ids alone"
                raise Rejection(
                    400, f"fields: no attribute {name[:40]!r}; there are {there}", code="field", param="fields"
                )

    def attributes(self, ids: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Attributes of items, those that `check_fields` let through; of an id that is none of theirs, None."""
        items = self.items
        known = [] if items is None else [id for id in ids if id in self._rows]
        found: dict[str, dict[str, Any]] = {}
        if items is not None and known:
            columns = set(items.column_names)
            outer = list(dict.fromkeys(name if name in columns else name.partition(".")[0] for name in names))
            table = items.select_columns(outer)[[self._rows[id] for id in known]]
            for row, id in enumerate(known):
                found[id] = {}
                for name in names:
                    first, _, inner = (name, "", "") if name in columns else name.partition(".")
                    value = table[first][row]
                    found[id][name] = value.get(inner) if inner and isinstance(value, dict) else value
        return [found.get(id, dict.fromkeys(names)) for id in ids]


def shortened(vectors: np.ndarray, length: int | None) -> np.ndarray:
    """The first numbers of each vector, of length 1 again.

    Args:
        vectors: float32 (n, dim).
        length: How many; None leaves them as they are.

    Example:
        >>> shortened(np.array([[3.0, 4.0, 12.0]], dtype=np.float32), 2).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    if length is None or length == vectors.shape[1]:
        return vectors
    cut = vectors[:, :length]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.divide(cut, lengths, out=np.zeros_like(cut), where=lengths > 0)
