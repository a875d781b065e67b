"""What `mmembed serve` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmembed.jobs.data_options import ItemsOptions, option


@dataclass
class ServeOptions(ItemsOptions):
    """Which model answers, at which address, and how much may be asked at once.

    A model alone encodes; with an index, or a pipeline, it searches; with a reranker it reranks. The key is no option, so
    that no list of processes shows it: it is read from the environment.
    """

    # what is served
    model: str | None = option(None, "embedding model: a folder, a Hub name, package:NAME/FOLDER, or an ONNX folder")
    index: str | None = option(None, "folder of an index that is searched with the model's vectors")
    items: str | None = option(None, "ITEMS of the index's documents, for filters, attributes and the reranker")
    pipeline: str | None = option(None, "folder of a search pipeline, instead of model and index")
    reranker: str | None = option(None, "pair scorer for /rerank, and for /search over an index with items")
    reranker_kind: Literal["text", "vision_language", "blip_itm"] = option("text", "what kind of pair scorer that is")
    served_name: list[str] = option([], "names that callers may give the model; null: the last part of its folder")
    dimensions: list[int] = option([], "lengths to which callers may have vectors cut, of a model trained for them")
    device: str | None = option(None, "where models are put, such as cpu or cuda:0")

    # where
    host: str = option("127.0.0.1", "address to listen at; any but this machine's own asks for a key")
    port: int = option(8000, "port; 0 takes a free one, and prints it")
    key_variable: str = option("MMEMBED_API_KEY", "environment variable with the callers' key; unset: no key")
    allow_unauthenticated: bool = option(False, "serve beyond this machine without a key, behind something that asks")

    # how much
    max_body_bytes: int = option(10 << 20, "longest body of a request, in bytes")
    max_rows: int = option(256, "inputs of one request, or documents of one reranking")
    max_text_chars: int = option(100_000, "longest text, in characters")
    max_pixels: int = option(25_000_000, "largest image, width x height")
    max_results: int = option(1000, "largest k of a search")
    max_waiting_rows: int = option(2048, "rows of all requests that wait for the model; more are refused with 429")
    max_waiting_pixels: int = option(250_000_000, "pixels of all images that wait, decoded; more are refused with 429")
    max_waiting_bytes: int = option(256 << 20, "bytes of all bodies under way; more are refused with 429")
    max_rows_a_pass: int = option(32, "rows of a forward pass, of one request or of several")
    gather_ms: float = option(2.0, "milliseconds that a lone request waits for others to share its pass")
    body_seconds: float = option(30.0, "how long a body may take to arrive, in seconds")
    request_seconds: float = option(60.0, "how long a request may wait and be worked on, in seconds")
    drain_seconds: float = option(30.0, "how long requests under way are waited for at the end, in seconds")
    max_connections: int = option(1024, "open connections; more are refused")
