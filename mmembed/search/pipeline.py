"""A query → the best items: by words and by vectors, fused, rescored exactly, and reranked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

from mmembed.embeddings import Embeddings
from mmembed.rerankers.reranking import Use
from mmembed.search.filters import FilterError, Filters, allowed_ids
from mmembed.search.fusion import Fusion
from mmembed.search.hits import Hit, Stage, hits_of
from mmembed.search.lexical import LexicalIndex
from mmembed.search.queries import Query, QueryError, as_queries
from mmembed.search.query_expansion import Rocchio, TermExpansion
from mmembed.search.rerank_stage import rerank_candidates
from mmembed.search.rewriting import QueryRewriter, query_texts
from mmembed.search.vector_stage import ExactVectors, Feedback, VectorIndex, exact_rankings, search_vectors
from mmembed.search.word_stage import search_words

if TYPE_CHECKING:
    from mmembed.search.pipeline_report import PipelineReport


class SearchPipeline:
    """Searches by words and by vectors, fuses both, rescores the candidates exactly and reranks the best of them.

    Every stage is there if its part is given: `lexical` → words; `index` or `vectors`, with `model` → vectors; both →
    fused; `index` and `vectors` → rescored; `reranker` with `items` → reranked. A query is a text, an image, both
    (composed) or a dialogue, see `mmembed.search.queries.as_query`. A stage that cannot read a query (words of an image, a
    text reranker of an image) leaves the order as it was; which stages placed a hit stands in its `ranks`.

    Args:
        lexical: BM25 over the documents' texts.
        index: finds documents by vectors, perhaps approximately or compressed; None for an exact search over `vectors`.
        vectors: full-precision vectors of the documents. Beside an index, the dense score of every candidate, also of those
            that words alone found, becomes the exact inner product, and the candidates are fused anew (without words: sorted
            by it).
        model: encodes queries; the one that encoded the documents.
        reranker: any `CrossEncoder` with one score a pair.
        items: ITEMS of the documents: texts and images for the reranker, attributes for filters.
        reader: reads the items' images for the reranker; None reads below the folder that their paths have in common.
        fusion: how words and vectors are fused; weights by "lexical" and "dense".
        depth: documents that words and vectors find each, at least k.
        rescore: whether `vectors` beside an index rescore.
        rerank_depth: candidates that the reranker reads.
        rerank_use: what of a document it reads, "text", "image" or "fused".
        rerank_query_use: what of a query it reads; "fused" is whatever it has, None is `rerank_use`.
        rerank_fusion: how its order is fused with the one before, weights by "before" and "reranker"; None: its own order.
        rerank_prompt: put before each query that it reads.
        query_prompt: put before each text that is encoded; None: the model's own.
        text_weight: of a composed query, see `encode_queries`.
        dialogue_tokens: tokens at which a dialogue is cut, see `encode_queries`.
        rewriter: a query's text → other texts, see `mmembed.search.rewriting`.
        keep_query: whether a rewritten query's own text is among those that are searched with.
        combine_rewrites: how several texts of one query are searched with: the "mean" of their vectors, and of their words'
            scores, or "rrf" over their rankings.
        rocchio: moves a query's vector towards its first results (`rocchio.documents` of them) or given positives.
        term_expansion: adds words of a query's first results, or of given positives, to its own.
        batch_size: rows or pairs a forward pass.

    Raises:
        ValueError: no stage at all, a part without the one that it needs, or a number out of range.

    Example:
        >>> lexical = LexicalIndex.build(["a", "b"], ["a red skirt", "a red hat"])
        >>> items = Dataset.from_dict({"id": ["a", "b"], "text": ["a red skirt", "a red hat"], "price": [20, 60]})
        >>> pipeline = SearchPipeline(lexical=lexical, items=items)
        >>> [hit.id for hit in pipeline.search(["red hat"])[0]]
        ['b', 'a']
        >>> [hit.id for hit in pipeline.search(["red hat"], filters={"price": (None, 50)})[0]]
        ['a']
    """

    def __init__(
        self,
        *,
        lexical: LexicalIndex | None = None,
        index: VectorIndex | None = None,
        vectors: Embeddings | None = None,
        model: SentenceTransformer | None = None,
        reranker: CrossEncoder | None = None,
        items: Dataset | None = None,
        reader: Any = None,
        fusion: Fusion | None = None,
        depth: int = 100,
        rescore: bool = True,
        rerank_depth: int = 20,
        rerank_use: Use = "text",
        rerank_query_use: Use | None = None,
        rerank_fusion: Fusion | None = None,
        rerank_prompt: str | None = None,
        query_prompt: str | None = None,
        text_weight: float | None = None,
        dialogue_tokens: int | None = None,
        rewriter: QueryRewriter | None = None,
        keep_query: bool = True,
        combine_rewrites: Literal["mean", "rrf"] = "mean",
        rocchio: Rocchio | None = None,
        term_expansion: TermExpansion | None = None,
        batch_size: int = 32,
    ) -> None:
        self.lexical, self.index, self.vectors, self.model = lexical, index, vectors, model
        self.reranker, self.items, self.reader = reranker, items, reader
        self.fusion, self.depth, self.rescore = fusion or Fusion(), depth, rescore
        self.rerank_depth, self.rerank_use, self.rerank_query_use = rerank_depth, rerank_use, rerank_query_use
        self.rerank_fusion, self.rerank_prompt = rerank_fusion, rerank_prompt
        self.query_prompt, self.text_weight, self.dialogue_tokens = query_prompt, text_weight, dialogue_tokens
        self.rewriter, self.keep_query, self.combine_rewrites = rewriter, keep_query, combine_rewrites
        self.rocchio, self.term_expansion, self.batch_size = rocchio, term_expansion, batch_size
        self._check()
        self._dense: VectorIndex | None = index if index is not None or vectors is None else ExactVectors(vectors)
        self._rows: dict[str, int] | None = None

    def _check(self) -> None:
        dense = self.index is not None or self.vectors is not None
        if self.lexical is None and not dense:
            raise ValueError("nothing to search with: give lexical, or index or vectors with a model")
        if dense and self.model is None:
            raise ValueError("index and vectors are searched with a model's vectors; give the model that encoded them")
        if self.items is None and (self.reranker is not None or self.term_expansion is not None):
            raise ValueError("reranker and term_expansion read the documents; give items")
        if self.rocchio is not None and self.vectors is None and not hasattr(self.index, "vectors"):
            raise ValueError("rocchio moves a query towards documents' vectors; give vectors")
        for name in ("depth", "rerank_depth", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give at least 1")
        for use in (self.rerank_use, self.rerank_query_use or "text"):
            if use not in ("text", "image", "fused"):
                raise ValueError(f"rerank_use={use!r}; choose text, image or fused")
        if self.vectors is not None and self.model is not None:
            found, given = self.vectors.vectors.shape[1], self.model.get_embedding_dimension()
            if given is not None and found != given:
                raise ValueError(
                    f"vectors of {found} numbers, and a model that gives {given}; give the one that encoded them"
                )
        if self.combine_rewrites not in ("mean", "rrf"):
            raise ValueError(f"combine_rewrites={self.combine_rewrites!r}; choose mean or rrf")

    def search(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filters: Filters | None = None,
        positives: Sequence[Sequence[str]] | None = None,
        negatives: Sequence[Sequence[str]] | None = None,
        rerank: bool = True,
    ) -> list[list[Hit]]:
        """The best items of each query.

        Args:
            queries: texts, images, {"text": …, "image": …} with both, or lists of a dialogue's rounds.
            k: how many items a query.
            filters: conditions on the items' attributes, see `mmembed.search.filters.allowed_ids`.
            positives: for each query ids of items that are known to answer it; its vector moves towards theirs (`rocchio`,
                or its defaults), its words take of theirs where there is `term_expansion`.
            negatives: for each query ids of items that do not; its vector moves away.
            rerank: whether the reranker, where there is one, has its say.

        Returns:
            For each query its hits, best first; fewer than k where fewer are found or allowed.

        Raises:
            QueryError: a query that is none, or has what no stage reads; k below 1.
            FilterError: a condition that cannot be meant.
            DataError: a positive or negative that has no vector.
        """
        given = {"positives": positives, "negatives": negatives}
        stages = self.stages(queries, k, filters=filters, rerank=rerank, **given)
        return [hits_of(stages, number, k) for number in range(len(queries))]

    def stages(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filters: Filters | None = None,
        positives: Sequence[Sequence[str]] | None = None,
        negatives: Sequence[Sequence[str]] | None = None,
        rerank: bool = True,
    ) -> list[Stage]:
        """What each stage makes of the queries; arguments as of `search`.

        Returns:
            The stages that this pipeline has, in the order lexical, dense, fused, rescored, reranked. Rewriting and
            filtering count to the time of the first, encoding to that of "dense".
        """
        arrived = time.perf_counter()
        if type(k) is not int or k < 1:
            raise QueryError(f"k={k!r}; give a whole number of at least 1")
        asked = as_queries(queries)
        for name, given in (("positives", positives), ("negatives", negatives)):
            if given is not None and len(given) != len(asked):
                raise QueryError(f"{len(given)} lists of {name} for {len(asked)} queries; give one a query")
            if any(isinstance(ids, str) for ids in given or ()):
                raise QueryError(f"{name} are a list of ids for each query; found one text")
        for number, query in enumerate(asked):
            if query.text is None and self._dense is None:
                raise QueryError(f"query {number} is an image, and this pipeline searches by words alone")
        allowed = None if filters is None else self.allowed(filters)
        depth = max(k, self.depth)
        texts = [query_texts(self.rewriter, query.text, keep_query=self.keep_query) for query in asked]
        stages: list[Stage] = []
        began = arrived
        if self.lexical is not None:
            found = self._by_words(texts, depth, allowed, positives)
            stages.append(Stage("lexical", found, time.perf_counter() - began))
            began = time.perf_counter()
        if self._dense is not None:
            feedback = self._feedback(positives, negatives)
            found, vectors = self._by_vectors(asked, texts, depth, allowed, feedback)
            stages.append(Stage("dense", found, time.perf_counter() - began))
            if len(stages) == 2:
                began = time.perf_counter()
                found = self._fused(stages[0], found)
                stages.append(Stage("fused", found, time.perf_counter() - began))
            if self.index is not None and self.vectors is not None and self.rescore:
                stages.append(self._rescored(stages, vectors))
        if self.reranker is not None and rerank:
            stages.append(self._reranked(asked, stages[-1]))
        return stages

    def allowed(self, filters: Filters) -> list[str]:
        """The ids of the items that meet conditions, see `mmembed.search.filters.allowed_ids`."""
        if self.items is None:
            raise FilterError("filters are conditions on items; this pipeline was given none")
        return allowed_ids(self.items, filters)

    def measure(self, queries: Any, qrels: Any, **options: Any) -> PipelineReport:
        """Each stage's figures beside those of the one before, see `mmembed.search.pipeline_report.measure_pipeline`."""
        from mmembed.search.pipeline_report import measure_pipeline

        return measure_pipeline(self, queries, qrels, **options)

    def save(self, folder: str | os.PathLike, **names: Any) -> None:
        """Write the pipeline as a folder of its parts, see `mmembed.search.pipeline_files.save_pipeline`."""
        from mmembed.search.pipeline_files import save_pipeline

        save_pipeline(self, folder, **names)

    @classmethod
    def load(cls, folder: str | os.PathLike, **parts: Any) -> SearchPipeline:
        """Read what `save` wrote, see `mmembed.search.pipeline_files.load_pipeline`."""
        from mmembed.search.pipeline_files import load_pipeline

        return load_pipeline(folder, **parts)

    # --- stages ------------------------------------------------------------------------------------------------------

    def _by_words(
        self,
        texts: list[list[str]],
        depth: int,
        allowed: list[str] | None,
        positives: Sequence[Sequence[str]] | None,
    ) -> list[dict[str, float]]:
        assert self.lexical is not None
        return search_words(
            self.lexical,
            texts,
            depth,
            allowed=allowed,
            combine=self.combine_rewrites,
            query_first=self.keep_query,
            expansion=self.term_expansion,
            documents=self.texts,
            positives=positives,
        )

    def _by_vectors(
        self,
        asked: list[Query],
        texts: list[list[str]],
        depth: int,
        allowed: list[str] | None,
        feedback: Feedback | None,
    ) -> tuple[list[dict[str, float]], np.ndarray]:
        assert self.model is not None and self._dense is not None
        return search_vectors(
            self._dense,
            self.model,
            asked,
            texts,
            depth,
            allowed=allowed,
            combine=self.combine_rewrites,
            feedback=feedback,
            prompt=self.query_prompt,
            text_weight=self.text_weight,
            dialogue_tokens=self.dialogue_tokens,
            batch_size=self.batch_size,
        )

    def _feedback(
        self, positives: Sequence[Sequence[str]] | None, negatives: Sequence[Sequence[str]] | None
    ) -> Feedback | None:
        if positives is None and negatives is None and (self.rocchio is None or not self.rocchio.documents):
            return None
        # an index keeps vectors too, though perhaps compressed ones
        stored = self._take if self.vectors is not None else getattr(self.index, "vectors", None)
        if stored is None:
            raise ValueError("positives and negatives are followed by their vectors; give the pipeline vectors")
        return Feedback(self.rocchio or Rocchio(documents=0), stored, positives, negatives)

    def _take(self, ids: Sequence[str]) -> np.ndarray:
        assert self.vectors is not None
        return np.asarray(self.vectors.vectors[self.vectors.rows(ids)])

    def _fused(self, words: Stage, vectors: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        return [self.fusion.fuse({"lexical": a, "dense": b}) for a, b in zip(words.rankings, vectors, strict=True)]

    def _rescored(self, stages: Sequence[Stage], queries: np.ndarray) -> Stage:
        began = time.perf_counter()
        assert self.vectors is not None
        candidates = [list(ranking) for ranking in stages[-1].rankings]
        exact = exact_rankings(self.vectors, queries, candidates)
        rankings = self._fused(stages[0], exact) if stages[-1].name == "fused" else exact
        return Stage("rescored", rankings, time.perf_counter() - began, exact=exact)

    def _reranked(self, asked: Sequence[Query], before: Stage) -> Stage:
        began = time.perf_counter()
        assert self.reranker is not None and self.items is not None
        orders = [before.order(number) for number in range(len(asked))]
        tops = [order[: self.rerank_depth] for order in orders]
        rankings = rerank_candidates(
            self.reranker,
            asked,
            tops,
            self.items,
            self.rows,
            use=self.rerank_use,
            query_use=self.rerank_query_use,
            reader=self.reader,
            prompt=self.rerank_prompt,
            batch_size=self.batch_size,
        )
        for number, ranking in enumerate(rankings):
            if ranking and self.rerank_fusion is not None:
                stood = {id: -float(rank) for rank, id in enumerate(tops[number])}
                rankings[number] = self.rerank_fusion.fuse({"before": stood, "reranker": ranking})
        behind = [[id for id in order if id not in ranking] for ranking, order in zip(rankings, orders, strict=True)]
        orders = [[*ranking, *rest] for ranking, rest in zip(rankings, behind, strict=True)]
        return Stage("reranked", rankings, time.perf_counter() - began, orders)

    # --- the documents -----------------------------------------------------------------------------------------------

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The row of each id in the items."""
        assert self.items is not None
        if self._rows is None:
            self._rows = {id: row for row, id in enumerate(self.items.with_format(None)["id"][:])}
        missing = [id for id in ids if id not in self._rows]
        if missing:
            raise ValueError(
                f"{len(missing)} ids that were found are no items, such as {missing[0]!r}; give the items that were indexed"
            )
        return [self._rows[id] for id in ids]

    def texts(self, ids: Sequence[str]) -> list[str]:
        """The text of each item, "" where it has none."""
        assert self.items is not None
        return [text or "" for text in self.items.select(self.rows(ids)).with_format(None)["text"][:]]
