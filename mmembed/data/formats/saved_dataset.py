"""A folder that `datasets.Dataset.save_to_disk` wrote."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from datasets import Features

from mmembed.data.schema import DataError

BATCH_ROWS = 1024


def is_saved_dataset(path: str | os.PathLike) -> bool:
    """Whether the folder is one that `save_to_disk` wrote, of one table or of several splits."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def read(path: str | os.PathLike) -> Iterator[tuple[int, pa.Table]]:
    """Read a saved dataset in pieces, from its Arrow files, without the features that would decode a row.

    Args:
        path: the folder.

    Yields:
        The row, from 0, at which the piece begins, and the piece, whose text is checked to be UTF-8.

    Raises:
        DataError: a folder of several splits, or a damaged one; names it.
    """
    path = os.fspath(path)
    row = 0
    for name in _arrow_files(path):
        try:
            with pa.memory_map(os.path.join(path, name)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    batch.validate(full=True)
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        piece = pa.Table.from_batches([batch.slice(start, BATCH_ROWS)])
                        yield row, piece
                        row += piece.num_rows
        except (pa.ArrowException, OSError, MemoryError) as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise DataError(f"{name} cannot be read: {reason}", file=path) from None


def _arrow_files(path: str) -> list[str]:
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        splits = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        raise DataError(
            f"a folder of several splits {splits}; name one of them: {path}/{(splits or ['train'])[0]}", file=path
        )
    try:
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            names = [entry["filename"] for entry in json.load(file)["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"state.json cannot be read: {error}", file=path) from None
    for name in names:
        # state.json is data: it must not lead out of its own folder.
        if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
            raise DataError(f"state.json names the file {name!r:.80}, which is not in the folder", file=path)
    return names


def write(path: str | os.PathLike, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema as a folder that `datasets.load_from_disk` reads.

    Args:
        path: the folder, which must not exist.
        tables: the pieces, in order.
        schema: their schema, with its metadata.
    """
    os.mkdir(path)
    name = "data-00000-of-00001.arrow"
    digest = hashlib.sha256()
    with pa.ipc.new_stream(os.path.join(path, name), schema) as sink:
        for table in tables:
            sink.write_table(table)
    with open(os.path.join(path, name), "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": digest.hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {
        "citation": "",
        "description": "",
        "features": Features.from_arrow_schema(schema).to_dict(),
        "homepage": "",
        "license": "",
    }
    for file_name, content in (("state.json", state), ("dataset_info.json", info)):
        with open(os.path.join(path, file_name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
