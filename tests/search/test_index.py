"""An index: brute force over what it holds, with ties, filters, changes and files, in every kind."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search import index_kinds
from mmembed.search.index import Index

pytest.importorskip("faiss")

DIM = 24
KINDS: dict[str, dict[str, Any]] = {
    "flat": {"kind": "flat"},
    "flat float16": {"kind": "flat", "precision": "float16"},
    "flat int8": {"kind": "flat", "precision": "int8"},
    "ivf": {"kind": "ivf", "lists": 12, "probes": 12},
    "ivf int8": {"kind": "ivf", "precision": "int8", "lists": 12, "probes": 12},
    "hnsw": {"kind": "hnsw", "ef_search": 400},
    "hnsw float16": {"kind": "hnsw", "precision": "float16", "ef_search": 400},
    "pq": {"kind": "pq", "segments": 12},
    "ivf_pq": {"kind": "ivf_pq", "lists": 12, "probes": 12, "segments": 12},
    "binary": {"kind": "binary"},
    "binary signs": {"kind": "binary", "rescore": "signs"},
    "binary int8": {"kind": "binary", "rescore": "int8", "oversample": 3},
    "flat truncated": {"kind": "flat", "truncate_dim": 10},
    "flat truncated float32": {"kind": "flat", "truncate_dim": 10, "rescore": "float32", "oversample": 20},
}
EXACT = [name for name in KINDS if not name.startswith(("ivf", "hnsw"))]


def unit(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


# Some stand several times, so that there are ties, and one is of zeros; ids are in no order.
DOCUMENTS = np.concatenate([unit(380, 1), np.repeat(unit(12, 2), 9, axis=0), np.zeros((1, DIM), np.float32)])
IDS = [f"d{number:03d}" for number in np.random.default_rng(3).permutation(len(DOCUMENTS)).tolist()]
QUERIES = np.concatenate([unit(30, 4), DOCUMENTS[380::9][:12] + 0.05 * unit(12, 5)]).astype(np.float32)
MADE_BY = {"model": "mine", "model_fingerprint": "f" * 32, "revision": "r1", "use": "text"}
EMBEDDINGS = Embeddings(IDS, DOCUMENTS, MADE_BY)


def cut(vectors: np.ndarray, dim: int | None) -> np.ndarray:
    """The first dimensions, of length 1."""
    wide = vectors.astype(np.float64)[:, :dim]
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths == 0, 1, lengths)


def held(vectors: np.ndarray, options: dict[str, Any], of: np.ndarray = DOCUMENTS) -> np.ndarray | None:
    """What an index holds of vectors, by a way of its own; None where only FAISS knows."""
    wide = cut(vectors, options["truncate_dim"]).astype(np.float32) if "truncate_dim" in options else vectors
    precision = options.get("rescore") if options.get("rescore") != "signs" else None
    if precision:
        wide = vectors.astype(np.float32)
    precision = precision or options.get("precision", "float32")
    if options["kind"] == "binary" and options.get("rescore") in (None, "signs"):
        return np.where(wide > 0, 1, -1) / np.sqrt(wide.shape[1])
    if options["kind"] in ("pq", "ivf_pq"):
        return None
    if precision == "float16":
        return wide.astype(np.float16).astype(np.float64)
    if precision == "int8":
        low, high = of.min(axis=0), of.max(axis=0)
        steps = quantize_embeddings(wide, "uint8", ranges=np.stack([low, high]))
        return low + (steps.astype(np.float64) + 0.5) * (high - low) / 255
    return wide.astype(np.float64)


def compared(queries: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    if options["kind"] == "binary" and "rescore" not in options:
        return np.where(queries > 0, 1, -1) / np.sqrt(queries.shape[1])
    return cut(queries, None if options.get("rescore") in ("float32", "int8") else options.get("truncate_dim"))


def truth(queries: np.ndarray, options: dict[str, Any], ids=IDS, documents=DOCUMENTS) -> list[dict[str, float]] | None:
    """Scores of every document, best first, ties by id, as float32."""
    stored = held(documents, options)
    if stored is None:
        return None
    scores = (compared(queries, options) @ stored.T).round(12).astype(np.float32)
    return [dict(sorted(zip(ids, row.tolist()), key=lambda pair: (-pair[1], pair[0]))) for row in scores]


def first(scores: dict[str, float], k: int, allowed=None) -> dict[str, float]:
    return dict([pair for pair in scores.items() if allowed is None or pair[0] in allowed][:k])


def rounding(name: str) -> float:
    """FAISS and sentence-transformers round one in ten thousand numbers to neighbouring steps."""
    return 5e-3 if KINDS[name].get("precision") == "int8" else 2e-6


def same(found: dict[str, float], expected: dict[str, float], tolerance: float = 2e-6) -> bool:
    """The same scores in the same order, and the same ids but for those of one score (within rounding)."""
    if not np.allclose(list(found.values()), list(expected.values()), atol=tolerance):
        return False
    return all(a == b or abs(found[a] - expected[b]) < tolerance for a, b in zip(found, expected))


@pytest.fixture(scope="module")
def indexes() -> dict[str, Index]:
    return {name: Index.build(EMBEDDINGS, **options) for name, options in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("k", [1, 10, 600])
def test_what_is_found_is_what_brute_force_finds(name: str, k: int, indexes: dict[str, Index]) -> None:
    found = indexes[name].search(QUERIES, k)
    assert [len(one) for one in found] == [min(k, len(IDS))] * len(QUERIES)
    expected = truth(QUERIES, KINDS[name])
    if expected is None:
        expected = [
            dict(sorted(zip(IDS, row.tolist()), key=lambda pair: (-pair[1], pair[0])))
            for row in (cut(QUERIES, None) @ indexes[name]._parts.structure.block(0, 10**6).T).astype(np.float32)
        ]
    if "rescore" in KINDS[name] and k < 600:
        return  # only of candidates: in a test of its own
    if name in EXACT:
        assert all(same(a, first(b, k), rounding(name)) for a, b in zip(found, expected))
    else:
        last = [list(first(scores, k).values())[-1] - rounding(name) for scores in expected]
        good = [np.mean([scores[one] >= low for one in a]) for a, scores, low in zip(found, expected, last)]
        assert np.mean(good) > 0.98


@pytest.mark.parametrize("name", EXACT)
def test_equal_scores_stand_in_the_order_of_ids(name: str, indexes: dict[str, Index]) -> None:
    for k in (3, 10, 50):
        for scores in indexes[name].search(QUERIES, k):
            pairs = list(scores.items())
            assert pairs == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        # of the nine that are one vector the first by id are taken, wherever the cut falls
        for place, query in enumerate(QUERIES[30:]):
            nine = sorted(IDS[380 + 9 * place : 389 + 9 * place])
            found = [one for one in indexes[name].search(query[None], k)[0] if one in nine]
            assert found == nine[: len(found)] and found


@pytest.mark.parametrize("name", KINDS)
def test_a_pair_has_one_score_in_any_company_and_order(name: str, indexes: dict[str, Index]) -> None:
    together = indexes[name].search(QUERIES, 7)
    assert together == [indexes[name].search(query[None], 7)[0] for query in QUERIES]
    if name not in EXACT or "rescore" in KINDS[name]:
        return
    order = np.random.default_rng(0).permutation(len(IDS))
    shuffled = Index.build(Embeddings([IDS[row] for row in order], DOCUMENTS[order]), **KINDS[name])
    if name != "pq":  # learns from a sample in the order of the rows
        assert shuffled.search(QUERIES, 7) == together


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.98])
@pytest.mark.parametrize("few", [0, 2**14])
def test_a_filter_takes_nothing_away_from_k(name: str, share: float, few: int, indexes, monkeypatch) -> None:
    monkeypatch.setattr(index_kinds.Among, "few", few)
    chosen = np.random.default_rng(7).random(len(IDS)) < share
    allowed = {one for one, kept in zip(IDS, chosen.tolist()) if kept}
    for queries in (QUERIES, QUERIES[:2]):  # many at once, and few
        found = indexes[name].search(queries, 10, allowed=allowed | {"not there"})
        assert all(len(one) == min(10, len(allowed)) and set(one) <= allowed for one in found)
        expected = truth(queries, KINDS[name])
        exact = name in EXACT or few
        if expected is not None and exact and "rescore" not in KINDS[name]:
            assert all(same(a, first(b, 10, allowed), rounding(name)) for a, b in zip(found, expected))
    assert indexes[name].search(QUERIES, 3, allowed=set()) == [{}] * len(QUERIES)
    assert indexes[name].search(QUERIES, 3, allowed=["other"]) == [{}] * len(QUERIES)


@pytest.mark.parametrize("name", KINDS)
def test_a_filter_of_one_far_away_is_found(name: str, indexes: dict[str, Index], monkeypatch) -> None:
    monkeypatch.setattr(index_kinds.Among, "few", 0)
    if expected := truth(QUERIES, KINDS[name]):
        for query, scores in zip(QUERIES, expected):
            worst = list(scores)[-1]
            found = indexes[name].search(query[None], 5, allowed=[worst])[0]
            assert list(found) == [worst] and found[worst] == pytest.approx(scores[worst], abs=rounding(name))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threshold", [-2.0, 0.2, 0.45, 1.5])
def test_a_range_holds_all_that_reach_the_threshold(name: str, threshold: float, indexes: dict[str, Index]) -> None:
    allowed = set(IDS[::2])
    expected = truth(QUERIES, KINDS[name]) or indexes[name].search(QUERIES, len(IDS))
    found = indexes[name].range_search(QUERIES, threshold)
    filtered = indexes[name].range_search(QUERIES, threshold, allowed=allowed)
    for every, some, scores in zip(found, filtered, expected):
        clear = {one for one, score in scores.items() if score >= threshold + rounding(name)}
        near = {one for one, score in scores.items() if score >= threshold - rounding(name)}
        assert clear <= set(every) <= near and clear & allowed <= set(some) <= near & allowed
        assert list(every.items()) == sorted(every.items(), key=lambda pair: (-pair[1], pair[0]))
        assert all(abs(every[one] - scores[one]) < rounding(name) for one in every)


def test_a_score_that_is_the_threshold_is_in_the_range() -> None:
    shop = Embeddings(["a", "b", "c"], np.array([[0.6, 0.8], [1, 0], [0, 1]], dtype=np.float32))
    index = Index.build(shop)
    query = np.array([[0, 1]], dtype=np.float32)
    score = index.search(query)[0]["a"]
    assert list(index.range_search(query, score)[0]) == list(index.range_search(query, 0.8)[0]) == ["c", "a"]
    binary = Index.build(Embeddings(["a"], unit(1, 0, 9)), kind="binary")
    assert list(binary.range_search(unit(1, 0, 9), 1.0)[0]) == ["a"]


@pytest.mark.parametrize("name", KINDS)
def test_adding_and_removing_is_building(name: str, tmp_path) -> None:
    options = KINDS[name]
    index = Index.build(EMBEDDINGS, **options)
    extra = Embeddings([f"new{row}" for row in range(40)], unit(40, 9))
    index.add(extra.ids[:1], extra.vectors[:1], manifest=EMBEDDINGS.manifest)
    index.add(extra.ids[1:], np.asarray(extra.vectors[1:], dtype=np.float16))
    gone = [*IDS[5:60], *IDS[380:392], "new0", "new7"]
    index.remove(gone)
    index.remove([])
    left = [one for one in [*IDS, *extra.ids] if one not in set(gone)]
    assert index.ids == left and len(index) == len(left) and "new1" in index and "new0" not in index
    index.add(["new7"], extra.vectors[7:8])  # may come back
    left.append("new7")
    vectors = {**dict(zip(IDS, DOCUMENTS)), **dict(zip(extra.ids, extra.vectors))}
    for row in range(1, 40):
        vectors[f"new{row}"] = extra.vectors[row].astype(np.float16).astype(np.float32)
    vectors["new7"] = extra.vectors[7]
    documents = np.stack([vectors[one] for one in left])
    expected = truth(QUERIES, options, left, documents)
    for stage in (index, _saved(index, tmp_path)):
        assert stage.ids == left
        found = stage.search(QUERIES, len(left))
        assert all(len(one) == len(left) for one in found)
        if expected is not None:
            assert all(same(a, b, rounding(name)) for a, b in zip(found, expected))
        one = stage.search(extra.vectors[7:8], 1)[0] if options["kind"] != "binary" else {"new7": 1}
        assert list(one) == ["new7"]


def _saved(index: Index, tmp_path) -> Index:
    index.save(tmp_path / "index")
    return Index.load(tmp_path / "index")


@pytest.mark.parametrize("name", KINDS)
def test_saved_and_loaded_is_the_same(name: str, indexes: dict[str, Index], tmp_path) -> None:
    index = indexes[name]
    index.save(tmp_path / "index")
    for mapped in (False, True):
        if mapped and index.kind in ("ivf", "ivf_pq", "hnsw"):
            with pytest.raises(ValueError, match="memory_map=True serves"):
                Index.load(tmp_path / "index", memory_map=True)
            continue
        loaded = Index.load(
            tmp_path / "index", model="mine", revision="r1", dim=DIM, metric="cosine", memory_map=mapped
        )
        assert loaded.ids == index.ids and loaded.settings == index.settings and loaded.manifest == index.manifest
        assert loaded.search(QUERIES, 8) == index.search(QUERIES, 8)
        assert loaded.range_search(QUERIES, 0.3, allowed=IDS[:99]) == index.range_search(QUERIES, 0.3, allowed=IDS[:99])
        assert np.array_equal(loaded.vectors(IDS[:4]), index.vectors(IDS[:4]))
        if index.calibration is not None:
            assert np.array_equal(loaded.calibration.ranges, index.calibration.ranges)
            assert (loaded.calibration.count, loaded.calibration.source) == (len(IDS), MADE_BY)
    files = {path.name for path in (tmp_path / "index").iterdir()}
    kept = {"kept.npy"} if index.settings.rescore in ("float32", "int8") else set()
    assert files == {"manifest.json", "ids.jsonl", "index.faiss"} | kept | (
        {"ranges.npy"} if index.settings.rescore == "int8" else set()
    )


def test_a_mapped_index_is_not_changed(tmp_path, indexes: dict[str, Index]) -> None:
    indexes["flat"].save(tmp_path / "index")
    index = Index.load(tmp_path / "index", memory_map=True)
    with pytest.raises(ValueError, match="memory_map"):
        index.add(["x"], unit(1, 0))
    with pytest.raises(ValueError, match="memory_map"):
        index.remove(IDS[:1])
    index.save(tmp_path / "index")  # over the very files that it reads
    assert Index.load(tmp_path / "index").search(QUERIES, 3) == index.search(QUERIES, 3)


def test_saving_over_what_is_read_keeps_what_is_kept(tmp_path) -> None:
    index = Index.build(EMBEDDINGS, kind="binary", rescore="float32")
    index.save(tmp_path / "index")
    index = Index.load(tmp_path / "index")
    index.remove(IDS[:100])
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert index.search(QUERIES, 9) == again.search(QUERIES, 9) and np.array_equal(
        again.vectors(IDS[100:]), DOCUMENTS[100:]
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_candidates_are_scored_by_what_is_kept(precision: str) -> None:
    index = Index.build(EMBEDDINGS, kind="binary", rescore=precision, oversample=5)
    coarse = Index.build(EMBEDDINGS, kind="binary")
    stored = DOCUMENTS.astype(precision).astype(np.float64)
    for query, candidates, found in zip(QUERIES, coarse.search(QUERIES, 50), index.search(QUERIES, 10)):
        scores = (cut(query[None], None) @ stored.T)[0].astype(np.float32)
        expected = sorted(candidates, key=lambda one: (-scores[IDS.index(one)], one))[:10]
        assert same(found, {one: float(scores[IDS.index(one)]) for one in expected})


def test_a_graph_is_built_again_without_what_was_removed(caplog) -> None:
    index = Index.build(EMBEDDINGS, kind="hnsw", rescore=None)
    index.remove(IDS[:100])
    assert len(index._parts.ids) == len(IDS) and index.manifest["rows"] == len(IDS) and len(index) == len(IDS) - 100
    with caplog.at_level(logging.INFO):
        index.remove(IDS[100:140])
    assert len(index._parts.ids) == len(index) == len(index._parts.structure) == len(IDS) - 140
    assert index.ids == IDS[140:] and "built again" not in caplog.text and "build the graph again" in caplog.text
    found = index.search(QUERIES, 5)
    assert all(same(a, first(b, 5, set(IDS[140:]))) for a, b in zip(found, truth(QUERIES, KINDS["flat"])))
    index.remove(index.ids)
    assert index.search(QUERIES, 3) == [{}] * len(QUERIES) and len(index) == 0


def test_everything_may_be_removed_and_come_back(tmp_path) -> None:
    for options in KINDS.values():
        index = Index.build(EMBEDDINGS, **options)
        index.remove(IDS)
        assert index.ids == [] and index.search(QUERIES[:1]) == [{}] == index.range_search(QUERIES[:1], -2)
        index = _saved(index, tmp_path)
        index.add(IDS[:3], DOCUMENTS[:3])
        assert set(index.search(QUERIES[:1], 5)[0]) == set(IDS[:3])


def test_an_index_of_nothing_and_of_one(tmp_path) -> None:
    nothing = Embeddings([], np.zeros((0, 8), np.float32))
    for kind in ("flat", "hnsw", "binary"):
        index = _saved(Index.build(nothing, kind=kind), tmp_path)
        assert len(index) == 0 and index.search(unit(2, 0, 8)) == [{}, {}] and index.search(unit(0, 0, 8)) == []
        index.add(["a"], unit(1, 0, 8))
        assert list(index.search(unit(1, 0, 8))[0]) == ["a"]
    one = Embeddings(["a"], unit(1, 0, 8))
    for options in ({"precision": "int8"}, {"precision": "float16"}, {"kind": "ivf"}):
        assert list(Index.build(one, **options).search(unit(1, 0, 8), 4)[0].values()) == pytest.approx([1.0], abs=1e-3)
    for kind in ("ivf", "pq", "ivf_pq"):
        with pytest.raises(ValueError, match="no vectors|learns"):
            Index.build(nothing, kind=kind)
    with pytest.raises(DataError, match="calibrate"):
        Index.build(nothing, precision="int8")


def test_all_documents_are_one(tmp_path) -> None:
    ids = [f"{row:04d}" for row in np.random.default_rng(0).permutation(3000)]
    same_vectors = Embeddings(ids, np.repeat(unit(1, 0), 3000, axis=0))
    for options in ({"kind": "flat"}, {"kind": "binary"}, {"precision": "int8"}):
        index = Index.build(same_vectors, **options)
        for queries in (QUERIES, QUERIES[:1]):
            assert all(list(found) == sorted(ids)[:12] for found in index.search(queries, 12))


def test_int8_is_calibrated_once_and_says_on_what(caplog) -> None:
    index = Index.build(EMBEDDINGS, precision="int8")
    assert index.manifest["calibration"] == {"count": len(IDS), "of": MADE_BY}
    with caplog.at_level(logging.WARNING):
        index.add(["ordinary"], DOCUMENTS[:1])
    assert not caplog.records
    far = np.zeros((1, DIM), np.float32)
    far[0, 0] = -1  # no document reaches so far
    with caplog.at_level(logging.WARNING):
        index.add(["far"], far)
    assert "lie beyond the ranges" in caplog.text
    other = Embeddings(["x", "y"], np.eye(2, DIM, dtype=np.float32), {"model": "calibrating"})
    narrow = Index.build(EMBEDDINGS, precision="int8", calibration=other)
    assert narrow.manifest["calibration"] == {"count": 2, "of": {"model": "calibrating"}}
    assert narrow.calibration.ranges.tolist() == [[0] * DIM, [1, 1] + [0] * (DIM - 2)]


def test_queries_of_any_length_and_dtype(indexes: dict[str, Index]) -> None:
    expected = indexes["flat"].search(QUERIES, 4)
    for queries in (QUERIES.astype(np.float64) * 7, QUERIES * np.float32(1e-30), QUERIES.tolist()):
        assert all(same(a, b) for a, b in zip(indexes["flat"].search(np.asarray(queries), 4), expected))
    assert all(len(one) == 4 for one in indexes["flat"].search(QUERIES.astype(np.float16), 4))
    zero = indexes["flat"].search(np.zeros((1, DIM), np.float32), 3)[0]
    assert list(zero) == sorted(IDS)[:3] and set(zero.values()) == {0.0}
    short = indexes["flat truncated"].search(cut(QUERIES, 10).astype(np.float32), 4)
    assert all(same(a, b) for a, b in zip(short, indexes["flat truncated"].search(QUERIES, 4)))
    assert indexes["flat truncated"].vectors(IDS[:2]).shape == (2, 10)
    with pytest.raises(DataError, match=r"\(42, 10\), expected floats \(q, 24\)"):
        indexes["flat truncated float32"].search(QUERIES[:, :10])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros(DIM, np.float32), r"\(24,\), expected floats \(q, 24\)"),
        (np.zeros((1, 7), np.float32), r"\(1, 7\)"),
        (np.zeros((1, DIM), np.int64), "int64"),
        (np.full((2, DIM), np.nan, np.float32), "row 0.*NaN"),
        (np.full((2, DIM), np.inf), "row 0.*infinity"),
    ],
)
def test_queries_that_are_none(queries: np.ndarray, message: str, indexes: dict[str, Index]) -> None:
    for search in (indexes["flat"].search, lambda q: indexes["ivf"].range_search(q, 0.5)):
        with pytest.raises(DataError, match=message):
            search(queries)


def test_wrong_numbers(indexes: dict[str, Index]) -> None:
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="k="):
            indexes["flat"].search(QUERIES, k)
    with pytest.raises(ValueError, match="threshold"):
        indexes["flat"].range_search(QUERIES, float("nan"))
    with pytest.raises(ValueError, match="one text"):
        indexes["flat"].search(QUERIES, allowed="d001")


def test_what_cannot_be_added_changes_nothing() -> None:
    index = Index.build(EMBEDDINGS, kind="binary", rescore="int8")
    for ids, vectors, message in (
        (["new", IDS[3]], unit(2, 0), "row 1.*'" + IDS[3]),
        (["new", "new"], unit(2, 0), "row 1.*twice"),
        (["new"], unit(2, 0), "1 ids for 2 vectors"),
        (["new"], unit(1, 0, 8), r"\(1, 8\), the index holds \(n, 24\)"),
        (["new"], 2 * unit(1, 0), "length 2"),
        (["new"], np.full((1, DIM), np.nan, np.float32), "length nan"),
        (["new"], unit(1, 0).astype(np.float64), "float64"),
        ([""], unit(1, 0), "empty id"),
        (["a\0b"], unit(1, 0), "NUL"),
        ([7], unit(1, 0), "integer 7"),
    ):
        with pytest.raises(DataError, match=message):
            index.add(ids, vectors)
    with pytest.raises(DataError, match="other.*mine|of 'other', those of the index of 'mine'"):
        index.add(["new"], unit(1, 0), manifest={**MADE_BY, "model": "other"})
    with pytest.raises(DataError, match="not in the index"):
        index.remove([IDS[0], "nowhere"])
    with pytest.raises(ValueError, match="one text"):
        index.remove("nowhere")
    assert index.ids == IDS and index.search(QUERIES, 3) == Index.build(
        EMBEDDINGS, kind="binary", rescore="int8"
    ).search(QUERIES, 3)


def test_memory_mapped_shards_are_read_by_blocks(tmp_path, monkeypatch) -> None:
    from mmembed.search import index_building, kept_vectors, nearest, threshold_search

    EMBEDDINGS.save(tmp_path / "vectors", shard_rows=70)
    loaded = Embeddings.load(tmp_path / "vectors")
    expected = {name: Index.build(EMBEDDINGS, **options).search(QUERIES, 6) for name, options in KINDS.items()}
    for module in (index_building, kept_vectors, nearest, threshold_search):
        monkeypatch.setattr(module, "_FLOATS_A_BLOCK", 31 * DIM)
    monkeypatch.setattr(kept_vectors, "_BYTES_IN_MEMORY", 100)
    for name, options in KINDS.items():
        index = Index.build(loaded, **options)
        assert all(same(a, b) for a, b in zip(index.search(QUERIES, 6), expected[name])) or not name.startswith("flat")
        assert index.search(QUERIES[:1], 6)[0].keys() == index.search(QUERIES, 6)[0].keys()


def test_ids_of_any_script(tmp_path) -> None:
    ids = ["красное платье", "红色连衣裙", 'a "quoted"\n line', "emoji 🧦", "../../etc/passwd", "null", " x "]
    index = _saved(Index.build(Embeddings(ids, unit(7, 0))), tmp_path)
    assert index.ids == ids and set(index.search(unit(1, 0), 7)[0]) == set(ids)
    lines = (tmp_path / "index" / "ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ids


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "binary", "rescore": "float32"},
        {"kind": "binary", "rescore": "int8"},
        {"kind": "flat", "precision": "int8", "truncate_dim": 64},
        {"kind": "flat"},
    ],
    ids=str,
)
def test_building_holds_blocks_of_a_mapped_file_and_not_all_of_it(
    options: dict[str, Any], tmp_path, monkeypatch
) -> None:
    import tracemalloc

    from mmembed.search import index_building, kept_vectors, quantization

    rows, dim = 8000, 1024  # 32 MiB in the file
    Embeddings([f"{row}" for row in range(rows)], unit(rows, 0, dim)).save(tmp_path / "vectors", shard_rows=3000)
    embeddings = Embeddings.load(tmp_path / "vectors")
    Index.build(Embeddings(["a", "b"], unit(2, 0, dim)), **options)  # what is imported is no part of it
    for module in (index_building, kept_vectors, quantization):
        monkeypatch.setattr(module, "_FLOATS_A_BLOCK", 2**18)
    monkeypatch.setattr(kept_vectors, "_BYTES_IN_MEMORY", 2**20)
    tracemalloc.start()
    index = Index.build(embeddings, **options)
    peak = tracemalloc.get_traced_memory()[1]  # of Python and numpy; FAISS holds what the kind needs
    tracemalloc.stop()
    assert peak < 12 * 2**20 and len(index) == rows
