"""Turn the fashion-product data set (7,488 products with an image and a title each) into ITEMS.

    python recipes/fashion/prepare.py --source DIR --output_dir fashion

DIR holds either `products.jsonl` and `images/` (a 224-pixel excerpt), or the layout of the Kaggle data set: `styles/ID.json`
and `images/ID.jpg`. Out comes `products.jsonl`, one item a product: `id`, `text` (the title), `image` (relative to DIR),
`group` (the same model in other colours), `split`, and the attributes.

The split: a product is test when int(SHA-256("split-GROUP"), 16) mod 100 < 20, validation when below 28 of another salt
within the rest (only with --validation), else train. Of test products with equal titles the lowest id stays.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mmembed.data.splits import split_bucket

ATTRIBUTES = (
    "brandName", "price", "gender", "ageGroup", "baseColour", "season", "year", "usage",
    "masterCategory", "subCategory", "articleType", "description",
)  # fmt: skip


def products(source: Path) -> Iterator[dict]:
    """The products of either layout, by ascending id."""
    if (source / "products.jsonl").is_file():
        with open(source / "products.jsonl", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    elif (source / "styles").is_dir():
        rows = [_kaggle_product(path) for path in (source / "styles").glob("*.json")]
    else:
        raise SystemExit(f"{source} has neither products.jsonl nor a folder styles/ of the Kaggle data set")
    yield from sorted((row for row in rows if (source / row["image"]).is_file()), key=lambda row: row["id"])


def _kaggle_product(path: Path) -> dict:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    colours = [int(key) for key in (data.get("colours") or {}) if str(key).isdigit()]
    descriptor = ((data.get("productDescriptors") or {}).get("description") or {}).get("value")
    category = {
        name: (data.get(name) or {}).get("typeName") for name in ("masterCategory", "subCategory", "articleType")
    }
    return {
        **{name: data.get(name) for name in ATTRIBUTES},
        **category,
        "id": int(data["id"]),
        "productDisplayName": data["productDisplayName"],
        "description": descriptor,
        "style_group": min([int(data["id"]), *colours]),
        "image": f"images/{data['id']}.jpg",
    }


def items(source: Path, validation_percent: int) -> Iterator[dict]:
    """ITEMS rows with their split; test products whose title an earlier test product has are left out of the split."""
    titles = set()
    for row in products(source):
        group, title = row["style_group"], row["productDisplayName"]
        split = "train"
        if split_bucket(group) < 20:
            split = "test" if title not in titles else ""
            titles.add(title)
        elif split_bucket(group, salt="validation") < validation_percent:
            split = "validation"
        attributes = {name: row.get(name) for name in ATTRIBUTES}
        yield {
            "id": str(row["id"]),
            "text": " ".join(title.split()),
            "image": row["image"],
            "group": str(group),
            "split": split,
            **{
                name: value if name == "price" else None if value is None else str(value)
                for name, value in attributes.items()
            },
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--output_dir", type=Path, default=Path("fashion"), help="folder to write products.jsonl to")
    parser.add_argument(
        "--validation", type=int, default=0, help="percent of the other groups set aside for validation"
    )
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = options.output_dir / "products.jsonl"
    counts: dict[str, int] = {}
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for row in items(options.source, options.validation):
            counts[row["split"] or "left out"] = counts.get(row["split"] or "left out", 0) + 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
    print(f"{path}: {counts}; train with --items {path} --image_root {options.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
