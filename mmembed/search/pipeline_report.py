"""What does each stage of a search add, and what does it cost? Figures beside those of the stage before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from mmembed.pages import markdown_table, text_table
from mmembed.ranking_metrics import Qrels, ranking_metrics
from mmembed.search.filters import Filters
from mmembed.search.hits import Stage, hits_of
from mmembed.search.queries import as_query, query_key
from mmembed.statistics import Interval, PairedDifference, bootstrap_interval, paired_bootstrap

if TYPE_CHECKING:
    from mmembed.search.pipeline import SearchPipeline

_WARM_UP = 3  # queries that are searched before the clock counts


@dataclass(frozen=True)
class StageFigures:
    """One stage's figures.

    Args:
        stage: its name.
        metrics: the mean of each metric over the queries, with its interval.
        difference: of the first metric, this stage minus the one before; None for the first stage.
        p50, p95: milliseconds that this stage takes for one query; of the first with rewriting and filtering, of "dense" with
            encoding.
        total_p50, total_p95: milliseconds from the query to the end of this stage.
    """

    stage: str
    metrics: Mapping[str, Interval]
    difference: PairedDifference | None
    p50: float
    p95: float
    total_p50: float
    total_p95: float


@dataclass(frozen=True)
class PipelineReport:
    """The stages of a pipeline on judged queries.

    Args:
        stages: in their order.
        values: for each stage and metric an (n,) array in the order of `query_ids`.
        query_ids: the queries.
        fusion: how words and vectors were fused; None without a fusion.
        notes: what is to be said of the figures.
    """

    stages: Sequence[StageFigures]
    values: Mapping[str, Mapping[str, np.ndarray]]
    query_ids: Sequence[str]
    fusion: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    @property
    def n(self) -> int:
        """Queries."""
        return len(self.query_ids)

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of the table."""
        names = list(self.stages[0].metrics)
        header = ["stage", *(f"{name} [95 %]" for name in names), f"{names[0]} − stage before [95 %]"]
        header += ["p50 ms", "p95 ms", "p50 ms so far", "p95 ms so far", "n"]
        rows: list[list[Any]] = []
        for figures in self.stages:
            cells = [f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in figures.metrics.values()]
            gain = figures.difference
            cells.append("" if gain is None else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            times = (figures.p50, figures.p95, figures.total_p50, figures.total_p95)
            rows.append([figures.stage, *cells, *(f"{time:.1f}" for time in times), self.n])
        return header, rows

    def __str__(self) -> str:
        header, rows = self.rows()
        return "\n".join([text_table(rows, header), *self.notes])

    def markdown(self) -> str:
        """The table for a page."""
        header, rows = self.rows()
        return "\n".join([markdown_table(rows, header), "", *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the values of single queries."""
        stages = [asdict(figures) for figures in self.stages]
        fusion = None if self.fusion is None else dict(self.fusion)
        return {"n": self.n, "stages": stages, "fusion": fusion, "notes": list(self.notes)}


def measure_pipeline(
    pipeline: SearchPipeline,
    queries: Mapping[str, Any],
    qrels: Qrels,
    *,
    metrics: Sequence[str] = ("ndcg@10",),
    filters: Filters | None = None,
    samples: int = 2000,
    seed: int = 0,
    clusters: Mapping[str, str] | None = None,
    allow_fitted_queries: bool = False,
    show_progress_bar: bool = False,
) -> PipelineReport:
    """Search with each judged query alone, as a person would, and score and time every stage.

    Ties count against a stage: a relevant document stands behind the others of its score. "The stage before" is the row
    above; that of "dense" is "lexical", though neither builds on the other.

    Args:
        pipeline: what is measured.
        queries: by id, as `SearchPipeline.search` takes them; those without judgements are left out, and noted.
        qrels: for each judged query its relevant documents, see `mmembed.ranking_metrics.ranking_metrics`.
        metrics: what is computed; intervals of all, the difference of the first.
        filters: as of `SearchPipeline.search`.
        samples: resamples of the intervals.
        seed: seed of the resampling.
        clusters: for each query a label; queries of one label depend on each other and are resampled together.
        allow_fitted_queries: measure although these queries chose the weights of the fusion; it is noted.
        show_progress_bar: show one.

    Returns:
        The figures.

    Raises:
        ValueError: no judged query, a judged one that is not there, or queries that the fusion was learned on.

    Example:
        >>> from mmembed.search.lexical import LexicalIndex
        >>> from mmembed.search.pipeline import SearchPipeline
        >>> pipeline = SearchPipeline(lexical=LexicalIndex.build(["a", "b"], ["red hat", "blue hat"]))
        >>> report = measure_pipeline(pipeline, {"q": "red"}, {"q": ["a"]})
        >>> report.stages[0].metrics["ndcg@10"].mean, report.n
        (1.0, 1)
    """
    if not qrels:
        raise ValueError("no judged queries; give at least one")
    missing = [id for id in qrels if id not in queries]
    if missing:
        raise ValueError(f"{len(missing)} judged queries are not among the queries, such as {missing[0]!r}")
    ids = list(qrels)
    asked = [as_query(queries[id], number) for number, id in enumerate(ids)]
    notes = [f"n = {len(ids)} queries; intervals by bootstrap over queries, seed {seed}; ties count against a stage."]
    if len(queries) > len(ids):
        notes.append(f"{len(queries) - len(ids)} queries without judgements were left out.")
    fuses = pipeline.lexical is not None and (pipeline.index is not None or pipeline.vectors is not None)
    fitted = pipeline.fusion.fitted_on if fuses else None
    if fitted is not None:
        seen = sum(query_key(query) in set(fitted.query_keys) for query in asked)
        if seen and not allow_fitted_queries:
            raise ValueError(
                f"the fusion was learned on {seen} of these {len(ids)} queries; measure on others, or say "
                "allow_fitted_queries=True"
            )
        what = f"Fusion chosen among {fitted.tried} by {fitted.metric} on {len(fitted.query_keys)} other queries"
        notes.append(f"{what}, {seen} of them measured here." if seen else f"{what}.")
    depth = max([10, *(int(name.partition("@")[2]) for name in metrics if "@" in name)])
    for query in asked[:_WARM_UP]:
        pipeline.stages([query], depth, filters=filters)
    runs: dict[str, dict[str, dict[str, float]]] = {}
    seconds: dict[str, list[float]] = {}
    for id, query in zip(tqdm(ids, desc="measure", unit="query", disable=not show_progress_bar), asked):
        stages = pipeline.stages([query], depth, filters=filters)
        for number, stage in enumerate(stages, 1):
            runs.setdefault(stage.name, {})[id] = _run(stages[:number])
            seconds.setdefault(stage.name, []).append(stage.seconds)
    labels = None if clusters is None else [clusters[id] for id in ids]
    drawn: dict[str, Any] = {"samples": samples, "seed": seed, "clusters": labels}
    values = {name: ranking_metrics(run, qrels, list(metrics)) for name, run in runs.items()}
    figures = []
    total = np.zeros(len(ids))
    before: np.ndarray | None = None
    for name in runs:
        own = values[name]
        took = 1000 * np.array(seconds[name])
        total = total + took
        first = own[metrics[0]]
        difference = None if before is None else paired_bootstrap(first, before, **drawn)
        means = {metric: bootstrap_interval(own[metric], **drawn) for metric in metrics}
        times = [float(np.percentile(some, share)) for some in (took, total) for share in (50, 95)]
        figures.append(StageFigures(name, means, difference, *times))
        before = first
    fusion = pipeline.fusion.as_dict() if fuses else None
    return PipelineReport(figures, values, ids, fusion, notes)


def _run(stages: Sequence[Stage]) -> dict[str, float]:
    """One query's documents with scores that fall where the stage tells them apart, and only there."""
    run: dict[str, float] = {}
    place, last = 0, None
    for hit in hits_of(stages, 0, len(stages[-1].order(0))):
        place -= (hit.stage, hit.score) != last
        last = (hit.stage, hit.score)
        run[hit.id] = float(place)
    return run
