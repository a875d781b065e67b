from __future__ import annotations

import re

import pytest

from mmembed.data.catalogue.products import BRANDS, SUBCATEGORIES, generate_products
from mmembed.data.catalogue.words import LANGUAGES, WORDS, description, mentioned, title

PRODUCTS = generate_products(2400)
CYRILLIC, HAN = re.compile("[а-яё]", re.I), re.compile("[\u4e00-\u9fff]")


def names(value: str, language: str) -> list[str]:
    return [name.lower() for name in WORDS[value][LANGUAGES.index(language)].split("|")]


def test_every_attribute_value_has_words_in_every_language():
    values = {value for p in PRODUCTS for name, value in p.visible.items() if name != "brand"}
    values |= {value for p in PRODUCTS for value in (p.gender, p.age_group) if value}
    assert values <= set(WORDS)
    for value, (en, zh, ru) in WORDS.items():
        assert en and not CYRILLIC.search(en) and not HAN.search(en), value
        assert HAN.search(zh), value
        assert CYRILLIC.search(ru) or value == "18+", value


@pytest.mark.parametrize("language", LANGUAGES)
def test_different_values_of_one_attribute_have_different_words(language):
    for kind in SUBCATEGORIES.values():
        for values in (*kind.details.values(), kind.materials, kind.patterns):
            said = [name for value in values for name in names(value, language)]
            assert len(said) == len(set(said))
    nouns = [name for value in SUBCATEGORIES for name in names(value, language)]
    assert len(nouns) == len(set(nouns))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_title_tells_what_is_mentioned_and_no_more_of_the_colour_and_brand(language):
    for product in PRODUCTS:
        told, line = mentioned(product, language), title(product, language).lower()
        assert told.items() <= product.visible.items()
        assert {"subcategory", "pattern"} <= told.keys()
        for name, value in told.items():
            if name != "brand" and (name, value) != ("pattern", "plain"):
                assert any(word in line for word in names(value, language)), (product.id, name, line)
        assert (product.brand.lower() in line) == ("brand" in told)
        if not {"colour", "second_colour"} & told.keys():
            assert not any(word in line for word in names(product.colour, language)[:1])


@pytest.mark.parametrize("language", LANGUAGES)
def test_how_often_each_attribute_is_told(language):
    told = [mentioned(p, language) for p in PRODUCTS]
    for name, share in (("colour", 0.95), ("brand", 0.85), ("material", 0.6)):
        assert sum(name in t for t in told) / len(told) == pytest.approx(share, abs=0.04)
    details = sum(name in t for p, t in zip(PRODUCTS, told, strict=True) for name, _ in p.details)
    assert details / sum(len(p.details) for p in PRODUCTS) == pytest.approx(0.6, abs=0.04)


def test_scripts_and_distinctness():
    for product in PRODUCTS[:300]:
        en, zh, ru = (title(product, language) for language in LANGUAGES)
        assert not CYRILLIC.search(en + zh) and not HAN.search(en + ru) and HAN.search(zh) and CYRILLIC.search(ru)
        en, zh, ru = (description(product, language) for language in LANGUAGES)
        assert en.count(".") >= 2 and zh.count("。") >= 2 and ru.count(".") >= 2
        assert not CYRILLIC.search(en + zh) and not HAN.search(en + ru) and HAN.search(zh) and CYRILLIC.search(ru)
    # siblings whose titles leave their difference out may read the same, most must not
    assert len({title(p) for p in PRODUCTS}) > 0.95 * len(PRODUCTS)
    assert all(product.brand in description(product, "ru") for product in PRODUCTS[:50])
    assert set(BRANDS).isdisjoint(WORDS)


def test_an_unknown_language_is_named():
    for call in (title, description, mentioned):
        with pytest.raises(ValueError, match="one of en, zh, ru, got 'de'"):
            call(PRODUCTS[0], "de")
