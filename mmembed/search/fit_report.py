"""What does a compression cost: retrieval kept, memory, time? Measured before it is used, and refused where a model breaks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.pages import text_table
from mmembed.ranking_metrics import Qrels, ranking_metrics
from mmembed.search.index import Index
from mmembed.search.index_settings import IndexSettings
from mmembed.statistics import paired_bootstrap

#: Share of the uncompressed retrieval below which a compression is refused, where nobody says otherwise.
FLOOR = 0.95
_TIMED = 200


class FitError(ValueError):
    """A compression under which a model's retrieval breaks: what is kept, what was asked for, what would do."""


@dataclass(frozen=True)
class FitRow:
    """What one setting of an index keeps and costs.

    Args:
        settings: as the index was built, with what was left open filled in.
        kept: its value as a share of that of all vectors compared in float32; NaN where that is 0.
        low: lower end of the 95 % interval of `kept`, the queries resampled in pairs.
        high: upper end.
        value: its mean NDCG@k, or overlap@k.
        n: queries.
        memory_bytes: of a vector, that a search holds in memory.
        mapped_bytes: of a vector, in the file that candidates are rescored from.
        build_seconds: for all documents.
        p50_ms: median of the milliseconds that a search for one query takes.
        p95_ms: of twenty searches one takes longer.
        timed: queries that were timed.
    """

    settings: IndexSettings
    kept: float
    low: float
    high: float
    value: float
    n: int
    memory_bytes: float
    mapped_bytes: float
    build_seconds: float
    p50_ms: float
    p95_ms: float
    timed: int

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, and the settings as one of them."""
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "settings"}
        return {"kind": self.settings.kind, "parameters": self.settings.parameters(), **numbers}


@dataclass(frozen=True)
class FitReport:
    """A row for each setting; the first is every vector compared in float32, by which the others are measured.

    Args:
        rows: the rows.
        measure: "ndcg@10", or "overlap@10" where there were no judgements.
        documents: how many were searched.
        floor: share that must be kept.
        model: whose vectors these are, where that is known.
    """

    rows: tuple[FitRow, ...]
    measure: str
    documents: int
    floor: float = FLOOR
    model: str | None = None

    def table(self) -> str:
        """The rows as a table for a terminal."""
        exact = self.rows[0].memory_bytes
        cells = [
            [
                str(row.settings),
                f"{row.value:.4f}",
                f"{row.kept:.1%} [{row.low:.1%}, {row.high:.1%}]",
                "" if self.holds(row) else "collapses",
                f"{row.memory_bytes:,.0f}" + (f" + {row.mapped_bytes:,.0f} mapped" if row.mapped_bytes else ""),
                f"{row.memory_bytes * self.documents / 2**20:,.1f}",
                f"{exact / row.memory_bytes:.1f}×" if row.memory_bytes else "",
                f"{row.p50_ms:.2f}",
                f"{row.p95_ms:.2f}",
                f"{row.build_seconds:.1f}",
            ]
            for row in self.rows
        ]
        header = ["index", self.measure, "kept", f"floor {self.floor:.0%}", "bytes/vector", "MiB"]
        header += ["smaller", "p50 ms", "p95 ms", "build s"]
        first = self.rows[0]
        return (
            f"{text_table(cells, header)}\n\n{self.documents:,} documents, n = {first.n:,} queries, {first.timed:,} of them "
            f"timed one at a time{f'; {self.model}' if self.model else ''}"
        )

    def holds(self, row: FitRow) -> bool:
        """Whether a row keeps what must be kept."""
        return bool(row.kept >= self.floor)

    def smallest(self) -> FitRow | None:
        """The row of least memory that keeps what must be kept; of as much, the one that keeps more."""
        good = [row for row in self.rows if self.holds(row)]
        return min(good, key=lambda row: (row.memory_bytes, -row.kept), default=None)

    def check(self, row: FitRow) -> FitRow:
        """A row, once it keeps what must be kept.

        Args:
            row: one of `rows`.

        Returns:
            The row.

        Raises:
            FitError: it does not; names the smallest that does.
        """
        if self.holds(row):
            return row
        other = self.smallest()
        hint = (
            "" if other is None else f"; the smallest here that does is {other.settings}, which keeps {other.kept:.1%}"
        )
        raise FitError(
            f"{row.settings} keeps {row.kept:.1%} [{row.low:.1%}, {row.high:.1%}] of {self.measure} (n = {row.n:,}), at "
            f"least {self.floor:.1%} must be kept{hint}"
        )


def default_settings(count: int, dim: int) -> list[IndexSettings]:
    """What is worth comparing for so many vectors of a dimension.

    Args:
        count: documents.
        dim: of their vectors.

    Returns:
        Settings, the uncompressed first.

    Example:
        >>> len(default_settings(100, 8)) < len(default_settings(10_000, 384))
        True
    """
    found = [
        IndexSettings("flat"),
        IndexSettings("flat", "float16"),
        IndexSettings("flat", "int8"),
        IndexSettings("binary"),
        IndexSettings("binary", rescore="signs"),
        IndexSettings("binary", rescore="int8"),
    ]
    for part in (2, 4):
        if dim // part >= 16:
            found.append(IndexSettings("flat", truncate_dim=dim // part))
    if dim // 4 >= 16:
        found.append(IndexSettings("flat", truncate_dim=dim // 4, rescore="int8"))
    if count >= 1000:
        found += [IndexSettings("hnsw"), IndexSettings("ivf"), IndexSettings("ivf", "int8")]
    if count >= 1000 and dim >= 8:
        found += [IndexSettings("pq"), IndexSettings("pq", rescore="int8")]
    return found


def fit_report(
    queries: Embeddings,
    documents: Embeddings,
    qrels: Qrels | None = None,
    *,
    settings: Sequence[IndexSettings] | None = None,
    k: int = 10,
    floor: float = FLOOR,
    exclude_same_id: bool = False,
    calibration: Embeddings | None = None,
    timed: int = _TIMED,
    show_progress_bar: bool = False,
) -> FitReport:
    """Build an index in each setting and measure what retrieval keeps of every vector compared in float32.

    With judgements the measure is NDCG@k (ir-measures; ties pessimistic, see `ranking_metrics`), without it is the share
    of the k best in float32 that are still among the k best. The queries stay as the model gives them, whatever the
    documents become.

    Args:
        queries: vectors of queries.
        documents: vectors of documents, of the same model.
        qrels: for each query its relevant documents, ids or grades by id; queries that are not among them are left out.
        settings: what to compare; `default_settings` when None. Every vector in float32 is always measured first.
        k: how many documents count.
        floor: share that must be kept, from 0 to 1.
        exclude_same_id: leave a query's own id out, where queries and documents are one table.
        calibration: vectors to find the ranges of int8 on; the documents when None.
        timed: queries that are searched one at a time, for the time that takes.
        show_progress_bar: show one, in settings.

    Returns:
        The report.

    Raises:
        DataError: no query has a judgement, no documents, or vectors of different models.
        ValueError: settings that do not go with the documents, or a number out of range.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
        >>> rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        >>> vectors = Embeddings([f"{row}" for row in range(60)], rows)
        >>> report = fit_report(vectors, vectors, settings=[IndexSettings("binary"), IndexSettings("flat", "int8")])
        >>> [f"{row.settings}: {row.kept > 0.9}" for row in report.rows]
        ['flat, float32: True', 'binary: False', 'flat, int8: True']
        >>> report.check(report.rows[1])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmembed.search.fit_report.FitError: binary keeps ... of overlap@10 (n = 60), at least 95.0% must be kept; ...
    """
    if k < 1 or not 0 <= floor <= 1 or timed < 1:
        raise ValueError(f"k={k}, floor={floor}, timed={timed}; at least 1, from 0 to 1, at least 1")
    ids = _judged(queries, documents, qrels)
    vectors = np.ascontiguousarray(queries.vectors[queries.rows(ids)], dtype=np.float32)
    wanted = list(settings if settings is not None else default_settings(len(documents), vectors.shape[1]))
    wanted = [IndexSettings("flat"), *(one for one in wanted if one != IndexSettings("flat"))]
    for one in wanted:
        one.filled(len(documents), vectors.shape[1])  # what does not go is said before the work
    if any("int8" in (one.precision, one.rescore) for one in wanted):
        import sentence_transformers.util  # noqa: F401  # takes seconds, which are no part of building
    rows: list[FitRow] = []
    exact: list[dict[str, float]] = []
    of_exact = np.zeros(0)
    for one in tqdm(wanted, desc="fit", unit="index", disable=not show_progress_bar):
        start = time.perf_counter()
        of_int8 = calibration if "int8" in (one.precision, one.rescore) else None
        index = Index.build(documents, kind=one.kind, calibration=of_int8, **one.parameters())
        built = time.perf_counter() - start
        found = _found(index, ids, vectors, k, exclude_same_id)
        exact = exact or found
        values = _values(ids, found, exact, qrels, k)
        of_exact = of_exact if len(rows) else values
        difference = paired_bootstrap(values, of_exact)
        whole = float(of_exact.mean())
        kept, low, high = (
            1 + change / whole if whole else float("nan")
            for change in (difference.mean, difference.low, difference.high)
        )
        times = _milliseconds(index, vectors[:timed], k)
        in_memory, mapped = index.bytes_per_vector()
        rows.append(
            FitRow(
                settings=index.settings,
                kept=kept,
                low=low,
                high=high,
                value=float(values.mean()),
                n=len(ids),
                memory_bytes=in_memory,
                mapped_bytes=mapped,
                build_seconds=built,
                p50_ms=float(np.quantile(times, 0.5)),
                p95_ms=float(np.quantile(times, 0.95)),
                timed=len(times),
            )
        )
    measure = f"overlap@{k}" if qrels is None else f"ndcg@{k}"
    return FitReport(tuple(rows), measure, len(documents), floor, documents.manifest.get("model"))


def _judged(queries: Embeddings, documents: Embeddings, qrels: Qrels | None) -> list[str]:
    """The queries that are measured."""
    if not len(documents) or not len(queries):
        raise DataError(f"{len(queries)} queries and {len(documents)} documents; a fit is measured on some of each")
    for field in ("model_fingerprint", "model", "revision"):
        own, others = queries.manifest.get(field), documents.manifest.get(field)
        if own is not None and others is not None and own != others:
            raise DataError(f"queries of {own!r}, documents of {others!r}; encode both with one model", field=field)
    if queries.vectors.shape[1] != documents.vectors.shape[1]:
        widths = f"{queries.vectors.shape[1]} and {documents.vectors.shape[1]}"
        raise DataError(f"queries and documents of {widths} dimensions; encode both with one model")
    if qrels is None:
        return list(queries.ids)
    known = set(documents.ids)
    ids = [one for one in queries.ids if any(_grade(qrels[one], document) for document in qrels.get(one, ()))]
    if not ids:
        raise DataError(f"none of {len(queries)} queries has a judgement; look at the ids of queries and judgements")
    if not any(document in known for one in ids for document in qrels[one]):
        raise DataError("no judged document is among those that are searched; look at the ids of both")
    return ids


def _grade(judged: Any, document: str) -> int:
    return int(judged[document]) if isinstance(judged, Mapping) else 1


def _found(index: Index, ids: list[str], vectors: np.ndarray, k: int, exclude_same_id: bool) -> list[dict[str, float]]:
    found = index.search(vectors, k + exclude_same_id)
    if not exclude_same_id:
        return found
    others = [{other: score for other, score in some.items() if other != one} for one, some in zip(ids, found)]
    return [dict(list(some.items())[:k]) for some in others]


def _values(
    ids: list[str], found: list[dict[str, float]], exact: list[dict[str, float]], qrels: Qrels | None, k: int
) -> np.ndarray:
    """(n,) what each query has of the measure."""
    if qrels is None:
        return np.array([len(set(some) & set(best)) / max(1, len(best)) for some, best in zip(found, exact)])
    name = f"ndcg@{k}"
    return ranking_metrics(dict(zip(ids, found)), {one: qrels[one] for one in ids}, [name])[name]


def _milliseconds(index: Index, vectors: np.ndarray, k: int) -> list[float]:
    index.search(vectors[:1], k)
    times = []
    for row in range(len(vectors)):
        start = time.perf_counter()
        index.search(vectors[row : row + 1], k)
        times.append(1000 * (time.perf_counter() - start))
    return times
