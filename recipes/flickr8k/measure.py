"""Measure a trained model on Flickr8k's test images, each language's captions on their own.

    python recipes/flickr8k/measure.py --model runs/train/model --data flickr8k --image_root DIR

`--data` is what prepare.py wrote. Prints success@1/5/10 both ways with 95 % intervals, and their mean: what papers on captions
call R@k and mean recall, where an image's query counts as answered when any one of its captions is found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from mmembed import evaluate_retrieval, load_model, read_items, read_pairs
from mmembed.images import ImagePolicy, ImageReader

KS = (1, 5, 10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or name of the model")
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--image_root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="what is measured")
    options = parser.parse_args()
    model = load_model(options.model)
    captions = read_items(options.data / "captions.jsonl")
    images = read_items(options.data / "images.jsonl", image_root=options.image_root)
    pairs = read_pairs(options.data / "pairs.jsonl")
    reader = ImageReader(ImagePolicy(root=options.image_root))
    print("| captions | direction | success@1 | success@5 | success@10 | n |\n|---|---|---|---|---|---|")
    for language in sorted(set(captions["language"])):
        rows = [
            row
            for row, (spoken, split) in enumerate(zip(captions["language"], captions["split"]))
            if (spoken, split) == (language, options.split)
        ]
        own_pairs = pairs.select(rows)  # one pair a caption, in their order
        shown = {ids[0] for ids in own_pairs["positive_ids"]}
        gallery = images.select([row for row, id in enumerate(images["id"]) if id in shown])
        found = evaluate_retrieval(
            model, captions.select(rows), gallery, own_pairs, reader=reader, ks=KS, show_progress_bar=True
        )
        for direction in ("text_to_image", "image_to_text"):
            cells = [
                f"{found[f'{direction}_success@{k}']:.3f} [{found[f'{direction}_success@{k}_low']:.3f}, "
                f"{found[f'{direction}_success@{k}_high']:.3f}]"
                for k in KS
            ]
            print(f"| {language} | {direction} | {' | '.join(cells)} | {found[f'{direction}_n']:,.0f} |")
        recalls = [found[f"{way}_success@{k}"] for way in ("text_to_image", "image_to_text") for k in KS]
        print(f"| {language} | mean recall | {statistics.mean(recalls):.3f} | | | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
