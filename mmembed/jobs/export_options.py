"""What `mmembed export` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.data_options import DataOptions, option

Use = Literal["auto", "text", "image", "fused", "any"]


@dataclass
class ExportOptions(DataOptions):
    """Turn a model into ONNX graphs that run without PyTorch's weights, each kept only if it gives what the model gives.

    Every graph is run on rows in several batch sizes, orders and paddings, and compared with the model; one that differs is
    not written, the report in the folder says why, and the exit status is 2. Give rows of your own, and pairs, so that the
    loss of NDCG@10 is known; without `items` and `data` drawn rows are used. Interrupted, it goes on where it stopped.
    """

    # data, beside items, documents and pairs
    data: str | None = option(None, "file of items, or a file or folder of a named format")
    format: str | None = option(
        None, "name of the data's format, see `mmembed convert-data --list_formats`; null: items, or a folder of tables"
    )
    read_options: dict[str, Any] = option({}, "further arguments of the format's reader")
    part: Literal["auto", "train", "validation", "test", "all"] = option(
        "auto", "part of the data that is judged; auto: validation, else test, where a split column is there, else all"
    )
    query_use: Use = option("auto", "what of a query is encoded; auto: text, or image where the model reads no text")  # type: ignore[assignment]
    document_use: Use = option(  # type: ignore[assignment]
        "auto", "what of a document is encoded; auto: image where model and documents have images, else text"
    )
    max_rows: int = option(200, "texts and images that are compared")
    max_queries: int = option(300, "judged queries")
    max_documents: int = option(1000, "documents among which they are ranked")

    # what is exported
    model: str | None = option(
        None, "model: folder, Hub name, package:NAME/FOLDER; or an export, whose float32 graphs are quantised"
    )
    kind: Literal["embedding", "reranker"] = option("embedding", "what the model is; reranker: scores pairs of texts")
    revision: str | None = option(None, "branch, tag or commit of a model on the Hub")
    verbs: list[Literal["text", "image", "fused", "reranker"]] = option([], "which graphs; none named: all")

    # how
    precision: list[Literal["fp32", "fp16", "int8"]] = option(["fp32"], "of the graphs, one or several")
    backend: list[Literal["onnxruntime", "openvino"]] = option(["onnxruntime"], "what runs the graphs, one or both")
    quantization: Literal["auto", "dynamic", "static"] = option(
        "auto", "of int8: ranges at run time, or calibrated on rows; auto: static for convolutions, else dynamic"
    )
    per_channel: bool = option(True, "int8: scale each output channel by itself")
    per_row: bool = option(True, "int8, dynamic: where a product narrows, scale each token by itself")
    reduce_range: bool = option(False, "int8: 7 bits a weight, for x86 machines without VNNI")
    calibration: Literal["minmax", "entropy", "percentile"] = option("minmax", "int8, static: how ranges follow")
    keep_float: int | None = option(
        None, "int8: how many of the most sensitive nodes stay float32; null: as few as the gate lets pass"
    )
    opset: int = option(18, "version of ONNX's operators")
    external_data_mib: int = option(1800, "MiB of weights above which they lie in a file of their own")

    # what comes out
    output_dir: Path | None = option(None, "folder of the graphs; new, empty, or an earlier export of the same model")
    overwrite: bool = option(False, "replace an export of another model")
    show_progress_bar: bool = option(True, "show progress bars")
