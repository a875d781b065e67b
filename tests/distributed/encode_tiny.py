"""Encodes a few items with a tiny model; run by one process or by several, killed or not, to compare what comes out."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from mmembed import dataset_encoding
from mmembed.dataset_encoding import encode_dataset
from mmembed.distributed import LaunchError, rank
from tests.tiny_models import tiny_dual_encoder

FEATURES = Features({"id": Value("string"), "text": Value("string"), "image": Image(decode=False)})


def items(rows: int) -> Dataset:
    def picture(row: int) -> dict:
        pixels = np.random.default_rng(row).integers(0, 255, (20 + row % 7, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        PILImage.fromarray(pixels).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    table = {
        "id": [f"item-{row}" for row in range(rows)],
        "text": [f"word{row % 60} {'red mug ' * (row % 9)}colour{row % 5}" for row in range(rows)],
        "image": [picture(row) for row in range(rows)],
    }
    return Dataset.from_dict(table, features=FEATURES)


def encode(options: dict[str, Any]) -> int:
    """Encode, and leave behind in files what happened; the process's exit status."""
    model = tiny_dual_encoder(seed=options.get("seeds", [0, 0, 0])[rank()])
    shards = 0
    write = dataset_encoding.write_shard

    def then_perhaps_die(*arguments):
        nonlocal shards
        entry = write(*arguments)
        shards += 1
        time.sleep(options.get("seconds_a_shard", 0))
        if options.get("killed") == [rank(), shards]:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    dataset_encoding.write_shard = then_perhaps_die
    out = Path(options["out"])
    try:
        found = encode_dataset(
            model,
            items(42),
            out / "vectors",
            use="fused",
            batch_size=4,
            shard_rows=8,
            num_workers=options.get("num_workers"),
            show_progress_bar=False,
        )
    except (LaunchError, ValueError) as error:
        (out / f"error-{rank()}").write_text(f"{type(error).__name__}: {error}")
        return 3
    finally:
        dataset_encoding.write_shard = write
    (out / f"done-{rank()}").write_text(json.dumps({"shards": shards, "count": len(found)}))
    return 0


if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    status = encode(json.loads(sys.argv[1]))
    if dist.is_initialized() and not status:
        dist.destroy_process_group()
    sys.exit(status)
