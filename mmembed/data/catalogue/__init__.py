"""The embedded default data set: a drawn product catalogue, made on the spot and the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, Image, List, Value, load_from_disk
from tqdm.auto import tqdm

from mmembed.data.catalogue.draw import DRAWING_VERSION, photo_bytes
from mmembed.data.catalogue.products import Chance, Product, generate_products
from mmembed.data.catalogue.words import LANGUAGES, description, title

__all__ = ["DemoCatalogue", "demo_catalogue"]

# goes up whenever the same arguments would give another table; the drawing has its own number
TABLE_VERSION = 2
_MISSING = {"brand": 0.04, "material": 0.06, "size": 0.1, "price": 0.03, "gender": 0.05, "description": 0.1}
_STRINGS = (
    "category", "subcategory", "brand", "colour", "second_colour", "pattern", "material", "size", "gender", "age_group", "price_band",
)  # fmt: skip
_ITEM = {"id": Value("string"), "text": Value("string"), "image": Image(decode=False), "group": Value("string")}
_PLACE = {"family": Value("string"), "split": Value("string")}
_PRODUCT_FEATURES = Features(
    {
        **_ITEM,
        **_PLACE,
        **{f"{what}_{language}": Value("string") for what in ("title", "description") for language in LANGUAGES},
        **{name: Value("string") for name in _STRINGS},
        "price": Value("float64"),
        "adult": Value("bool"),
        "details": List(Value("string")),
    }
)
_PHOTO_FEATURES = Features({**_ITEM, **_PLACE, "product_id": Value("string")})
_PAIR_FEATURES = Features(
    {"query_id": Value("string"), "positive_ids": List(Value("string")), "negative_ids": List(Value("string"))}
)


class DemoCatalogue(NamedTuple):
    """The tables of the demo catalogue.

    Attributes:
        products: ITEMS, a row a product: title as `text`, first photo as `image`, titles and descriptions in three
            languages, attributes, `family` and `split`. Some attributes and descriptions are null, as in life.
        photos: ITEMS, a row a photo: no text, `group` and `product_id` name the product.
        pairs: PAIRS, from each product's id to the ids of its photos.
    """

    products: Dataset
    photos: Dataset
    pairs: Dataset


def demo_catalogue(
    *,
    products: int = 2400,
    photos: int = 3,
    size: int = 128,
    seed: int = 0,
    language: str = "en",
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int = 0,
    show_progress_bar: bool = True,
) -> DemoCatalogue:
    """Make the demo catalogue: drawn products with titles, descriptions, attributes and several photos each.

    Args:
        products: how many products, at least 1.
        photos: photos a product, at least 1.
        size: side of a photo in pixels.
        seed: another seed is another catalogue.
        language: whose titles stand in `text`: `en`, `zh` or `ru`.
        cache_dir: a directory to keep the tables in; later calls with the same arguments read them from there.
        num_workers: processes that draw; 0 draws in this one. The bytes are the same. They are spawned, so a script of
            its own calls this under `if __name__ == "__main__":`.
        show_progress_bar: whether to show one while drawing.

    Returns:
        The tables; the same for the same arguments. JPEG bytes may differ between builds of libjpeg.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> catalogue = demo_catalogue(products=2, photos=2, size=32, show_progress_bar=False)
        >>> catalogue.pairs[1]["positive_ids"]
        ['p00001-0', 'p00001-1']
    """
    if photos < 1 or size < 16 or num_workers < 0:
        raise ValueError(
            f"photos must be at least 1, size at least 16, num_workers at least 0; got {photos}, {size}, {num_workers}"
        )
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    if cache_dir is None:
        return _make(generate_products(products, seed=seed), photos, size, language, num_workers, show_progress_bar)
    key = json.dumps([TABLE_VERSION, DRAWING_VERSION, products, photos, size, seed, language])
    folder = Path(cache_dir) / f"catalogue-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        catalogue = _make(
            generate_products(products, seed=seed), photos, size, language, num_workers, show_progress_bar
        )
        _save(catalogue, folder)
    return DemoCatalogue(*(load_from_disk(str(folder / name)) for name in DemoCatalogue._fields))


def _save(catalogue: DemoCatalogue, folder: Path) -> None:
    """Write the tables beside their place and move them there whole, so that a reader never sees half of them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        whole = Path(scratch) / "whole"
        for name, table in catalogue._asdict().items():
            table.save_to_disk(str(whole / name))
        try:
            os.replace(whole, folder)
        except OSError:  # another process was first: a directory cannot replace a full one, and both are the same
            if not folder.exists():
                raise


def _make(
    items: list[Product], photos: int, size: int, language: str, num_workers: int, show_progress_bar: bool
) -> DemoCatalogue:
    draw = partial(_photos_of, photos=photos, size=size)
    bar = partial(tqdm, total=len(items), desc="drawing the catalogue", unit="product", disable=not show_progress_bar)
    if num_workers:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            drawn = list(bar(pool.map(draw, items, chunksize=16)))
    else:
        drawn = list(bar(map(draw, items)))
    product_rows, photo_rows, pair_rows = [], [], []
    for product, files in zip(items, drawn, strict=True):
        place = {"group": product.id, "family": product.family, "split": product.split}
        row = _product_row(product, language)
        product_rows.append({"id": product.id, "image": {"bytes": files[0], "path": None}, **place, **row})
        ids = [f"{product.id}-{i}" for i in range(len(files))]
        for photo_id, file in zip(ids, files, strict=True):
            image = {"bytes": file, "path": None}
            photo_rows.append({"id": photo_id, "text": None, "image": image, **place, "product_id": product.id})
        pair_rows.append({"query_id": product.id, "positive_ids": ids, "negative_ids": []})
    return DemoCatalogue(
        Dataset.from_list(product_rows, features=_PRODUCT_FEATURES),
        Dataset.from_list(photo_rows, features=_PHOTO_FEATURES),
        Dataset.from_list(pair_rows, features=_PAIR_FEATURES),
    )


def _photos_of(product: Product, photos: int, size: int) -> list[bytes]:
    return [photo_bytes(product, index, size=size) for index in range(photos)]


def _product_row(product: Product, language: str) -> dict[str, Any]:
    """The product as its shop tells it: all of it true, some of it missing."""
    chance = Chance(product.seed, "missing", product.id)
    missing = {name for name, probability in _MISSING.items() if chance.happens(probability)}
    titles = {f"title_{code}": title(product, code) for code in LANGUAGES}
    descriptions: dict[str, str | None] = {f"description_{code}": description(product, code) for code in LANGUAGES}
    row: dict[str, Any] = {name: getattr(product, name) for name in (*_STRINGS, "price", "adult")}
    row["details"] = [value for _, value in product.details]
    row.update({name: None for name in missing & row.keys()})
    if "price" in missing:
        row["price_band"] = None
    if "description" in missing:
        descriptions = {name: None for name in descriptions}
    return {"text": titles[f"title_{language}"], **titles, **descriptions, **row}
