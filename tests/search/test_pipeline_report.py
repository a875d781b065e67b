"""The stage table against metrics computed from `search`, and what it refuses."""

from __future__ import annotations

import time

import numpy as np
import pytest
from datasets import Dataset

pytest.importorskip("bm25s")

from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.ranking_metrics import ranking_metrics
from mmembed.search.fusion_fit import fit_pipeline_fusion
from mmembed.search.hits import Stage
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.pipeline_report import _run, measure_pipeline
from mmembed.statistics import bootstrap_interval, paired_bootstrap
from tests.tiny_models import WORDS, tiny_dual_encoder

IDS = [f"item{number:02d}" for number in range(len(WORDS))]
ITEMS = Dataset.from_dict({"id": IDS, "text": WORDS})
QUERIES = {f"q{number}": f"word{number} red" for number in range(12)}
QRELS = {f"q{number}": [IDS[number]] for number in range(12)}


class Slow:
    """A reranker that takes twenty milliseconds and turns the order round."""

    def predict(self, pairs, **options) -> np.ndarray:
        time.sleep(0.02)
        return np.arange(len(pairs), dtype=float)


@pytest.fixture(scope="module")
def pipeline() -> SearchPipeline:
    model = tiny_dual_encoder()
    vectors = Embeddings(IDS, encode_items(model, ITEMS))
    return SearchPipeline(
        lexical=LexicalIndex.build(IDS, WORDS),
        vectors=vectors,
        model=model,
        reranker=Slow(),
        items=ITEMS,
        rerank_depth=5,
    )


def test_figures_are_those_of_the_stages(pipeline: SearchPipeline) -> None:
    report = measure_pipeline(pipeline, QUERIES, QRELS, metrics=["ndcg@10", "success@1"])
    assert [figures.stage for figures in report.stages] == ["lexical", "dense", "fused", "reranked"] and report.n == 12
    stages = {stage.name: stage for stage in pipeline.stages(list(QUERIES.values()))}
    before = None
    for figures in report.stages:
        run = {query: stages[figures.stage].order(number) for number, query in enumerate(QUERIES)}
        if figures.stage in ("lexical", "dense"):  # by scores: ties count against it
            run = {query: stages[figures.stage].rankings[number] for number, query in enumerate(QUERIES)}
        values = ranking_metrics(run, QRELS, ["ndcg@10", "success@1"])
        if figures.stage != "fused":
            assert figures.metrics["ndcg@10"] == bootstrap_interval(values["ndcg@10"])
            assert figures.metrics["success@1"] == bootstrap_interval(values["success@1"])
        measured = report.values[figures.stage]["ndcg@10"]
        if before is not None:
            assert figures.difference == paired_bootstrap(measured, before)
        before = measured
    assert report.stages[0].difference is None
    # the search's own order and the table's agree
    hits = pipeline.search(list(QUERIES.values()))
    run = {query: [hit.id for hit in own] for query, own in zip(QUERIES, hits)}
    assert report.values["reranked"]["ndcg@10"] == pytest.approx(ranking_metrics(run, QRELS, ["ndcg@10"])["ndcg@10"])


def test_times_are_of_one_query_and_add_up(pipeline: SearchPipeline) -> None:
    report = measure_pipeline(pipeline, QUERIES, QRELS)
    by_name = {figures.stage: figures for figures in report.stages}
    assert 20 <= by_name["reranked"].p50 <= by_name["reranked"].p95 < 500
    assert by_name["fused"].p50 < 20 <= by_name["reranked"].total_p50
    totals = [figures.total_p50 for figures in report.stages]
    assert totals == sorted(totals) and by_name["lexical"].total_p50 == by_name["lexical"].p50


def test_the_table_says_n_and_every_stage(pipeline: SearchPipeline) -> None:
    report = pipeline.measure(QUERIES, QRELS)
    lines = str(report).splitlines()
    assert (
        lines[0].split()
        == "stage ndcg@10 [95 %] ndcg@10 − stage before [95 %] p50 ms p95 ms p50 ms so far p95 ms so far n".split()
    )
    assert [line.split()[0] for line in lines[2:6]] == ["lexical", "dense", "fused", "reranked"]
    assert all(line.split()[-1] == "12" for line in lines[2:6]) and lines[6].startswith("n = 12 queries")
    assert report.markdown().count("|") == 9 * 6 and report.as_dict()["stages"][3]["difference"]["n"] == 12


def test_ties_count_against_a_stage() -> None:
    first = Stage("fused", [{"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.5}], 0.0)
    assert _run([first]) == {"a": -1, "b": -2, "c": -2, "d": -3}
    # behind what was reranked stands the rest, whatever its scores were
    second = Stage("reranked", [{"b": -7.0, "a": -9.0}], 0.0, [["b", "a", "c", "d"]])
    assert _run([first, second]) == {"b": -1, "a": -2, "c": -3, "d": -4}


def test_a_fusion_is_not_judged_by_the_queries_that_chose_it(pipeline: SearchPipeline) -> None:
    validation = {id: QUERIES[id] for id in list(QUERIES)[:6]}
    fit = fit_pipeline_fusion(pipeline, QUERIES, {id: QRELS[id] for id in validation})
    assert fit.n == 6 and set(fit.alone) == {"lexical", "dense"}
    learned = SearchPipeline(
        lexical=pipeline.lexical, vectors=pipeline.vectors, model=pipeline.model, fusion=fit.fusion
    )
    with pytest.raises(ValueError, match="learned on 6 of these 12 queries"):
        measure_pipeline(learned, QUERIES, QRELS)
    # the same text under another id is the same query
    with pytest.raises(ValueError, match="learned on 1 of these 1 queries"):
        measure_pipeline(learned, {"new": QUERIES["q0"]}, {"new": ["item00"]})
    test = {id: QRELS[id] for id in list(QUERIES)[6:]}
    assert "on 6 other queries." in str(measure_pipeline(learned, QUERIES, test))
    forced = measure_pipeline(learned, QUERIES, QRELS, allow_fitted_queries=True)
    assert "6 of them measured here" in str(forced)


def test_what_is_refused(pipeline: SearchPipeline) -> None:
    with pytest.raises(ValueError, match="no judged queries"):
        measure_pipeline(pipeline, QUERIES, {})
    with pytest.raises(ValueError, match="such as 'q99'"):
        measure_pipeline(pipeline, QUERIES, {**QRELS, "q99": ["item00"]})
    with pytest.raises(ValueError, match="nothing to fuse"):
        fit_pipeline_fusion(SearchPipeline(lexical=pipeline.lexical), QUERIES, QRELS)
    report = measure_pipeline(pipeline, QUERIES, {"q0": QRELS["q0"]})
    assert "11 queries without judgements were left out." in report.notes and report.n == 1
