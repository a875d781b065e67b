"""The fused vector of a product finds it better than its text or its photo alone, on families held out from training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def fusion(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("fusion", None)
    import fusion

    return fusion


def test_listings_of_a_split_show_other_words_and_another_photo(fusion):
    from mmembed.data.catalogue import demo_catalogue

    catalogue = demo_catalogue(products=40, photos=3, size=32, show_progress_bar=False)
    train, test = (fusion.listings(catalogue, *split) for split in (("train", (1, 2)), ("test", (2,))))
    assert not set(train.families) & set(test.families)
    assert len(test.queries) == len(test.documents) == len(test.families) > 0
    assert len(train.documents) == 2 * len(train.queries)
    photo = dict(zip(catalogue.photos["id"][:], catalogue.photos["image"][:]))
    for query, document, pair in zip(test.queries, test.documents, test.pairs):
        assert pair["query_id"] == query["id"] and pair["positive_ids"] == [document["id"]] == [f"{query['id']}-2"]
        assert query["text"] != document["text"]
        assert query["image"]["bytes"] == photo[f"{query['id']}-0"]["bytes"]
        assert document["image"]["bytes"] == photo[f"{query['id']}-2"]["bytes"]


def test_differences_are_fused_minus_the_other_and_resampled_by_family(fusion):
    hits = {use: {metric: np.array(values, dtype=float) for metric in fusion.METRICS} for use, values in {
        "text": [0, 0, 1, 1], "image": [1, 1, 1, 1], "fused": [1, 1, 1, 1]}.items()}  # fmt: skip
    found = fusion.differences(hits, ["a", "a", "b", "b"])
    # two families: a resample has a difference of 0, a half or 1
    assert (found["text", "mrr"].mean, found["text", "mrr"].low, found["text", "mrr"].high) == (0.5, 0.0, 1.0)
    assert (found["image", "recall@1"].low, found["image", "recall@1"].high) == (0.0, 0.0)


@pytest.mark.slow
def test_fused_beats_each_single_modality(fusion):
    result = fusion.run(products=2400, epochs=10, fusion="gated", seed=0)
    assert len(result["values"]["fused"]["mrr"]) > 300
    for (use, metric), difference in result["differences"].items():
        assert difference.low > 0, f"fused against {use}, {metric}: {difference}"
