"""How fast are batches planned? mmembed's `DistinctBatchSampler` against sentence-transformers' NO_DUPLICATES samplers.

    python recipes/fashion/prepare.py --source DIR --output_dir fashion
    python benchmarks/sampler.py --items fashion/products.jsonl --image_root DIR

Rows a second for everything from a table of titles and images to the batches of a whole epoch: mmembed hashes the encoded
images, read from their files or from a table's own bytes; sentence-transformers decodes each image, once a check
(NO_DUPLICATES, the sampler its losses recommend) or once (NO_DUPLICATES_HASHED). Every run is a process of its own, in turns.
Files lie in the system's cache after the first run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from alternating import alternate, machine, median, peak_memory, ratio

BATCH_SIZE = 64
# name → source of the images
OURS = {"mmembed, files": "files", "mmembed, bytes in the table": "bytes"}
PEERS = {"NO_DUPLICATES": False, "NO_DUPLICATES_HASHED": True}


def read_table(options: argparse.Namespace, source: str) -> Any:
    """ITEMS of the first rows; as `source` says, with paths or with the files' bytes inside."""
    from mmembed import read_items

    items = read_items(options.items, image_root=options.image_root)
    items = items.select(range(min(options.rows, len(items)))).select_columns(["id", "text", "image", "group"])
    if source == "bytes":
        items = items.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}})
    return items


def plan_ours(options: argparse.Namespace, source: str) -> tuple[float, int]:
    """Seconds, and the rows that were planned."""
    from mmembed.data.samplers import DistinctBatchSampler
    from mmembed.data.training_pairs import TrainingPairs

    items = read_table(options, source)
    start = time.perf_counter()
    data = TrainingPairs(items, items, show_progress_bar=False)
    planned = sum(len(batch) for batch in DistinctBatchSampler(data, batch_size=BATCH_SIZE))
    return time.perf_counter() - start, planned


def plan_peer(options: argparse.Namespace, hashed: bool) -> tuple[float, int]:
    """Seconds, and the rows that were planned."""
    import torch
    from datasets import Dataset, Image
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    items = read_table(options, "files")
    columns = {"text": items["text"][:], "image": [image["path"] for image in items["image"][:]]}
    dataset = Dataset.from_dict(columns).cast_column("image", Image())
    start = time.perf_counter()
    sampler = NoDuplicatesBatchSampler(
        dataset, BATCH_SIZE, drop_last=False, generator=torch.Generator(), precompute_hashes=hashed
    )
    planned = sum(len(batch) for batch in sampler)
    return time.perf_counter() - start, planned


def measure_one(options: argparse.Namespace) -> dict[str, float]:
    if options.child in OURS:
        seconds, planned = plan_ours(options, OURS[options.child])
    else:
        seconds, planned = plan_peer(options, PEERS[options.child])
    return {"rows_per_second": planned / seconds, "seconds": seconds, "rows": planned, "peak_mib": peak_memory()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", required=True, help="JSON lines with id, text, image and group")
    parser.add_argument("--image_root", required=True, help="folder that the image paths start from")
    parser.add_argument("--rows", type=int, default=1500, help="rows that all of them plan")
    parser.add_argument("--more_rows", type=int, default=7000, help="rows that mmembed plans besides")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of numerical libraries in a run")
    parser.add_argument("--child", choices=[*OURS, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_one(options)))
        return 0
    common = ["--items", options.items, "--image_root", str(Path(options.image_root).resolve())]
    print(
        "| sampler | rows | rows/s | ratio to NO_DUPLICATES | to NO_DUPLICATES_HASHED | peak MiB |\n|---|---|---|---|---|---|"
    )
    systems = {name: [*common, f"--rows={options.rows}", "--child", name] for name in (*OURS, *PEERS)}
    runs = alternate(__file__, systems, repeats=options.repeats, threads=options.threads)
    more = {name: [*common, f"--rows={options.more_rows}", "--child", name] for name in OURS}
    more_runs = alternate(__file__, more, repeats=options.repeats, threads=options.threads) if options.more_rows else {}
    for name, found in [*runs.items(), *more_runs.items()]:
        ratios = [ratio(found, runs[peer], "rows_per_second") if name != peer else "1" for peer in PEERS]
        figures = [median(found, key) for key in ("rows", "rows_per_second", "peak_mib")]
        print("| {} | {:,.0f} | {:,.0f} | {} | {} | {:.0f} |".format(name, *figures[:2], *ratios, figures[2]))
    print(f"\n{machine(options.threads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
