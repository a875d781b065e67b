"""Turn MUGE (the e-commerce retrieval set of Chinese-CLIP) as it is published into ITEMS and PAIRS.

    python recipes/chinese_clip/prepare_muge.py --source MUGE --output_dir data/muge

MUGE holds `MR_{train,valid}_queries.jsonl` (`query_id`, `query_text`, `item_ids`) and `MR_{train,valid}_imgs.tsv` (id, tab,
the JPEG in base64). Out come `queries.jsonl` and `images.jsonl` (ITEMS), `pairs.jsonl` and the images as files. `valid`
becomes the test part, as in the published figures, whose own test part has no answers (and is left out here); of the
training queries every fiftieth, by a hash of its images, is set aside to choose the best model by.

Can be stopped and started again: images that are there are not written twice.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from mmembed.data.splits import split_bucket

SPLITS = {"train": "train", "valid": "test"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the published files")
    parser.add_argument("--output_dir", type=Path, default=Path("data/muge"), help="folder to write to")
    parser.add_argument("--validation", type=int, default=2, help="share of training queries, in percent, to choose by")
    options = parser.parse_args()
    wanted = [options.source / f"MR_{s}_{end}" for s in SPLITS for end in ("queries.jsonl", "imgs.tsv")]
    if missing := [str(path) for path in wanted if not path.is_file()]:
        parser.error(f"not there: {', '.join(missing)}; --source is the unpacked download")
    queries, images, pairs = [], {}, []
    for published, split in SPLITS.items():
        held = write_images(options.source / f"MR_{published}_imgs.tsv", options.output_dir)
        images |= held
        for place, row in json_lines(options.source / f"MR_{published}_queries.jsonl"):
            id, text, items = f"q{row['query_id']}", row["query_text"], [str(item) for item in row["item_ids"]]
            if lost := [item for item in items if item not in held]:
                sys.exit(f"{place}: item_ids {lost[:3]} have no image in MR_{published}_imgs.tsv")
            # queries that look for the same items stay together
            chosen = split == "train" and split_bucket(min(items), salt="validation") < options.validation
            queries.append({"id": id, "text": text, "split": "validation" if chosen else split})
            pairs.append({"query_id": id, "positive_ids": items, "negative_ids": []})
    documents = [{"id": id, "image": path} for id, path in images.items()]
    for name, rows in (("queries", queries), ("images", documents), ("pairs", pairs)):
        write_lines(options.output_dir / f"{name}.jsonl", rows)
    return 0


def write_images(tsv: Path, folder: Path) -> dict[str, str]:
    """Write the images of a file of `id<TAB>base64` lines; id → path below the folder."""
    paths = {}
    with (
        open(tsv, encoding="ascii") as lines,
        tqdm(total=tsv.stat().st_size, unit="B", unit_scale=True, desc=tsv.name) as bar,
    ):
        for number, line in enumerate(lines, start=1):
            bar.update(len(line))
            id, tab, encoded = line.rstrip("\n").partition("\t")
            if not tab or not id.isalnum():
                sys.exit(f"{tsv}:{number}: found {line[:40]!r}, expected an id, a tab and an image in base64")
            paths[id] = f"images/{id[-2:]}/{id}.jpg"
            path = folder / paths[id]
            if path.is_file():
                continue
            try:
                data = base64.b64decode(encoded, altchars=b"-_" if {"-", "_"} & set(encoded) else None, validate=True)
            except (binascii.Error, ValueError) as error:
                sys.exit(f"{tsv}:{number}: the image of {id} is not base64 ({error}); is the download whole?")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".tmp").write_bytes(data)
            os.replace(path.with_suffix(".tmp"), path)
    return paths


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                sys.exit(f"{path}:{number}: not JSON: {error}")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.with_suffix(".tmp").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    os.replace(path.with_suffix(".tmp"), path)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    sys.exit(main())
