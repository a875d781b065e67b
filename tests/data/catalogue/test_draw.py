from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmembed.data.catalogue import demo_catalogue
from mmembed.data.catalogue.draw import draw_photo, photo_bytes, product_mask
from mmembed.data.catalogue.products import BRANDS, COLOURS, SUBCATEGORIES, Product, generate_products
from mmembed.data.catalogue.silhouettes import SILHOUETTES


def make(subcategory: str, **changes) -> Product:
    kind = SUBCATEGORIES[subcategory]
    brand = next(brand.name for brand in BRANDS.values() if brand.category == kind.category)
    details = tuple((name, values[0]) for name, values in kind.details.items())
    product = Product(
        id="p00000", family="f0000", category=kind.category, subcategory=subcategory, brand=brand, colour="blue",
        second_colour=None, pattern="plain", material=kind.materials[0], details=details, size=None, gender=None,
        age_group="adults", adult=kind.adult, price=9.99,
    )  # fmt: skip
    return replace(product, **changes)


def pixels(product: Product, index: int = 0, size: int = 64) -> np.ndarray:
    return np.asarray(draw_photo(product, index, size=size), np.float32)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(a - b).mean())


def test_the_same_pixels_in_another_process():
    code = (
        "import hashlib; from mmembed.data.catalogue.draw import draw_photo;"
        "from mmembed.data.catalogue.products import generate_products;"
        "print(hashlib.sha256(b''.join(draw_photo(p, i).tobytes() for p in generate_products(6) for i in (0, 1, 2))).hexdigest())"
    )
    here = hashlib.sha256(
        b"".join(draw_photo(p, i).tobytes() for p in generate_products(6) for i in (0, 1, 2))
    ).hexdigest()
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == here
    )


def test_photos_of_a_product_differ_and_so_does_another_seed():
    product = make("mug")
    photos = [pixels(product, index) for index in range(4)]
    assert all(difference(photos[i], photos[j]) > 2 for i in range(4) for j in range(i))
    assert difference(photos[1], pixels(replace(product, seed=1), 1)) > 2


@pytest.mark.parametrize("subcategory", sorted(SUBCATEGORIES))
def test_every_visible_attribute_shows(subcategory):
    kind, product = SUBCATEGORIES[subcategory], make(subcategory)
    plain = pixels(product)
    mask = product_mask(product, 0, size=64) > 0.95
    assert mask.mean() > 0.025, "too little of the colour shows"
    for name, values in kind.details.items():
        for value in values[1:]:
            details = tuple((n, value if n == name else v) for n, v in product.details)
            assert difference(plain, pixels(replace(product, details=details))) > 0.25, value
    for pattern in kind.patterns[1:]:
        patterned = pixels(replace(product, pattern=pattern, second_colour="yellow"))
        share = (np.abs(patterned - plain).max(-1) > 40)[mask].mean()
        assert 0.08 < share < 0.92, (pattern, share)
    for material in kind.materials[1:]:
        assert np.abs(pixels(replace(product, material=material)) - plain)[mask].mean() > 2.5, material
    others = [brand.name for brand in BRANDS.values() if brand.category == kind.category][1:]
    for brand in others:
        assert (np.abs(pixels(replace(product, brand=brand)) - plain).max(-1) > 60).sum() >= 8, brand


def test_sub_categories_look_different_from_one_another():
    shapes = {}
    for subcategory in SUBCATEGORIES:
        product = make(subcategory, colour="red", material=SUBCATEGORIES[subcategory].materials[0])
        shapes[subcategory] = pixels(product, size=32)
    names = sorted(shapes)
    closest = min((difference(shapes[a], shapes[b]), a, b) for i, a in enumerate(names) for b in names[:i])
    assert closest[0] > 4, closest
    assert set(SILHOUETTES) == set(SUBCATEGORIES)


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_colours_are_true(colour):
    for subcategory in ("t-shirt", "sofa", "phone", "ball"):
        for material in SUBCATEGORIES[subcategory].materials:
            product = make(subcategory, colour=colour, material=material)
            seen = pixels(product)[product_mask(product, 0, size=64) > 0.95].mean(0)
            distances = {name: float(np.linalg.norm(seen - np.array(rgb))) for name, rgb in COLOURS.items()}
            assert distances[colour] < 55, (subcategory, material, seen)
            assert min(distances, key=distances.__getitem__) == colour, (subcategory, material, seen)


def test_jpeg_files_differ_in_quality_and_decode_to_the_photo():
    product = make("backpack")
    tables = set()
    for index in range(6):
        with Image.open(io.BytesIO(photo_bytes(product, index, size=64))) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
            tables.add(tuple(image.quantization[0]))
            assert difference(np.asarray(image, np.float32), pixels(product, index)) < 12
    assert len(tables) > 2


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="index=-1"):
        draw_photo(make("mug"), -1)
    with pytest.raises(ValueError, match="size=8"):
        draw_photo(make("mug"), 0, size=8)


def test_tables_hold_every_product_photo_and_pair():
    tables = demo_catalogue(products=40, photos=2, size=32, show_progress_bar=False)
    products = generate_products(40)
    assert tables.products["id"] == [p.id for p in products] == tables.pairs["query_id"]
    assert tables.products["text"] == tables.products["title_en"] and all(tables.products["title_ru"])
    assert tables.photos["id"] == [f"{p.id}-{i}" for p in products for i in (0, 1)]
    assert tables.photos["group"] == tables.photos["product_id"] and set(tables.photos["text"]) == {None}
    assert tables.pairs["positive_ids"] == [[f"{p.id}-0", f"{p.id}-1"] for p in products]
    assert (
        tables.products[3]["image"]
        == tables.photos[6]["image"]
        == {"bytes": photo_bytes(products[3], 0, size=32), "path": None}
    )
    assert tables.products["split"] == [p.split for p in products]


def test_some_fields_are_missing_and_none_is_wrong():
    tables = demo_catalogue(products=300, photos=1, size=16, language="zh", show_progress_bar=False)
    assert tables.products["text"] == tables.products["title_zh"]
    for name in ("brand", "material", "price", "description_en", "description_ru"):
        missing = list(tables.products[name]).count(None)
        assert 0 < missing < 60, name
    for row, product in zip(tables.products, generate_products(300), strict=True):
        assert row["colour"] == product.colour and row["adult"] == product.adult
        assert row["brand"] in (None, product.brand) and row["price_band"] in (None, product.price_band)


def test_workers_and_the_cache_give_the_same_tables(tmp_path, monkeypatch):
    arguments = {"products": 20, "photos": 2, "size": 32, "seed": 3, "show_progress_bar": False}
    alone = demo_catalogue(**arguments)
    shared = demo_catalogue(**arguments, num_workers=2, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("mmembed.data.catalogue._make", None)  # a second call must not draw
    again = demo_catalogue(**arguments, cache_dir=tmp_path)
    for name in alone._fields:
        assert getattr(alone, name).to_list() == getattr(shared, name).to_list() == getattr(again, name).to_list()
        assert getattr(again, name).features == getattr(alone, name).features
    with pytest.raises(ValueError, match="got 'de'"):
        demo_catalogue(products=1, language="de")
