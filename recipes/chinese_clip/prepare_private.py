"""Turn a folder of your own images and texts into ITEMS and PAIRS.

    python recipes/chinese_clip/prepare_private.py --source my_photos --output_dir data/private

Each image of the folder (also below it) goes with the text of the same name: `a/shoe.jpg` with `a/shoe.txt`, one text a
line. Or give `--table texts.csv` (or .tsv, .jsonl) with the columns `image`, a path below the folder, and `text`. Out come
`texts.jsonl` and `images.jsonl` (ITEMS) and `pairs.jsonl`; the images stay where they are, and are read from under the folder
(`image_root`). Byte-equal images are one document, so that none stands in two parts; a fifth of the images, by a hash, is the
test part and a tenth chooses the best model.

What cannot be used (an image without a text, a text without an image, an image that is damaged) is left out and listed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from pathlib import Path

from tqdm.auto import tqdm

from mmembed.data.splits import split_bucket
from mmembed.images import ImageError, ImagePolicy, load_image

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the images")
    parser.add_argument("--table", type=Path, help="file with the columns image and text, instead of .txt files")
    parser.add_argument("--output_dir", type=Path, default=Path("data/private"), help="folder to write to")
    parser.add_argument("--test", type=int, default=20, help="share of groups held out, in percent")
    parser.add_argument("--validation", type=int, default=10, help="share of groups to choose the best model by")
    options = parser.parse_args()
    if not options.source.is_dir():
        parser.error(f"--source: {options.source} is no folder")
    texts = read_table(options.table) if options.table else read_texts(options.source)
    left_out: list[str] = []
    policy = ImagePolicy(root=options.source)
    found = {p.relative_to(options.source).as_posix() for p in options.source.rglob("*") if p.suffix.lower() in ENDINGS}
    left_out += [f"{name}: no text" for name in sorted(found - set(texts))]
    rows, pairs, images = [], [], {}
    for name, lines in tqdm(sorted(texts.items()), desc="images", unit="image"):
        if name not in found:
            left_out.append(f"{name}: no such image in {options.source}")
            continue
        try:
            load_image(name, policy=policy)
        except ImageError as error:
            left_out.append(f"{name}: {error}")
            continue
        content = hashlib.sha256((options.source / name).read_bytes()).hexdigest()[:16]
        images.setdefault(content, {"id": content, "image": name, "group": content})
        bucket = split_bucket(content, salt="split")
        split = (
            "test" if bucket < options.test else "validation" if bucket < options.test + options.validation else "train"
        )
        for number, text in enumerate(lines):
            rows.append({"id": f"{name}#{number}", "text": text, "group": content, "split": split})
            pairs.append({"query_id": f"{name}#{number}", "positive_ids": [content], "negative_ids": []})
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "left_out.txt").write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
    if not rows:
        sys.exit(f"no image goes with a text; {options.output_dir / 'left_out.txt'} says why for each")
    for table, lines in (("texts", rows), ("images", list(images.values())), ("pairs", pairs)):
        path = options.output_dir / f"{table}.jsonl"
        path.with_suffix(".tmp").write_text(
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in lines), encoding="utf-8"
        )
        os.replace(path.with_suffix(".tmp"), path)
        print(f"{path}: {len(lines)} rows")
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    print(f"{counts}; {len(left_out)} left out, see left_out.txt")
    return 0


def read_texts(folder: Path) -> dict[str, list[str]]:
    """Image → the lines of the text file beside it."""
    images = {path.with_suffix(""): path for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS}
    texts = {}
    for path in sorted(folder.rglob("*.txt")):
        image = images.get(path.with_suffix(""), path)
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        if any(lines):
            texts[image.relative_to(folder).as_posix()] = [line for line in lines if line]
    return texts


def read_table(path: Path) -> dict[str, list[str]]:
    """Image → its texts, from the columns `image` and `text`."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in file if line.strip()]
        else:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    texts: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        if not row.get("image") or not isinstance(row.get("text"), str):
            sys.exit(f"{path}: row {number}: found {row}, expected the columns image and text")
        if row["text"].strip():
            texts.setdefault(Path(row["image"]).as_posix(), []).append(row["text"].strip())
    return texts


if __name__ == "__main__":
    sys.exit(main())
