"""Each remedy against forgetting by its curve: both stages' metric over the weight between start and trained model.

    python recipes/chinese_clip/remedies.py --output_dir runs/remedies

Trains the two stages of remedies.yaml once for each remedy; the first stage is trained once and copied. Can be stopped and
started again. Writes REMEDY/02-russian/weight_curve.png for each, remedies.md and remedies.png for all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import yaml

from mmembed.cli import main as mmembed
from mmembed.jobs.curve_picture import draw_curves
from mmembed.jobs.forgetting_report import shown
from mmembed.pages import markdown_table

REMEDIES = {
    "none": {},
    "replay 0.1": {"replay": 0.1},
    "replay 0.3": {"replay": 0.3},
    "distillation, vectors": {"distillation": {"weight": 10.0, "kind": "embedding", "teacher": "start"}},
    "distillation, similarities": {"distillation": {"weight": 200.0, "kind": "similarity", "teacher": "start"}},
    "ema": {"ema": 0.98},
    "soup of 3": {"soup_seeds": [1, 2, 3]},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=Path, default=Path(__file__).with_name("remedies.yaml"), help="two stages")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/remedies"), help="folder to write to")
    parser.add_argument("--remedies", nargs="+", choices=REMEDIES, default=list(REMEDIES), help="which")
    options, more = parser.parse_known_args()  # further options go to `mmembed train`
    curves = {}
    for name in options.remedies:
        told = yaml.safe_load(options.stages.read_text(encoding="utf-8"))
        told["stages"][1] |= REMEDIES[name]
        place = options.output_dir / name.replace(" ", "_").replace(",", "")
        first = options.output_dir / options.remedies[0].replace(" ", "_").replace(",", "")
        place.mkdir(parents=True, exist_ok=True)
        # the first stage is the same for all: it is taken over from the first remedy's run
        for folder in (first / "base", *first.glob("01-*"), first / "cells"):
            if place != first and not (place / folder.name).exists():
                shutil.copytree(folder, place / f"{folder.name}.tmp", dirs_exist_ok=True)
                os.replace(place / f"{folder.name}.tmp", place / folder.name)
        (place / "stages.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        status = mmembed(["train", "--stages", str(place / "stages.yaml"), "--output_dir", str(place), *more])
        if status:
            return status
        (found,) = place.glob("02-*/weight_curve.json")
        curves[name] = json.loads(found.read_text(encoding="utf-8"))["forward"]
    old, new = next(iter(curves.values()))
    rows = [
        [name, f"{alpha}", shown(curve[old][alpha]), shown(curve[new][alpha])]
        for name, curve in curves.items()
        for alpha in curve[old]
        if alpha != "0" or name == options.remedies[0]
    ]
    page = markdown_table(rows, ["remedy", "alpha", f"success@1, {old}", f"success@1, {new}"])
    (options.output_dir / "remedies.md").write_text(page + "\n", encoding="utf-8")
    draw_curves(
        options.output_dir / "remedies.png",
        {
            name: [
                (curve[new][alpha]["mean"], *(curve[old][alpha][key] for key in ("mean", "low", "high")))
                for alpha in curve[old]
            ]
            for name, curve in curves.items()
        },
        title=f"success@1 on {old}, kept, over success@1 on {new}, learnt",
        subtitle="each line is a remedy, from alpha 0 (before the second stage) to alpha 1; up and to the right is better",
        x_title=f"success@1 on {new}",
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
