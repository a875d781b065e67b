"""What does the page find? Items for what was typed, dropped or clicked, with how long each step took."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmembed.apps.browse.compared_vectors import COMPRESSED, Compared, ComparedVectors, indexes_of
from mmembed.data.keys import pick
from mmembed.data.schema import DataError
from mmembed.search.filters import Filters
from mmembed.search.hits import Hit, hits_of
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.queries import Query, QueryError, unit_rows
from mmembed.search.query_expansion import Rocchio

LISTED = "listed"
#: What a query is compared by, where the pipeline has both.
WAYS = ("both", "vectors", "words")
_STEPS = {"lexical": "words", "fused": "fuse", "rescored": "rescore", "reranked": "rerank"}


@dataclass(frozen=True)
class Ask:
    """What a person looks for.

    Args:
        text: what was typed.
        image: what was dropped: an RGB picture.
        like: id of an item that others shall be like; then text and image are put aside.
        positives: ids of results that were marked as right.
        negatives: ids of results that were marked as wrong.
    """

    text: str = ""
    image: Image.Image | None = None
    like: str | None = None
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()

    @property
    def query(self) -> Query | None:
        """Text and image, where there is one."""
        text = self.text if self.text.strip() else None
        return None if text is None and self.image is None else Query(text, self.image)


@dataclass(frozen=True)
class Found:
    """What was found.

    Args:
        hits: best first; of nothing asked, some items without a score.
        allowed: how many items meet the filters.
        seconds: each step and how long it took.
        compared: the indexes side by side; empty where no vectors were compared.
    """

    hits: list[Hit]
    allowed: int
    seconds: tuple[tuple[str, float], ...] = ()
    compared: tuple[Compared, ...] = ()


class PageSearch:
    """A search pipeline as the page uses it: with each of its indexes, by an item's vector, or with nothing asked.

    Searches run one after the other.

    Args:
        pipeline: searches.
        compressed: what its vectors are compressed to beside the index that is there, see `COMPRESSED`.
        seed: of the items that are shown while nothing is asked.
        show_progress_bar: show one while indexes are built.

    Example:
        >>> from datasets import Dataset
        >>> from mmembed.search.lexical import LexicalIndex
        >>> items = Dataset.from_dict({"id": ["a", "b"], "text": ["red mug", "blue mug"]})
        >>> search = PageSearch(SearchPipeline(lexical=LexicalIndex.build(["a", "b"], items["text"][:]), items=items))
        >>> [hit.id for hit in search.search(Ask("blue"), 5).hits], search.search(Ask(), 5).allowed
        (['b'], 2)
    """

    def __init__(
        self,
        pipeline: SearchPipeline,
        *,
        compressed: Sequence[str] = tuple(COMPRESSED),
        seed: int = 0,
        show_progress_bar: bool = False,
    ) -> None:
        self.pipeline = pipeline
        indexes = indexes_of(pipeline.index, pipeline.vectors, compressed, show_progress_bar=show_progress_bar)
        #: Names of the indexes, the given one first; empty where only words are searched.
        self.names = list(indexes)
        #: Of `WAYS`; empty where there is one alone.
        self.ways = list(WAYS) if self.names and pipeline.lexical is not None else []
        alone = pipeline.index is None and pipeline.vectors is not None
        self._pipelines: dict[tuple[str, str], SearchPipeline] = {}
        self._compared: dict[str, ComparedVectors] = {}
        for name in self.names:
            self._compared[name] = ComparedVectors(indexes, name)
            changed = {"index": self._compared[name], **({"vectors": None} if alone else {})}
            self._pipelines[name, WAYS[0]] = _with(pipeline, changed)
            if self.ways:
                self._pipelines[name, WAYS[1]] = _with(pipeline, {**changed, "lexical": None, "term_expansion": None})
        if self.ways:
            words = {"index": None, "vectors": None, "model": None, "rocchio": None}
            self._pipelines["", WAYS[2]] = _with(pipeline, words)
        self._lock = threading.Lock()
        self._order = self._shuffled(seed, show_progress_bar)

    @property
    def reads_images(self) -> bool:
        """Whether a picture can be searched with."""
        return bool(self.names) and bool(self.pipeline.model is not None and self.pipeline.model.supports("image"))

    @property
    def follows(self) -> bool:
        """Whether items have vectors that a search can follow."""
        return bool(self.names) and self._compared[self.names[0]].has_vectors

    @property
    def reranks(self) -> bool:
        """Whether there is a reranker."""
        return self.pipeline.reranker is not None

    def __len__(self) -> int:
        return len(self._order)

    def search(
        self,
        ask: Ask,
        k: int,
        *,
        filters: Filters | None = None,
        name: str | None = None,
        way: str | None = None,
        rerank: bool = True,
    ) -> Found:
        """Look for it.

        Args:
            ask: what is looked for.
            k: how many items.
            filters: conditions on attributes.
            name: of the index; None for the first.
            way: of `WAYS`; None for the first.
            rerank: whether the reranker has its say.

        Returns:
            What was found.

        Raises:
            QueryError: it cannot be searched with.
            FilterError: a condition that cannot be meant.
        """
        with self._lock:
            name = name if name in self._compared else (self.names[0] if self.names else None)
            compared = self._compared[name] if name is not None else None
            if compared is not None:
                compared.forget()
            allowed = self.pipeline.allowed(filters) if filters else None
            count = len(self._order) if allowed is None else len(allowed)
            if ask.like is not None or (ask.query is None and ask.positives):
                return self._by_vector(ask, k, allowed, count, compared)
            if ask.query is None:
                known = None if allowed is None else set(allowed)
                ids = [id for id in self._order if known is None or id in known][:k]
                return Found([Hit(id, 0.0, LISTED) for id in ids], count)
            if name is None:
                return self._by_query(ask, k, filters, count, self.pipeline, None, rerank)
            if self.ways and way == WAYS[2]:
                return self._by_query(ask, k, filters, count, self._pipelines["", way], None, rerank)
            way = way if self.ways and way in self.ways else WAYS[0]
            return self._by_query(ask, k, filters, count, self._pipelines[name, way], compared, rerank)

    def _by_query(
        self,
        ask: Ask,
        k: int,
        filters: Filters | None,
        count: int,
        pipeline: SearchPipeline,
        compared: ComparedVectors | None,
        rerank: bool,
    ) -> Found:
        followed: dict[str, Any] = {}
        if compared is not None and compared.has_vectors and (ask.positives or ask.negatives):
            followed = {"positives": [list(ask.positives)], "negatives": [list(ask.negatives)]}
        stages = pipeline.stages([ask.query], k, filters=filters or None, rerank=rerank, **followed)
        seconds: list[tuple[str, float]] = []
        for stage in stages:
            if stage.name == "dense" and compared is not None:
                seconds.append(("encode", max(0.0, stage.seconds - compared.spent)))
                seconds.append(("vectors", compared.seconds[compared.chosen]))
            else:
                seconds.append((_STEPS.get(stage.name, stage.name), stage.seconds))
        told = () if compared is None else tuple(compared.told(k))
        return Found(hits_of(stages, 0, k), count, tuple(seconds), told)

    def _by_vector(
        self, ask: Ask, k: int, allowed: Sequence[str] | None, count: int, compared: ComparedVectors | None
    ) -> Found:
        if compared is None or not compared.has_vectors:
            raise QueryError("this search is by words alone; there are no vectors that items could be alike by")
        named = [ask.like] if ask.like is not None else list(ask.positives)
        start = unit_rows(compared.vectors(named).mean(axis=0, keepdims=True))[0]
        good = list(ask.positives) if ask.like is not None else []
        moved = Rocchio(documents=0).expand(
            start,
            compared.vectors(good) if good else None,
            compared.vectors(list(ask.negatives)) if ask.negatives else None,
        )
        wanted: Collection[str] | None = None if allowed is None else [id for id in allowed if id != ask.like]
        found = compared.search(moved[None].astype(np.float32), k + 1, allowed=wanted)[0]
        hits = [
            Hit(id, score, "dense", {"dense": rank}, {"dense": score})
            for rank, (id, score) in enumerate(((id, score) for id, score in found.items() if id != ask.like), 1)
        ]
        return Found(hits[:k], count, (("vectors", compared.seconds[compared.chosen]),), tuple(compared.told(k)))

    def has_vector(self, id: str) -> bool:
        """Whether an item can be followed: it was shown, and is in the index."""
        if not self.follows:
            return False
        try:
            self._compared[self.names[0]].vectors([id])
        except DataError:
            return False
        return True

    def _shuffled(self, seed: int, show_progress_bar: bool) -> list[str]:
        """All ids, in an order of the seed's."""
        ids: list[str] = []
        if self.pipeline.items is not None:
            ids = self.pipeline.items.with_format(None)["id"][:]
        elif self.pipeline.vectors is not None:
            ids = list(self.pipeline.vectors.ids)
        elif hasattr(self.pipeline.index, "ids"):
            ids = list(self.pipeline.index.ids)  # type: ignore[union-attr]
        elif self.pipeline.lexical is not None:
            ids = list(self.pipeline.lexical.ids)
        start = pick(2**32, seed=seed, epoch=0, id="browse", salt="page")
        return [ids[row] for row in np.random.default_rng(start).permutation(len(ids)).tolist()]


def _with(pipeline: SearchPipeline, changed: dict[str, Any]) -> SearchPipeline:
    """The same pipeline with some parts exchanged: its arguments and its attributes have the same names."""
    names = inspect.signature(SearchPipeline).parameters
    return SearchPipeline(**{name: changed.get(name, getattr(pipeline, name)) for name in names})
