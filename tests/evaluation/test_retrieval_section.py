"""A retrieval as a section: the evaluator's numbers, taken apart by label, and the queries that went wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mmembed.evaluation.hit_sheets import worst_first
from mmembed.evaluation.ranking import rank_retrieval
from mmembed.evaluation.report_numbers import measured, measured_one
from mmembed.evaluation.retrieval import evaluate_retrieval
from mmembed.evaluation.retrieval_section import retrieval_differences, retrieval_section
from mmembed.evaluation.sections import HitList
from mmembed.images import ImageReader
from mmembed.statistics import bootstrap_interval, paired_bootstrap

N = 60


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (value, 90, 90)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def items() -> Dataset:
    rows: dict[str, Any] = {
        "id": [f"i{row}" for row in range(N)],
        "text": [f"text {row}" for row in range(N)],
        "language": [["en", "ru", None][row % 3] for row in range(N)],
        "Тип товара": [["a", "b"][row % 2] for row in range(N)],
        "image": [{"bytes": png(row), "path": None} for row in range(N)],
    }
    return Dataset.from_dict(rows)


def pair(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(N, 24))
    arrays = base, base + noise * draw.normal(size=base.shape)
    return arrays[0] / np.linalg.norm(arrays[0], axis=1, keepdims=True), arrays[1] / np.linalg.norm(
        arrays[1], axis=1, keepdims=True
    )


def test_the_numbers_are_those_of_the_evaluator(items: Dataset) -> None:
    arrays = pair(1.5)
    section = retrieval_section(rank_retrieval(arrays, items, items), items, items, bootstrap_samples=200, seed=3)
    assert section.metrics == evaluate_retrieval(arrays, items, items, bootstrap_samples=200, seed=3)
    assert section.primary == "text_to_image_recall@1" and 0.05 < section.metrics[section.primary] < 0.95
    assert section.figures[0].png[1:4] == b"PNG" and len(section.figures[0].table.rows) == 8


def test_each_label_has_its_own_numbers_and_its_n(items: Dataset) -> None:
    arrays = pair(1.5)
    rankings = rank_retrieval(arrays, items, items)
    section = retrieval_section(
        rankings, items, items, label_columns=["language", "Тип товара", "gone"], bootstrap_samples=200
    )
    assert [table.name for table in section.tables] == ["by-language", "by-2"]
    scores = arrays[0] @ arrays[1].T
    ranks = (scores >= np.diag(scores)[:, None]).sum(axis=1)
    for label, *cells in section.tables[0].rows:
        own = np.array([(one or "(none)") == label for one in items["language"]])
        interval = bootstrap_interval((ranks[own] == 1).astype(float), samples=200)
        assert cells == pytest.approx(
            [interval.mean, interval.low, interval.high, (ranks[own] <= 10).mean(), (1 / ranks[own]).mean(), own.sum()]
        )
    assert sum(int(row[-1] or 0) for row in section.tables[0].rows) == N


def test_hit_lists_are_the_worst_queries_with_what_was_found_instead(items: Dataset) -> None:
    arrays = pair(1.5)
    section = retrieval_section(
        rank_retrieval(arrays, items, items), items, items, reader=ImageReader(), max_hit_lists=12, bootstrap_samples=0,
        label_columns=["language"],
    )  # fmt: skip
    scores = arrays[0] @ arrays[1].T
    ranks = {f"i{row}": int(rank) for row, rank in enumerate((scores >= np.diag(scores)[:, None]).sum(axis=1))}
    assert len(section.hits) == 12 and "12 of 60 queries" in " ".join(section.notes)
    shown = [one.first_rank for one in section.hits]
    assert shown == sorted(shown, reverse=True) and shown[:8] == sorted(ranks.values(), reverse=True)[:8]  # type: ignore[type-var]
    for one in section.hits:
        assert one.first_rank == ranks[one.query_id]
        row = int(one.query_id[1:])
        best = np.argsort(-scores[row])[:10]
        assert [hit.id for hit in one.hits] == [f"i{place}" for place in best]
        assert [hit.relevant for hit in one.hits] == [place == row for place in best]
        assert one.text == f"text {row}" and one.image is None  # the query is its text alone
        assert all(hit.image for hit in one.hits)
        assert one.labels == ({"language": items["language"][row]} if items["language"][row] else {})
    backward = rank_retrieval(arrays, items, items, directions="backward")
    by_image = retrieval_section(backward, items, items, reader=ImageReader(), bootstrap_samples=0).hits[0]
    assert by_image.text is None and by_image.image is not None


def test_two_models_are_compared_query_by_query(items: Dataset) -> None:
    rankings = [rank_retrieval(pair(noise), items, items) for noise in (2.5, 1.0)]
    differences = retrieval_differences(*rankings, bootstrap_samples=300, seed=1)
    old, new = (one["backward"].per_query(["recall@5"])["recall@5"] for one in rankings)
    assert differences["image_to_text_recall@5"] == paired_bootstrap(new, old, samples=300, seed=1)
    assert differences["text_to_image_recall@1"].mean > 0
    section = retrieval_section(rankings[1], items, items, before=rankings[0], bootstrap_samples=0)
    ranks = [dict(zip(one["forward"].query_ids, one["forward"].first_ranks().tolist())) for one in rankings]
    for one in section.hits:
        before, after = (each[one.query_id] for each in ranks)
        wanted = "better than before" if after < before else "worse than before" if after > before else "as before"
        assert one.labels["change"] == wanted
    fewer = items.select(range(N - 1))
    arrays = tuple(array[: N - 1] for array in pair(1.0))
    with pytest.raises(ValueError, match="not of the same queries"):
        retrieval_differences(rankings[0], rank_retrieval(arrays, fewer, fewer))


def test_worst_first_keeps_the_worst_and_some_that_went_well() -> None:
    lists = [HitList(str(rank), [], rank or None) for rank in range(100)]
    assert worst_first(lists) == worst_first(lists, 100) == [lists[0], *reversed(lists[1:])]
    kept = worst_first(lists, 30)
    assert len({one.query_id for one in kept}) == 30
    assert kept[:20] == worst_first(lists)[:20] and kept[-1] == lists[1]
    assert worst_first(lists, 0) == [] and worst_first([], 5) == []


def test_a_number_finds_the_n_that_is_nearest_by_its_name() -> None:
    metrics = {
        "mean": 0.5,
        "a_b_f1": 0.1,
        "a_b_f1_low": 0.0,
        "a_n": 7.0,
        "a_b_f1_n": 9.0,
        "c_f1": 0.3,
        "c_n": 12.0,
        "x_low": 1.0,
    }
    found = {one.name: (one.n, one.n_most, one.low) for one in measured(metrics)}
    assert found == {"mean": (7, 12, None), "a_b_f1": (9, None, 0.0), "c_f1": (12, None, None), "x_low": (7, 12, None)}
    assert measured_one("f1", {"f1": 0.5}).n is None and measured_one("f1", {"f1": 0.5}).shown_n() == "not given"
    assert measured_one("a_f1", {"a_f1": 0.5, "n": 3.0}).n == 3
    with pytest.raises(ValueError, match="'f2' is not among the metrics f1"):
        measured_one("f2", {"f1": 0.5})


def test_with_several_right_documents_success_is_what_counts() -> None:
    """Recall@1 of a query with two right documents cannot pass one half, however good the model is."""
    asked, found = {"id": ["a"], "kind": ["x"]}, {"id": ["a1", "a2", "b"]}
    vectors = np.array([[1.0, 0]]), np.array([[1.0, 0], [0.9, 0.1], [0, 1.0]])
    rankings = rank_retrieval(vectors, asked, found, {"a": ["a1", "a2"]}, directions="forward")
    section = retrieval_section(rankings, asked, found, label_columns=["kind"], ks=(1, 3), bootstrap_samples=0)
    assert section.primary == "text_to_image_success@1" and section.metrics[section.primary] == 1.0
    assert section.metrics["text_to_image_recall@1"] == 0.5
    assert "success@1" in section.tables[0].header and any("R@k" in note for note in section.notes)
    assert {row[1] for row in section.figures[0].table.rows} == {
        f"{kind}@{k}" for kind in ("success", "recall") for k in (1, 3)
    } | {"mrr"}
    assert retrieval_differences(rankings, rankings, bootstrap_samples=10).keys() >= {
        "text_to_image_success@1",
        "text_to_image_recall@1",
    }
