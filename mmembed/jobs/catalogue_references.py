"""What stands beside a model on the drawn catalogue: a baseline that needs no model, and the best that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmembed.data.catalogue.products import generate_products
from mmembed.data.catalogue.references import attribute_oracle, colour_histogram_baseline, share_of_near_twins
from mmembed.jobs.training_data import Part


def catalogue_references(
    test: Part, train: Part, *, ks: Sequence[int], products: int = 2400, seed: int = 0, language: str = "en", **_: Any
) -> dict[str, Any]:
    """Recall and MRR, text → image, of a colour-histogram baseline and of a ranker that sees every attribute.

    Args:
        test: The measured part: products, one photo each.
        train: The training part.
        ks: Cut-offs.
        products: As given to `demo_catalogue`.
        seed: As given to `demo_catalogue`.
        language: As given to `demo_catalogue`.
        **_: Its other arguments, which change nothing here.

    Returns:
        Name → direction → metric.
    """
    known = {product.id: product for product in generate_products(products, seed=seed)}
    asked = [known[id] for id in test.pairs["query_id"][:]]
    learnt = [known[id] for id in train.pairs["query_id"][:]]
    ranks = colour_histogram_baseline(learnt, _first_photos(train), asked, _first_photos(test), language=language)
    histogram = {f"recall@{k}": float(np.mean(ranks <= k)) for k in ks}
    histogram["mrr"] = float(np.mean(1.0 / ranks))
    oracle = attribute_oracle(asked, asked, language=language, cutoffs=ks)
    count = {"n": len(asked)}
    return {
        "colour histogram": {"text_to_image": {**histogram, **count}},
        "attribute oracle": {"text_to_image": {**oracle, **count}},
    }


def near_twins(test: Part, *, products: int = 2400, seed: int = 0, **_: Any) -> float:
    """The share of measured products that differ from another measured one in a single visible attribute.

    Args:
        test: The measured part.
        products: As given to `demo_catalogue`.
        seed: As given to `demo_catalogue`.
        **_: Its other arguments, which change nothing here.

    Returns:
        A share in 0–1.
    """
    known = {product.id: product for product in generate_products(products, seed=seed)}
    return share_of_near_twins([known[id] for id in test.pairs["query_id"][:]])


def _first_photos(part: Part) -> list[bytes]:
    row = {id: number for number, id in enumerate(part.documents["id"][:])}
    firsts = [row[ids[0]] for ids in part.pairs["positive_ids"][:]]
    images = part.documents.select_columns(["image"])[firsts]["image"]
    return [image["bytes"] for image in images]
