"""Which fusion is best on validation queries?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from tqdm.auto import tqdm

from mmembed.ranking_metrics import Qrels, ranking_metrics
from mmembed.search.fusion import FittedOn, Fusion, Method, Ranking
from mmembed.search.queries import as_query, query_key

if TYPE_CHECKING:
    from mmembed.search.pipeline import SearchPipeline

_KS = (10.0, 60.0)


@dataclass(frozen=True)
class FusionFit:
    """A learned fusion and what it was chosen among.

    Args:
        fusion: the best, with `fitted_on` saying which queries chose it: `measure_pipeline` refuses to measure on them.
        metric: by which it was chosen.
        values: the metric's mean on the validation queries of each fusion that was tried, in the order of trying.
        alone: the same of each ranking by itself.
        n: validation queries.
    """

    fusion: Fusion
    metric: str
    values: Sequence[tuple[Fusion, float]]
    alone: Mapping[str, float]
    n: int

    @property
    def value(self) -> float:
        """The metric's mean of the chosen fusion; the highest of many, so too high an estimate for other queries."""
        return next(value for fusion, value in self.values if fusion == replace(self.fusion, fitted_on=None))


def fit_fusion(
    runs: Mapping[str, Mapping[str, Ranking]],
    qrels: Qrels,
    *,
    metric: str = "ndcg@10",
    methods: Sequence[Method] = ("rrf", "min_max", "z_score"),
    step: float = 0.1,
    query_keys: Mapping[str, str] | None = None,
    show_progress_bar: bool = False,
) -> FusionFit:
    """Try all fusions of a grid on validation queries and take the best.

    The grid: the methods; of "rrf" k = 10 and 60; weights that are multiples of `step` and sum to 1, equal ones among them.
    Of equally good fusions the first is taken, and reciprocal ranks with equal weights come first.

    Args:
        runs: by name ("lexical", "dense"), for each validation query its documents' scores, best first.
        qrels: for each validation query its relevant documents, see `mmembed.ranking_metrics.ranking_metrics`.
        metric: what is made as high as possible.
        methods: which methods are tried.
        step: between two weights, from 0 to 1.
        query_keys: for each query what it is recognised by later (`query_key` of its content); None: its id.
        show_progress_bar: show one.

    Returns:
        The best and all others.

    Raises:
        ValueError: fewer than two runs, runs of other queries than are judged, or an unknown method.

    Example:
        >>> words = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 2.0, "a": 1.9}}
        >>> vectors = {"q1": {"b": 0.9, "a": 0.3}, "q2": {"a": 0.9, "b": 0.2}}
        >>> fit = fit_fusion({"lexical": words, "dense": vectors}, {"q1": ["a"], "q2": ["a"]}, methods=["z_score"])
        >>> round(fit.alone["lexical"], 3), round(fit.value, 3), fit.n
        (0.815, 0.815, 2)
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run ({', '.join(runs)}); a fusion is of at least two")
    if not 0 < step <= 1:
        raise ValueError(f"step={step}; it lies between 0 and 1")
    for method in methods:
        if method not in get_args(Method):
            Fusion(method)  # raises, with the nearest name
    names = list(runs)

    def value_of(run: Mapping[str, Ranking]) -> float:
        return float(ranking_metrics(run, qrels, [metric])[metric].mean())

    alone = {name: value_of(run) for name, run in runs.items()}
    tried: list[tuple[Fusion, float]] = []
    grid = list(_grid(names, methods, step))
    for fusion in tqdm(grid, desc="fit fusion", unit="fusion", disable=not show_progress_bar):
        fused = {query: fusion.fuse({name: runs[name][query] for name in names}) for query in qrels}
        tried.append((fusion, value_of(fused)))
    best = max(tried, key=lambda pair: pair[1])[0]  # the first of the highest
    keys = tuple(sorted(query if query_keys is None else query_keys[query] for query in qrels))
    chosen = replace(best, fitted_on=FittedOn(keys, metric, len(tried)))
    return FusionFit(chosen, metric, tuple(tried), alone, len(qrels))


def fit_pipeline_fusion(
    pipeline: SearchPipeline,
    queries: Mapping[str, Any],
    qrels: Qrels,
    *,
    filters: Mapping[str, Any] | None = None,
    **options: Any,
) -> FusionFit:
    """`fit_fusion` of the words and vectors of a pipeline; set `pipeline.fusion` to what comes out.

    Args:
        pipeline: one with words and vectors.
        queries: validation queries by id, as `SearchPipeline.search` takes them; those that are judged are used.
        qrels: for each its relevant documents.
        filters: as of `SearchPipeline.search`.
        options: further arguments of `fit_fusion`.

    Returns:
        The fit.

    Raises:
        ValueError: the pipeline lacks one of both, or a judged query is not there.
    """
    if pipeline.lexical is None or (pipeline.index is None and pipeline.vectors is None):
        raise ValueError("this pipeline has words or vectors alone; there is nothing to fuse")
    missing = [id for id in qrels if id not in queries]
    if missing:
        raise ValueError(f"{len(missing)} judged queries are not among the queries, such as {missing[0]!r}")
    asked = [as_query(queries[id], number) for number, id in enumerate(qrels)]
    words, vectors = pipeline.stages(asked, filters=filters, rerank=False)[:2]
    runs = {stage.name: dict(zip(qrels, stage.rankings, strict=True)) for stage in (words, vectors)}
    keys = {id: query_key(query) for id, query in zip(qrels, asked, strict=True)}
    return fit_fusion(runs, qrels, query_keys=keys, **options)


def _grid(names: Sequence[str], methods: Sequence[Method], step: float) -> Iterator[Fusion]:
    equal: dict[str, float] = dict.fromkeys(names, 1.0)
    parts = round(1 / step)
    # Weights that sum to 1 are the gaps between bars among parts + bars places.
    weights = []
    for bars in combinations(range(parts + len(names) - 1), len(names) - 1):
        edges = np.array([-1, *bars, parts + len(names) - 1])
        weights.append({name: float(gap - 1) / parts for name, gap in zip(names, np.diff(edges).tolist())})
    for method in sorted(methods, key=lambda method: method != "rrf"):
        for k in (60.0, *(k for k in _KS if k != 60.0)) if method == "rrf" else (60.0,):
            yield Fusion(method, equal, k)
            for some in weights:
                if len(set(some.values())) > 1:
                    yield Fusion(method, some, k)
