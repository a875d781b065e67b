"""What a model's figures on the demo catalogue stand beside: a ceiling, a floor, and how alike the products are."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmembed.data.catalogue.products import Product, visible_differences
from mmembed.data.catalogue.words import mentioned, title

_BINS = 4  # of each of red, green and blue


def attribute_oracle(
    queries: Sequence[Product], gallery: Sequence[Product], *, language: str = "en", cutoffs: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """What a ranker reaches that reads every told attribute in a title and sees every visible one in a photo.

    Products that fit all the title tells come first, those of them that differ in nothing told in random order; the
    figures are the exact expectation over that order.

    Args:
        queries: products whose titles ask; each must be in the gallery.
        gallery: products to rank.
        language: language of the titles.
        cutoffs: the k of each recall@k.

    Returns:
        `recall@k` for each cutoff, and `mrr`, each in 0–1.

    Raises:
        ValueError: if there is no query, or one is not in the gallery.
    """
    if not queries:
        raise ValueError("attribute_oracle needs at least one query, got none")
    ids = {product.id for product in gallery}
    by_subcategory: dict[str, list[Product]] = {}
    for product in gallery:
        by_subcategory.setdefault(product.subcategory, []).append(product)
    fitting = []
    for query in queries:
        if query.id not in ids:
            raise ValueError(
                f"query {query.id} is not in the gallery of {len(gallery)} products; add it or drop the query"
            )
        told = mentioned(query, language).items()
        fitting.append(sum(told <= product.visible.items() for product in by_subcategory[query.subcategory]))
    figures = {f"recall@{k}": float(np.mean([min(k, n) / n for n in fitting])) for k in cutoffs}
    figures["mrr"] = float(np.mean([np.mean(1 / np.arange(1, n + 1)) for n in fitting]))
    return figures


def colour_histogram_baseline(
    train_products: Sequence[Product],
    train_photos: Sequence[bytes],
    queries: Sequence[Product],
    gallery_photos: Sequence[bytes],
    *,
    language: str = "en",
    penalty: float = 3.0,
) -> np.ndarray:
    """How far words and coarse colours alone go: a ridge regression from title words to colour histograms.

    Args:
        train_products: products to learn from.
        train_photos: one photo (a JPEG file) of each, in the same order.
        queries: products whose titles ask.
        gallery_photos: one photo of each query's product, in the same order.
        language: language of the titles.
        penalty: weight of the squared coefficients.

    Returns:
        (queries,) int: the rank, from 1, of each query's own photo among the gallery's.

    Raises:
        ValueError: if products and photos differ in number.
    """
    for what, products, photos in (("train", train_products, train_photos), ("query", queries, gallery_photos)):
        if len(products) != len(photos):
            raise ValueError(f"{len(products)} {what} products with {len(photos)} photos; give one photo a product")
    texts = [title(product, language).lower().replace(",", " ").split() for product in train_products]
    place = {word: i for i, word in enumerate(sorted({word for text in texts for word in text}))}
    asked = [title(product, language).lower().replace(",", " ").split() for product in queries]
    x, y = _bags(texts, place), np.stack([_histogram(photo) for photo in train_photos])
    centre = y.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - centre))  # (words, bins)
    wanted = _bags(asked, place) @ weights  # (queries, bins), about the centre
    seen = np.stack([_histogram(photo) for photo in gallery_photos]) - centre
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True) + 1e-9
    seen /= np.linalg.norm(seen, axis=1, keepdims=True) + 1e-9
    scores = wanted @ seen.T  # (queries, gallery)
    return 1 + (scores > np.diagonal(scores)[:, None]).sum(axis=1)


def share_of_near_twins(products: Sequence[Product]) -> float:
    """The share of products that differ from another of them in exactly one visible attribute.

    Args:
        products: at least one.

    Returns:
        A share in 0–1.
    """
    by_subcategory: dict[str, list[Product]] = {}
    for product in products:
        by_subcategory.setdefault(product.subcategory, []).append(product)
    twins = [
        any(visible_differences(product, other) == 1 for other in by_subcategory[product.subcategory])
        for product in products
    ]
    return float(np.mean(twins))


def _bags(texts: Sequence[Sequence[str]], place: dict[str, int]) -> np.ndarray:
    bags = np.zeros((len(texts), len(place)))
    for i, text in enumerate(texts):
        for word in text:
            if word in place:
                bags[i, place[word]] = 1.0
    return bags


def _histogram(photo: bytes) -> np.ndarray:
    """Shares of the middle of the photo in each of 64 colour bins, square-rooted: (64,)."""
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX))[4:28, 4:28]
    bins = pixels.reshape(-1, 3).astype(np.int64) * _BINS // 256
    counts = np.bincount(bins @ np.array([_BINS * _BINS, _BINS, 1]), minlength=_BINS**3)
    return np.sqrt(counts / counts.sum())
