"""What `mmembed encode` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.data_options import ItemsOptions, option


@dataclass
class EncodeOptions(ItemsOptions):
    """Turn items into a folder of vectors, which `mmembed index`, `mmembed evaluate` and `Embeddings.load` read.

    Interrupted, it goes on where it stopped when it is called again. Launched in several processes (`accelerate launch
    recipes/encode.py`), each takes its share, and the files are the same as one process writes. Without `items` and
    `data` the drawn catalogue is encoded.
    """

    # data, beside items and its columns
    data: str | None = option(None, "file of items, or a file or folder of a named format")
    format: str | None = option(
        None, "name of the data's format, see `mmembed convert-data --list_formats`; null: items, or a folder of tables"
    )
    read_options: dict[str, Any] = option({}, "further arguments of the format's reader")
    table: Literal["documents", "queries", "all"] = option(
        "documents", "which items, where queries and documents are two tables; all: both in one folder"
    )

    # vectors that are there already
    vectors: str | None = option(
        None,
        "file of vectors to take over instead of encoding: .npz, .npy, .safetensors, JSON lines such as *_feat.jsonl, "
        ".parquet, a saved dataset",
    )
    array: str | None = option(None, "which array of it, where use does not say so")
    vector_column: str | None = option(None, "field with the vector, in rows; id_column is the field with the id")
    ids: str | None = option(
        None, "file with one id a line, in the order of the vectors; null: the file's own, or those of the items"
    )
    normalise: bool = option(False, "divide each vector by its length; without it another length than 1 is an error")
    zeros: Literal["keep", "drop", "error"] = option("keep", "what becomes of a vector of zeros")

    # what encodes
    model: str | None = option(None, "embedding model: folder, Hub name, package:NAME/FOLDER, or an ONNX export")
    revision: str | None = option(None, "branch, tag or commit of a model on the Hub")
    use: list[Literal["text", "image", "fused"]] = option(
        [],
        "what of an item is encoded; several, or none named: all that the model reads and every item has, a folder each",
    )
    prompt: str | None = option(None, "put before each text; null: the model's own")
    batch_size: int = option(64, "rows a forward pass")
    num_workers: int | None = option(
        None, "processes that read and decode ahead; null: threads where the model is on a CPU, else the free cores"
    )
    device: str | None = option(
        None, "where the model runs, such as cpu or cuda:1; null: the process's own GPU, or the CPU"
    )
    precision: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "in which the model computes; null: as it was saved"
    )

    # what comes out
    output_dir: Path | None = option(None, "folder of the vectors; with several uses, of text/, image/ and fused/")
    dtype: Literal["float32", "float16"] | None = option(
        None, "of the stored vectors; null: float32, or as vectors that are taken over are"
    )
    shard_rows: int | None = option(
        None, "rows a file, the piece that a process takes and that is not done again; null: by the number of items"
    )
    show_progress_bar: bool = option(True, "show progress bars")
