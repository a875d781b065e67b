"""What an index can be: names, numbers, and what goes together."""

from __future__ import annotations

import pytest

from mmembed.search.index_settings import IndexSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "ivff"}, "kind 'ivff' is not known; did you mean 'ivf'"),
        ({"kind": None}, "kind None is not known"),
        ({"precision": "int4"}, "precision 'int4' is not known; did you mean 'int8'"),
        ({"precision": "binary"}, 'give kind="binary"'),
        ({"kind": "binary", "precision": "int8"}, "precision='int8' does not concern kind 'binary'"),
        ({"lists": 4}, "lists=4 does not concern kind 'flat'"),
        ({"kind": "ivf", "ef_search": 4}, "ef_search=4 does not concern kind 'ivf'"),
        ({"oversample": 4}, "oversample=4 without rescore"),
        ({"rescore": "float32"}, "rescore='float32' is not finer than the float32"),
        ({"precision": "float16", "rescore": "int8"}, "rescore='int8' is not finer than the float16"),
        ({"rescore": "signs"}, 'rescore="signs" is of kind "binary"'),
        ({"rescore": "float64"}, "rescore 'float64' is not known; did you mean"),
        ({"truncate_dim": 65}, "truncate_dim=65 of vectors of 64"),
        ({"truncate_dim": 0}, "truncate_dim=0; give a whole number"),
        ({"truncate_dim": 8.0}, "truncate_dim=8.0; give a whole number"),
        ({"kind": "ivf", "lists": 1001}, "lists=1001 for 1000 vectors; give at most 25"),
        ({"kind": "ivf", "lists": True}, "lists=True; give a whole number"),
        ({"kind": "hnsw", "neighbours": 1}, "neighbours=1"),
        ({"kind": "pq", "segments": 7}, "segments=7 do not divide 64 dimensions"),
        ({"kind": "pq", "segments": 20, "truncate_dim": 50}, "segments=20 do not divide 50 dimensions"),
    ],
)
def test_what_does_not_go_is_said(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexSettings(**given).filled(1000, 64)


def test_what_is_left_open_suits_the_vectors() -> None:
    assert IndexSettings().filled(10, 64) == IndexSettings("flat", "float32")
    assert IndexSettings("binary", rescore="signs").filled(10, 64).parameters() == {"rescore": "signs", "oversample": 4}
    assert IndexSettings("ivf").filled(1_000_000, 64).parameters() == {
        "precision": "float32",
        "lists": 4000,
        "probes": 500,
    }
    assert IndexSettings("ivf", lists=3, probes=9).filled(10, 64).probes == 3
    assert IndexSettings("ivf").filled(1, 64).lists == 1
    for dim, segments in ((384, 96), (7, 1), (1, 1), (10, 2), (128, 32)):
        assert IndexSettings("pq").filled(256, dim).segments == segments
    with pytest.raises(ValueError, match="255 vectors; pq learns 256 centroids"):
        IndexSettings("pq").filled(255, 64)


def test_there_and_back() -> None:
    for settings in (
        IndexSettings("hnsw", "float16", ef_search=9),
        IndexSettings("binary", truncate_dim=8, rescore="int8"),
    ):
        filled = settings.filled(1000, 64)
        assert (
            IndexSettings.from_dict({"kind": filled.kind, **filled.parameters()}) == filled == filled.filled(1000, 64)
        )
    with pytest.raises(ValueError, match="'prob' is no setting of an index; did you mean 'probes'"):
        IndexSettings.from_dict({"prob": 1})
    assert (
        str(IndexSettings("binary", truncate_dim=8, rescore="int8").filled(9, 64))
        == "binary, 8 dimensions, rescored with int8 × 4"
    )
