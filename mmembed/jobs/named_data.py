"""A file or folder of a named format → the tables of a run, and the folder that its images may be read from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mmembed.data.schema import DataError
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.training_data import Tables


def named_tables(
    path: str, format: str | None, *, image_root: str | None = None, read_options: dict[str, Any] | None = None
) -> Tables | None:
    """Read a named format; None where the path is a plain file of items.

    Args:
        path: A file or folder.
        format: The format's name; None takes a folder for one of tables, and a file or a saved dataset for items.
        image_root: Folder that images may be read from; what all of them have in common when None.
        read_options: Further arguments of the format's reader.

    Returns:
        The tables, `documents` None where queries and documents are one; or None.

    Raises:
        OptionsError: An unknown format or option.
        DataError: A fault in the data, or documents that are named by id alone.
    """
    from mmembed.data.named_formats import read_collection
    from mmembed.encode import reader_of

    if format is None:
        folder = Path(path)
        if not folder.exists():
            raise DataError("there is no such file or folder", file=path)
        if not folder.is_dir() or (folder / "dataset_info.json").exists():
            return None
        format = "mmembed"
    given = {**({"image_root": image_root} if image_root else {}), **(read_options or {})}
    with as_option_errors():
        collection = read_collection(path, format, **given)
    for note in collection.notes[:10]:
        sys.stdout.write(f"note            {note}\n")
    if collection.documents is None:
        raise DataError("this data names documents by id alone; the documents themselves are needed", file=path)
    # the format's reader has checked that images lie under its root; what they have in common lies there too
    tables = {id(table): table for table in (collection.queries, collection.documents)}.values()
    roots = [str(root) for table in tables if (root := reader_of(table).policy.root) is not None]
    root = image_root or (os.path.commonpath(roots) if roots else None)
    return Tables(collection.queries, None if collection.is_one_table else collection.documents, collection.pairs, root)
