"""What does an index cost and find? mmembed's kinds against plain FAISS and sentence-transformers: time, memory, recall@10.

    python benchmarks/search.py
    python benchmarks/search.py --documents 2000 --queries 50 --dim 32 --repeats 1

The same vectors, from files, on every side: documents around centres, a query near a document, so that there is something to
find as there is in text embeddings. Recall is the share of the ten best by float64 that are found. What is put side by side
has the same structure and the same numbers (lists, probes, neighbours, segments). mmembed's searches give ids with exact
scores, equal ones in the order of ids; FAISS's give rows with rounded ones. Every run is a process of its own, in turns;
times are of all queries at once, and of single queries one after the other. Memory is a process's peak above what it had
with its libraries and the queries loaded; mmembed builds from a mapped file, the peers are given the array.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from alternating import alternate, machine, median, peak_memory, ratio

K = 10
OURS: dict[str, dict[str, Any]] = {
    "flat": {},
    "flat, float16": {"precision": "float16"},
    "flat, int8": {"precision": "int8"},
    "ivf": {"kind": "ivf"},
    "hnsw": {"kind": "hnsw"},
    "pq": {"kind": "pq"},
    "pq, rescored with int8": {"kind": "pq", "rescore": "int8"},
    "binary": {"kind": "binary"},
    "binary, rescored with signs": {"kind": "binary", "rescore": "signs"},
    "binary, rescored with int8": {"kind": "binary", "rescore": "int8"},
}
# Which of ours a peer is compared with.
PEERS = {
    "faiss flat": "flat",
    "faiss SQ fp16": "flat, float16",
    "faiss SQ8": "flat, int8",
    "faiss IVF": "ivf",
    "faiss HNSW": "hnsw",
    "faiss PQ": "pq",
    "faiss binary": "binary",
    "ST semantic_search": "flat",
    "ST semantic_search_faiss, ubinary, rescored": "binary, rescored with signs",
}


def write_vectors(options: argparse.Namespace) -> None:
    """Documents around centres, queries near documents, and the ten best of each by float64."""
    import numpy as np

    from mmembed.embeddings import Embeddings

    generator = np.random.default_rng(0)
    centres = generator.normal(size=(max(1, options.documents // 50), options.dim))
    documents = centres[generator.integers(len(centres), size=options.documents)]
    documents = documents + 0.7 * generator.normal(size=documents.shape)
    queries = documents[generator.integers(options.documents, size=options.queries)]
    queries = queries + 0.6 * generator.normal(size=queries.shape)
    sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (documents, queries)]
    for name, side in zip(("documents", "queries"), sides):
        np.save(f"{options.folder}/{name}.npy", side.astype(np.float32))
    vectors = np.load(f"{options.folder}/documents.npy", mmap_mode="r")
    # names of one length, so that their order is that of the rows
    Embeddings([f"d{row:08d}" for row in range(options.documents)], vectors).save(f"{options.folder}/embeddings")
    asked = np.load(f"{options.folder}/queries.npy").astype(np.float64)
    scores = np.concatenate(
        [asked @ vectors[start : start + 8192].astype(np.float64).T for start in range(0, len(vectors), 8192)], axis=1
    )
    np.save(f"{options.folder}/truth.npy", np.stack([np.argsort(-row, kind="stable")[:K] for row in scores]))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Build once, search for all queries at once and for single ones."""
    import numpy as np

    queries = np.load(f"{options.folder}/queries.npy")
    prepare = _ours if options.child in OURS else _peer
    build = prepare(options.child, options.folder)
    before = peak_memory()
    clocks = time.perf_counter(), time.process_time()
    search = build()
    found = {"build_cpu": time.process_time() - clocks[1]}
    search(queries[:1])
    clocks = time.perf_counter(), time.process_time()
    rows = search(queries)
    found |= {"seconds": time.perf_counter() - clocks[0], "cpu": time.process_time() - clocks[1]}
    times = []
    for row in range(min(100, len(queries))):
        start = time.process_time()
        search(queries[row : row + 1])
        times.append(1000 * (time.process_time() - start))
    truth = np.load(f"{options.folder}/truth.npy")
    recall = np.mean([len(set(one) & set(best)) / K for one, best in zip(rows, truth.tolist())])
    return found | {
        "one_ms": float(np.median(times)),
        "recall": float(recall),
        "peak_mib": peak_memory() - before,
    }


def _ours(name: str, folder: str) -> Callable[[], Callable[[Any], list[list[int]]]]:
    import faiss  # noqa: F401  # a library, not part of building

    from mmembed.embeddings import Embeddings
    from mmembed.search.index import Index

    if "int8" in name:
        import sentence_transformers.util  # noqa: F401  # likewise
    embeddings = Embeddings.load(f"{folder}/embeddings", verify=False)

    def build() -> Callable[[Any], list[list[int]]]:
        index = Index.build(embeddings, **OURS[name])
        return lambda queries: [[int(one[1:]) for one in found] for found in index.search(queries, K)]

    return build


def _peer(name: str, folder: str) -> Callable[[], Callable[[Any], list[list[int]]]]:
    import faiss
    import numpy as np

    if name.startswith("ST"):
        return _sentence_transformers(name, folder)
    count, dim = np.load(f"{folder}/documents.npy", mmap_mode="r").shape
    metric = faiss.METRIC_INNER_PRODUCT
    from mmembed.search.index_settings import IndexSettings

    def build() -> Callable[[Any], list[list[int]]]:
        documents = np.load(f"{folder}/documents.npy")
        if name == "faiss binary":
            binary = faiss.IndexBinaryFlat(dim)
            binary.add(np.packbits(documents > 0, axis=1))
            return lambda queries: binary.search(np.packbits(queries > 0, axis=1), K)[1].tolist()
        index = faiss.IndexFlatIP(dim)
        if name == "faiss SQ fp16":
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
        elif name == "faiss SQ8":
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, metric)
        elif name == "faiss IVF":
            same = IndexSettings("ivf").filled(count, dim)
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, same.lists, metric)
            index.nprobe = same.probes
        elif name == "faiss HNSW":
            same = IndexSettings("hnsw").filled(count, dim)
            index = faiss.IndexHNSWFlat(dim, same.neighbours, metric)
            index.hnsw.efConstruction, index.hnsw.efSearch = same.ef_construction, same.ef_search
        elif name == "faiss PQ":
            index = faiss.IndexPQ(dim, IndexSettings("pq").filled(count, dim).segments, 8, metric)
        if not index.is_trained:
            index.train(documents)
        index.add(documents)
        return lambda queries: index.search(queries, K)[1].tolist()

    return build


def _sentence_transformers(name: str, folder: str) -> Callable[[], Callable[[Any], list[list[int]]]]:
    import numpy as np
    import torch
    from sentence_transformers.util import dot_score, quantize_embeddings, semantic_search
    from sentence_transformers.util.quantization import semantic_search_faiss

    def build() -> Callable[[Any], list[list[int]]]:
        documents = np.load(f"{folder}/documents.npy")
        if name == "ST semantic_search":
            corpus = torch.from_numpy(documents)

            def search(queries: Any) -> list[list[int]]:
                found = semantic_search(torch.from_numpy(queries), corpus, top_k=K, score_function=dot_score)
                return [[hit["corpus_id"] for hit in hits] for hits in found]

            return search
        codes = quantize_embeddings(documents, "ubinary")
        # the index it makes, kept; each search would make one otherwise
        *_, index = semantic_search_faiss(
            documents[:1], codes, corpus_precision="ubinary", top_k=1, rescore=False, output_index=True
        )

        def search_index(queries: Any) -> list[list[int]]:
            found, _ = semantic_search_faiss(
                queries, corpus_index=index, corpus_precision="ubinary", top_k=K, rescore=True, rescore_multiplier=4
            )
            return [[hit["corpus_id"] for hit in hits] for hits in found]

        return search_index

    return build


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--systems", nargs="*", default=[*OURS, *PEERS], help="which are measured")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=["vectors", *OURS, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "vectors":
        write_vectors(options)
        print(json.dumps({}))
        return 0
    if options.child:
        print(json.dumps(measure(options)))
        return 0
    kept = [f"--{name}={getattr(options, name)}" for name in ("documents", "queries", "dim", "threads")]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        kept += ["--folder", folder]
        alternate(__file__, {"vectors": [*kept, "--child", "vectors"]}, repeats=1, threads=options.threads)
        systems = {name: [*kept, "--child", name] for name in options.systems}
        runs = alternate(__file__, systems, repeats=options.repeats, threads=options.threads)
    print(f"| index | recall@{K} | {options.queries:,} queries, CPU s | one query, CPU ms | build, CPU s | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name, found in runs.items():
        times = f"{median(found, 'cpu'):.2f} | {median(found, 'one_ms'):.2f} | {median(found, 'build_cpu'):.1f}"
        whose = "mmembed " if name in OURS else ""
        print(f"| {whose}{name} | {median(found, 'recall'):.3f} | {times} | {median(found, 'peak_mib'):.0f} |")
    print("\n| mmembed / peer | all queries | one query | build |")
    print("|---|---|---|---|")
    for peer, name in PEERS.items():
        if peer in runs and name in runs:
            cells = [ratio(runs[name], runs[peer], key) for key in ("cpu", "one_ms", "build_cpu")]
            print(f"| {name} / {peer} | {' | '.join(cells)} |")
    print(
        f"\n{options.documents:,} documents × {options.dim}, {options.repeats} runs of each; {machine(options.threads)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
