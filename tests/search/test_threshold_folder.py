"""Pairs on disk: those of the stream, once, whether the run was interrupted or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search import threshold_folder
from mmembed.search.threshold_folder import read_threshold_search, write_threshold_search
from mmembed.search.threshold_search import threshold_search


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES, DOCUMENTS = unit(37, 12, 0), unit(205, 12, 1)


def pairs(stream) -> dict[tuple[int, int], float]:
    found = {}
    for hits in stream:
        for query, document, score in zip(*(part.tolist() for part in hits)):
            assert (query, document) not in found
            found[query, document] = score
    return found


def write(folder: Path, threshold: float = 0.2, **options) -> int:
    given = {"documents_a_shard": 30, "show_progress_bar": False, **options}
    return write_threshold_search(QUERIES, DOCUMENTS, threshold, folder, **given)


@pytest.mark.parametrize("threshold", [-2.0, 0.2, 2.0])
def test_what_is_read_is_what_the_stream_gives(tmp_path: Path, threshold: float, monkeypatch) -> None:
    monkeypatch.setattr(threshold_folder, "_PAIRS_A_BLOCK", 7)
    expected = pairs(threshold_search(QUERIES, DOCUMENTS, threshold))
    assert write(tmp_path / "pairs", threshold) == len(expected)
    assert pairs(read_threshold_search(tmp_path / "pairs")) == expected
    shards = sorted((tmp_path / "pairs").glob("*.npy"))
    assert len(shards) == 7 and sum(len(np.load(path, allow_pickle=False)) for path in shards) == len(expected)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    whole = threshold_search
    calls = []

    def interrupted(*arguments, start, **options):
        calls.append(start)
        if start == 90 and len(calls) < 5:
            raise KeyboardInterrupt
        return whole(*arguments, start=start, **options)

    monkeypatch.setattr(threshold_folder, "threshold_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "pairs")
    with pytest.raises(DataError, match="no complete threshold search"):
        list(read_threshold_search(tmp_path / "pairs"))
    write(tmp_path / "pairs")
    assert calls == [0, 30, 60, 90, 90, 120, 150, 180]
    assert pairs(read_threshold_search(tmp_path / "pairs")) == pairs(whole(QUERIES, DOCUMENTS, 0.2))


def test_a_folder_of_other_vectors_or_of_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "pairs")
    with pytest.raises(DataError, match="'threshold': the folder was begun with float 0.2, now it is 0.3"):
        write(tmp_path / "pairs", 0.3)
    with pytest.raises(DataError, match="'documents_a_shard'"):
        write(tmp_path / "pairs", documents_a_shard=31)
    with pytest.raises(DataError, match="'documents'"):
        write_threshold_search(QUERIES, DOCUMENTS[:-1], 0.2, tmp_path / "pairs", documents_a_shard=30)
    Embeddings(["a"], unit(1, 4, 0)).save(tmp_path / "vectors")
    with pytest.raises(DataError, match="something other"):
        write(tmp_path / "vectors")
    with pytest.raises(ValueError, match="documents_a_shard=0"):
        write(tmp_path / "new", documents_a_shard=0)


def test_a_damaged_shard_or_manifest_is_said(tmp_path: Path) -> None:
    write(tmp_path / "pairs")
    shard = tmp_path / "pairs" / "hits-00002.npy"
    data = shard.read_bytes()
    for broken in (data[:-5], b"", np.zeros(3).tobytes()):
        shard.write_bytes(broken)
        with pytest.raises(DataError, match="hits-00002.npy.*not a whole"):
            list(read_threshold_search(tmp_path / "pairs"))
    np.save(shard, np.zeros(3))
    with pytest.raises(DataError, match="expected pairs"):
        list(read_threshold_search(tmp_path / "pairs"))
    np.save(shard, np.zeros(3, threshold_folder.PAIR))
    with pytest.raises(DataError, match="3 pairs, the manifest says"):
        list(read_threshold_search(tmp_path / "pairs"))
    manifest = tmp_path / "pairs" / "manifest.json"
    for broken in ("[]", "{", json.dumps({"format": "other"})):
        manifest.write_text(broken)
        with pytest.raises(DataError):
            list(read_threshold_search(tmp_path / "pairs"))


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert write_threshold_search(QUERIES, DOCUMENTS[:0], 0.2, tmp_path / "pairs", show_progress_bar=False) == 0
    assert list(read_threshold_search(tmp_path / "pairs")) == []
