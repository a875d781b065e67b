"""Turn Flickr8k with its captions into ITEMS and PAIRS: captions are queries, images are documents.

    python recipes/flickr8k/prepare.py --source DIR --language en --output_dir flickr8k

DIR holds `captions.jsonl` (one image a line: `image`, `split`, and lists of captions `en`, `zh_human`) and the images. Out
come `captions.jsonl` (ITEMS, one caption a row), `images.jsonl` (ITEMS, one image a row) and `pairs.jsonl`.
Of the training part, every tenth image by hash is set aside for validation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from mmembed.data.splits import split_bucket

FIELDS = {"en": "en", "zh": "zh_human"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--language", choices=FIELDS, nargs="+", default=["en"], help="captions in these languages")
    parser.add_argument("--output_dir", type=Path, default=Path("flickr8k"), help="folder to write to")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    captions, images, pairs = [], [], []
    with open(options.source / "captions.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            id = Path(row["image"]).stem
            split = row["split"]
            if split == "train" and split_bucket(id, salt="validation") < 10:
                split = "validation"
            images.append({"id": id, "image": row["image"], "group": id})
            for language in options.language:
                for number, text in enumerate(row[FIELDS[language]]):
                    caption = f"{id}#{language}{number}"
                    captions.append({"id": caption, "text": text, "group": id, "split": split, "language": language})
                    pairs.append({"query_id": caption, "positive_ids": [id], "negative_ids": []})
    for name, rows in (("captions", captions), ("images", images), ("pairs", pairs)):
        path = options.output_dir / f"{name}.jsonl"
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        os.replace(temporary, path)
        print(f"{path}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
