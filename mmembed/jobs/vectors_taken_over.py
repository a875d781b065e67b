"""Vectors that another program wrote → the folders that `mmembed encode` makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmembed.jobs.encode_options import EncodeOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError

# What others call the arrays of a use.
_CALLED = {"text": ("text", "txt", "title"), "image": ("image", "img", "photo", "visual"), "fused": ("fused", "multi")}


def take_over(options: EncodeOptions, output: Path, ids: Sequence[str] | None) -> dict[str, Path]:
    """Read a file of vectors and write each of its arrays as a folder of embeddings.

    Args:
        options: The file in `vectors`, and what of it is meant.
        output: Where the folders go; the folder itself where there is one.
        ids: The ids of the items in their order, where the options name items; used where the file has no ids.

    Returns:
        The folder of each use.
    """
    from mmembed.embedding_formats import read_embeddings
    from mmembed.embeddings import MANIFEST

    path = options.vectors or ""
    arrays = _arrays(options, path)
    folders = {}
    for use, array in arrays.items():
        folder = output if len(arrays) == 1 else output / use
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            whole = " of vectors" if (folder / MANIFEST).is_file() else ""
            raise OptionsError(f"--output_dir: {folder} is a folder{whole} already; name another")
        manifest: dict[str, Any] = {"model": options.model, "revision": options.revision, "source": Path(path).name}
        if use != "vectors":
            manifest["use"] = use
        given = options.ids if options.ids is not None else ids
        with as_option_errors():
            found = read_embeddings(
                path,
                ids=given,
                array=array,
                id_column=None if options.id_column == "id" else options.id_column,
                vector_column=options.vector_column,
                normalise=options.normalise,
                zeros=options.zeros,
                manifest=manifest,
            )
            if options.dtype is not None and str(found.vectors.dtype) != options.dtype:
                found.vectors = found.vectors[:].astype(options.dtype)
                found.manifest["dtype"] = options.dtype
            found.save(folder, **({"shard_rows": options.shard_rows} if options.shard_rows else {}))
        count, dim = found.vectors.shape
        sys.stdout.write(f"{use:<15} {count:,} vectors of {dim} numbers, {found.vectors.dtype}: {folder}\n")
        folders[use] = folder
    return folders


def _arrays(options: EncodeOptions, path: str) -> dict[str, str | None]:
    """Use → the array that holds its vectors; "vectors" where nothing says what they are of."""
    from mmembed.data.formats.vector_arrays import array_names

    if len(options.use) > 1 and options.array is not None:
        raise OptionsError(f"--array {options.array} is one, and --use names {' '.join(options.use)}")
    names = array_names(path) if os.path.isfile(path) else []
    if options.array is not None or len(names) < 2:
        if len(options.use) > 1:
            raise OptionsError(f"--use: {path} holds one array of vectors; name what it is of, {' or '.join(_CALLED)}")
        called = _use_of(options.array or (names[0] if names else ""))
        return {options.use[0] if options.use else called or "vectors": options.array}
    found = {use: [name for name in names if _use_of(name) == use] for use in options.use or _CALLED}
    chosen: dict[str, str | None] = {use: some[0] for use, some in found.items() if len(some) == 1}
    if not chosen or len(chosen) < len(options.use):
        raise OptionsError(
            f"--array: {path} holds several arrays of vectors, {', '.join(names)}; name the one, and with --use what it is of"
        )
    return chosen


def _use_of(name: str) -> str | None:
    return next((use for use, words in _CALLED.items() if name.lower().startswith(words)), None)
