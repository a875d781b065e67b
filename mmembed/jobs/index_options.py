"""What `mmembed index` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmembed.jobs.data_options import option


@dataclass
class IndexOptions:
    """Which vectors become an index of which kind, what it is measured on before it is written, and where it goes.

    With queries and judgements the index is measured first: what it keeps of NDCG@k, its memory and its time, against
    every vector compared in float32. Where it keeps less than the floor, nothing is written and the exit status is 2.
    """

    # what is indexed, and where it goes
    embeddings: str | None = option(None, "folder of embeddings of the documents, as `mmembed encode` writes it")
    output_dir: str | None = option(None, "folder of the index")
    overwrite: bool = option(False, "replace an index that stands there")

    # what it is
    kind: Literal["flat", "ivf", "hnsw", "pq", "ivf_pq", "binary"] = option(
        "flat",
        "flat: every vector; ivf: lists; hnsw: a graph; pq: a byte a segment; ivf_pq: both; binary: a bit a number",
    )
    precision: Literal["float32", "float16", "int8"] | None = option(
        None, "of the numbers of flat, ivf and hnsw; null: float32"
    )
    truncate_dim: int | None = option(None, "dimensions that are searched, the first ones (Matryoshka); null: all")
    rescore: Literal["float32", "float16", "int8", "signs"] | None = option(
        None,
        "what the best candidates are scored by: whole vectors in a mapped file, or (binary) the query and the bits",
    )
    oversample: int | None = option(None, "candidates rescored for each that is asked for; null: 4")
    lists: int | None = option(None, "lists of ivf; null: about four times the root of the number of vectors")
    probes: int | None = option(None, "lists that a query looks into; null: an eighth, at least 8")
    neighbours: int | None = option(None, "of a vector in the graph of hnsw; null: 32")
    ef_construction: int | None = option(None, "candidates when a vector joins the graph; null: 100")
    ef_search: int | None = option(None, "candidates that a query looks at in the graph, at least; null: 64")
    segments: int | None = option(None, "bytes of a vector in pq; null: a quarter of the dimensions")
    calibration: str | None = option(None, "folder of embeddings to find the ranges of int8 on; null: the documents")

    # what it is measured on
    queries: str | None = option(None, "folder of embeddings of queries; null: the documents are each other's queries")
    pairs: str | None = option(None, "PAIRS: the positives of each query; scores, where it has them, are grades")
    qrels: str | None = option(None, "judgements as TREC has them, a line each: query 0 document grade")
    exclude_same_id: bool | None = option(None, "leave a query's own id out; null: where documents are the queries")
    k: int = option(10, "documents of a query that count")
    floor: float = option(0.95, "share of the uncompressed retrieval that must be kept")
    compare: bool = option(False, "measure other kinds and precisions beside, to choose from")
    report_only: bool = option(False, "measure, and write no index")
    allow_collapse: bool = option(False, "write the index although it keeps less than the floor")
    show_progress_bar: bool = option(True, "show progress bars")
