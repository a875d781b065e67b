"""The least that `mmembed train` can do: a small drawn catalogue, or a folder of images, and a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training.tiny_runs import png

MODEL = {
    "image_size": 32,
    "projection_dim": 8,
    "text_hidden_size": 16,
    "text_layers": 1,
    "text_heads": 2,
    "image_embedding_size": 8,
    "image_hidden_sizes": [8, 16],
    "image_depths": [1, 1],
}
WORDS = ["red", "blue", "green", "black", "white", "grey"]
THINGS = ["mug", "lamp", "shirt", "skirt", "hat", "sofa", "desk"]


def tiny_words(output_dir: Path, **options: Any) -> list[str]:
    """The words after `mmembed train`."""
    settings = {
        "output_dir": str(output_dir),
        "model_arguments": MODEL,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "bootstrap_samples": 50,
        "sheet_queries": 3,
        **options,
    }
    words = []
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def catalogue_words(output_dir: Path, cache: Path, **options: Any) -> list[str]:
    drawn = {"products": 60, "size": 48, "photos": 2, "cache_dir": str(cache), "num_workers": 0}
    return tiny_words(output_dir, catalogue=drawn, **options)


def write_shop(folder: Path, rows: int = 24, **changes: dict[int, Any]) -> Path:
    """items.jsonl and images/; `changes` maps a field to row → value."""
    (folder / "images").mkdir(parents=True)
    file = folder / "items.jsonl"
    with open(file, "w", encoding="utf-8") as lines:
        for row in range(rows):
            (folder / "images" / f"{row}.png").write_bytes(png(row))
            item: dict[str, Any] = {
                "id": f"s{row}",
                "text": f"{WORDS[row % 6]} {THINGS[row % 7]} {row}",
                "image": f"images/{row}.png",
                "group": f"g{row}",
                "split": ("test" if row % 4 == 0 else "train"),
            }
            for name, values in changes.items():
                if row in values:
                    item[name] = values[row]
            lines.write(json.dumps({k: v for k, v in item.items() if v is not None}) + "\n")
    return file
