"""Write Flickr8k's Chinese captions in the layouts of MUGE, Flickr30k-CN and a private folder, to try the pipeline in small.

    python recipes/chinese_clip/flickr8k_as_published.py --source FLICKR8K --output_dir small

FLICKR8K holds `captions.jsonl` (`image`, `split`, `zh_human`) and the images. Its pictures are dealt to the three sets by a
hash, so that no picture stands in two: `small/muge`, `small/flickr30k_cn` and `small/private`, what the three prepare
scripts read.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import sys
from pathlib import Path

from mmembed.data.splits import split_bucket

SETS = ("muge", "flickr30k_cn", "private")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--output_dir", type=Path, default=Path("small"), help="folder to write to")
    parser.add_argument("--limit", type=int, help="at most so many pictures of each part and set")
    options = parser.parse_args()
    dealt: dict[tuple[str, str], list[dict]] = {}
    with open(options.source / "captions.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            name = SETS[split_bucket(row["image"], salt="sets") % 3]
            split = row["split"]
            if split == "train" and name == "flickr30k_cn" and split_bucket(row["image"], salt="validation") < 10:
                split = "valid"
            held = dealt.setdefault((name, split), [])
            if options.limit is None or len(held) < options.limit:
                held.append({**row, "number": number})
    for (name, split), rows in dealt.items():
        place = options.output_dir / name
        place.mkdir(parents=True, exist_ok=True)
        if name == "private":
            write_private(place, rows, options.source)
        elif name == "muge":
            write_published(
                place,
                "MR_{}_imgs.tsv",
                "MR_{}_queries.jsonl",
                "valid" if split == "test" else split,
                rows,
                options.source,
            )
        else:
            write_published(place, "{}_imgs.tsv", "{}_texts.jsonl", split, rows, options.source)
    print({f"{name} {split}": len(rows) for (name, split), rows in sorted(dealt.items())})
    return 0


def write_published(place: Path, images: str, texts: str, split: str, rows: list[dict], source: Path) -> None:
    keys = ("query_id", "query_text", "item_ids") if texts.startswith("MR_") else ("text_id", "text", "image_ids")
    with open(place / images.format(split), "w", encoding="ascii") as file:
        for row in rows:
            encoded = base64.b64encode((source / row["image"]).read_bytes()).decode("ascii")
            file.write(f"{row['number']}\t{encoded}\n")
    with open(place / texts.format(split), "w", encoding="utf-8") as file:
        for row in rows:
            for number, text in enumerate(row["zh_human"]):
                line = dict(zip(keys, (row["number"] * 10 + number, text, [row["number"]])))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_private(place: Path, rows: list[dict], source: Path) -> None:
    for row in rows:
        image = place / Path(row["image"]).name
        shutil.copyfile(source / row["image"], image)
        os.chmod(image, 0o644)
        image.with_suffix(".txt").write_text("\n".join(row["zh_human"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
