from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmembed.data.catalogue.draw import photo_bytes
from mmembed.data.catalogue.products import generate_products
from mmembed.data.catalogue.references import attribute_oracle, colour_histogram_baseline, share_of_near_twins
from mmembed.data.catalogue.words import mentioned

PRODUCTS = generate_products(2400)
TEST = [p for p in PRODUCTS if p.split == "test"]


@pytest.mark.parametrize("language", ["en", "zh", "ru"])
def test_oracle_is_the_mean_over_every_order_of_the_ties(language):
    gallery = [p for p in PRODUCTS if p.subcategory in ("mug", "kite")][:14]
    hits, reciprocal = {1: [], 2: []}, []
    for query in gallery:
        told = mentioned(query, language)
        agreeing = [p.id for p in gallery if all(p.visible.get(name) == value for name, value in told.items())]
        places = [order.index(query.id) + 1 for order in itertools.permutations(agreeing)]
        for k in hits:
            hits[k].append(np.mean([place <= k for place in places]))
        reciprocal.append(np.mean([1 / place for place in places]))
    figures = attribute_oracle(gallery, gallery, language=language, cutoffs=(1, 2))
    assert figures == pytest.approx(
        {"recall@1": np.mean(hits[1]), "recall@2": np.mean(hits[2]), "mrr": np.mean(reciprocal)}
    )


def test_oracle_leaves_room_above_and_below():
    for language in ("en", "zh", "ru"):
        figures = attribute_oracle(TEST, TEST, language=language)
        assert 0.85 <= figures["recall@1"] <= 0.97
        assert figures["recall@1"] < figures["mrr"] < figures["recall@5"] <= figures["recall@10"] <= 1


def test_oracle_refuses_a_query_outside_the_gallery():
    with pytest.raises(ValueError, match=f"{TEST[0].id} is not in the gallery of 1"):
        attribute_oracle(TEST[:1], TEST[1:2])
    with pytest.raises(ValueError, match="got none"):
        attribute_oracle([], TEST)


def test_colours_alone_beat_chance_and_stay_far_below_the_ceiling():
    train, test = [p for p in PRODUCTS if p.split == "train"][::3], TEST[:150]
    ranks = colour_histogram_baseline(
        train, [photo_bytes(p, 0, size=32) for p in train], test, [photo_bytes(p, 1, size=32) for p in test]
    )
    assert ranks.shape == (150,) and ranks.min() >= 1 and ranks.max() <= 150
    assert 3 / 150 < (ranks == 1).mean() < 0.45
    assert np.median(ranks) < 40
    with pytest.raises(ValueError, match="3 train products with 0 photos"):
        colour_histogram_baseline(train[:3], [], test, [])


def test_near_twins_in_the_test_split():
    assert 0.45 <= share_of_near_twins(TEST) <= 0.95
    assert share_of_near_twins(TEST[:1]) == 0
    for split in ("train", "validation"):
        assert share_of_near_twins([p for p in PRODUCTS if p.split == split]) >= 0.45
