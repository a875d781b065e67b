"""How much memory does an exact search over a mapped file take? The best documents of each query, and all that score enough.

    python benchmarks/exact_search.py
    python benchmarks/exact_search.py --queries 16000 --documents 50000 --dim 64

Documents are drawn on the sphere and written as memory-mapped `Embeddings` in float16. Each search runs in a process of its
own, which reports its peak resident memory, libraries, ids and queries included, and what these took before the search. A sample of the
queries is compared with brute force in float64. Of the file no more than a block is resident, so that the peak is also the
memory beyond the mapped file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from alternating import MEBIBYTE, alternate, machine

SEARCHES = ("top_k", "threshold")


def peak_mib() -> float:
    """This process's highest resident memory."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / MEBIBYTE


def write_documents(folder: str, count: int, dim: int) -> None:
    """Draw documents on the sphere, block by block, into a folder of embeddings."""
    import numpy as np

    from mmembed.embeddings import write_manifest, write_shard

    os.makedirs(folder)
    generator = np.random.default_rng(0)
    shards = []
    for start in range(0, count, 2**18):
        block = generator.standard_normal((min(2**18, count - start), dim), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        ids = [f"d{row}" for row in range(start, start + len(block))]
        shards.append(write_shard(folder, len(shards), ids, block.astype(np.float16)))
    write_manifest(folder, {"metric": "cosine", "dtype": "float16", "dim": dim, "count": count}, shards)


def draw_queries(count: int, dim: int) -> object:
    import numpy as np

    queries = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One search, over the file."""
    import numpy as np

    from mmembed.embeddings import Embeddings, read_rows
    from mmembed.search.ranked_search import exact_search
    from mmembed.search.threshold_search import threshold_search

    documents = Embeddings.load(options.folder).vectors
    queries = draw_queries(options.queries, options.dim)
    if options.use_faiss:
        import faiss  # noqa: F401  # so that it counts as library
    before = peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    found = {"before_mib": before}
    sample = np.random.default_rng(2).choice(options.queries, min(20, options.queries), replace=False)
    if options.child == "top_k":
        scores, rows = exact_search(queries, documents, options.k, use_faiss=options.use_faiss)
        found |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        found |= {"found": float(rows.size), "peak_mib": peak_mib()}
        found["right"] = float(np.mean([_is_best(queries[row], rows[row], documents) for row in sample.tolist()]))
    else:
        count, total, of_sample = 0, 0.0, {int(row): set() for row in sample}
        for hits in threshold_search(queries, documents, options.threshold):
            count += len(hits.scores)
            total += float(hits.scores.sum(dtype=np.float64))
            for row in np.flatnonzero(np.isin(hits.queries, sample)).tolist():
                of_sample[int(hits.queries[row])].add(int(hits.documents[row]))
        found |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        found |= {"found": float(count), "mean_score": total / max(1, count), "peak_mib": peak_mib()}
        truth = {row: set() for row in of_sample}
        for first in range(0, len(documents), 2**17):
            block = np.asarray(read_rows(documents, first, min(first + 2**17, len(documents))), dtype=np.float64)
            scores = (queries[list(truth)].astype(np.float64) @ block.T).astype(np.float32)
            for place, row in enumerate(truth):
                truth[row] |= set((first + np.flatnonzero(scores[place] >= np.float32(options.threshold))).tolist())
        found["right"] = float(np.mean([of_sample[row] == truth[row] for row in truth]))
    return found


def _is_best(query: object, rows: object, documents: object) -> bool:
    import numpy as np

    from mmembed.embeddings import read_rows

    scores = np.concatenate(
        [
            np.asarray(read_rows(documents, first, min(first + 2**17, len(documents))), np.float64)
            @ query.astype(float)
            for first in range(0, len(documents), 2**17)
        ]
    ).astype(np.float32)
    return np.lexsort((np.arange(len(scores)), -scores))[: len(rows)].tolist() == rows.tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=16_000)
    parser.add_argument("--documents", type=int, default=2_500_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threshold", type=float, default=0.4, help="lowest score of the search for all that reach it")
    parser.add_argument("--use_faiss", action="store_true", help="let FAISS compare the blocks of the first search")
    parser.add_argument("--searches", nargs="*", choices=SEARCHES, default=SEARCHES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=["documents", *SEARCHES], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "documents":
        write_documents(options.folder, options.documents, options.dim)
        print(json.dumps({}))
        return 0
    if options.child:
        print(json.dumps(measure(options)))
        return 0
    names = ("queries", "documents", "dim", "k", "threshold", "threads")
    kept = [f"--{name}={getattr(options, name)}" for name in names] + ["--use_faiss"] * options.use_faiss
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        kept += ["--folder", f"{folder}/documents"]
        alternate(__file__, {"documents": [*kept, "--child", "documents"]}, repeats=1, threads=options.threads)
        size = sum(path.stat().st_size for path in Path(folder, "documents").glob("*.npy"))
        systems = {name: [*kept, "--child", name] for name in options.searches}
        runs = alternate(__file__, systems, repeats=1, threads=options.threads)
    print("| search | s | CPU s | peak MiB | of it before the search | found | sample as brute force |")
    print("|---|---|---|---|---|---|---|")
    titles = {"top_k": f"best {options.k}", "threshold": f"score ≥ {options.threshold:g}"}
    for name, (run,) in runs.items():
        times = f"{run['seconds']:,.0f} | {run['cpu_seconds']:,.0f} | {run['peak_mib']:,.0f} | {run['before_mib']:,.0f}"
        print(f"| {titles[name]} | {times} | {run['found']:,.0f} | {run['right']:.0%} |")
    print(
        f"\n{options.queries:,} queries × {options.documents:,} documents × {options.dim}, a file of {size / MEBIBYTE:,.0f} "
        f"MiB; {machine(options.threads)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
