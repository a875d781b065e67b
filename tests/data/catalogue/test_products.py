from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from mmembed.data.catalogue.products import (
    BRANDS,
    CATEGORIES,
    COLOURS,
    MATERIALS,
    SUBCATEGORIES,
    Chance,
    generate_products,
    visible_differences,
)  # fmt: skip

PRODUCTS = generate_products(2400)


def test_chance_is_the_digest_of_its_key():
    digest = hashlib.blake2b(b"a\x1f1" + bytes(4)).digest()
    chance = Chance("a", 1)
    assert chance.uniform() == int.from_bytes(digest[56:], "big") / 2**64
    assert [chance.below(7) for _ in range(20)] == [
        c.below(7) for c in [Chance("a", 1)] if c.uniform() >= 0 for _ in range(20)
    ]
    assert sorted(Chance("s").shuffled(range(9))) == list(range(9))
    counts = Counter(Chance("w", i).weighted({"x": 3.0, "y": 1.0}) for i in range(800))
    assert 540 < counts["x"] < 660


def test_a_longer_catalogue_begins_with_the_shorter_and_another_seed_is_another():
    assert generate_products(90) == PRODUCTS[:90]
    assert [p.visible for p in generate_products(50, seed=1)] != [p.visible for p in PRODUCTS[:50]]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        generate_products(0)


def test_ids_are_unique_and_no_two_products_look_the_same():
    assert [p.id for p in PRODUCTS] == [f"p{i:05d}" for i in range(2400)]
    assert len({tuple(sorted(p.visible.items())) for p in PRODUCTS}) == 2400


def test_families_are_siblings_apart_in_one_or_two_visible_attributes():
    families = defaultdict(list)
    for product in PRODUCTS:
        families[product.family].append(product)
    assert max(map(len, families.values())) == 6
    for first, *others in families.values():
        for other in others:
            assert (first.subcategory, first.brand, first.gender) == (other.subcategory, other.brand, other.gender)
            assert 1 <= visible_differences(first, other) <= 2


def test_splits_are_large_enough_and_keep_families_together():
    count = Counter(p.split for p in PRODUCTS)
    assert count["test"] >= 330 and count["validation"] >= 100 and count["train"] >= 1000
    split_of = defaultdict(set)
    for product in PRODUCTS:
        split_of[product.family].add(product.split)
    assert {len(splits) for splits in split_of.values()} == {1}
    assert {p.subcategory for p in PRODUCTS if p.split == "train"} == set(SUBCATEGORIES)


def test_every_value_of_every_attribute_occurs():
    assert len(SUBCATEGORIES) >= 36 and len(CATEGORIES) >= 8 and len(BRANDS) == 40
    assert {p.subcategory for p in PRODUCTS} == set(SUBCATEGORIES)
    assert {p.colour for p in PRODUCTS} == set(COLOURS)
    assert {p.material for p in PRODUCTS} == set(MATERIALS)
    assert {p.brand for p in PRODUCTS} == set(BRANDS)
    told = {value for p in PRODUCTS for _, value in p.details}
    assert told == {value for kind in SUBCATEGORIES.values() for values in kind.details.values() for value in values}
    assert {p.adult for p in PRODUCTS if p.subcategory in ("wine", "whisky", "cigars", "lighter")} == {True}
    assert not any(p.adult for p in PRODUCTS if p.category in ("toys", "clothing"))
    assert {p.price_band for p in PRODUCTS} == {"low", "medium", "high", "luxury"}


def test_every_brand_of_a_category_has_its_own_mark():
    for category in CATEGORIES:
        brands = [brand for brand in BRANDS.values() if brand.category == category]
        assert len({(brand.glyph, brand.colour) for brand in brands}) == len(brands) == 4
    assert len({(brand.glyph, brand.colour) for brand in BRANDS.values()}) == 40


def test_dearer_brands_and_materials_cost_more():
    def relative(product):
        return product.price / SUBCATEGORIES[product.subcategory].price

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    cheap = mean(relative(p) for p in PRODUCTS if BRANDS[p.brand].tier == 0.6)
    dear = mean(relative(p) for p in PRODUCTS if BRANDS[p.brand].tier == 2.2)
    assert dear > 2.5 * cheap
    boots = [p for p in PRODUCTS if p.category == "shoes"]
    assert mean(relative(p) for p in boots if p.material == "leather") > 1.5 * mean(
        relative(p) for p in boots if p.material == "rubber"
    )


def test_a_pattern_is_one_difference_and_so_is_a_colour():
    product = next(p for p in PRODUCTS if p.pattern == "plain" and p.colour != "red")
    assert visible_differences(product, product) == 0
    assert visible_differences(product, replace(product, pattern="stripes", second_colour="red")) == 1
    assert visible_differences(product, replace(product, colour="red", pattern="stripes", second_colour="pink")) == 2
