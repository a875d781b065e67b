"""Is a folder the index that was written, whole and of the model that is meant? Asked before any of it is read.

    manifest.json    what the index is, what made its vectors, and the size and SHA-256 of every other file
    ids.jsonl        an id a line, as a JSON string; null for a vector of a graph that was removed
    index.faiss      the structure, as FAISS writes it
    kept.npy         whole vectors that candidates are scored by, where the index keeps some
    ranges.npy       (2, dim) the range of each dimension, where whole vectors are kept in int8

The manifest carries a hash of itself, so that no byte of a folder can change unseen. That is no signature: whoever can
write the folder can write it all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmembed.data.schema import DataError, check_id, shown
from mmembed.search.nearest import faiss_module

MANIFEST = "manifest.json"
FORMAT = "mmembed-index"
VERSION = 1
IDS, STRUCTURE, KEPT, RANGES = "ids.jsonl", "index.faiss", "kept.npy", "ranges.npy"
FILES = (IDS, STRUCTURE, KEPT, RANGES)

_MAX_MANIFEST = 2**20
_ONE_READ = threading.Lock()  # FAISS's limits hold for the whole process


def write_manifest(folder: str, about: dict[str, Any]) -> dict[str, Any]:
    """Hash the files of a new folder and write manifest.json, the last of them."""
    files = {}
    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            files[name] = {"bytes": os.path.getsize(path), "sha256": _sha256(path)}
    manifest = {"format": FORMAT, "version": VERSION, **about, "files": files}
    manifest["manifest_sha256"] = _own_hash(manifest)
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8", newline="\n") as file:
        file.write(_text(manifest))
    return manifest


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder, unchanged since it was written; no other file is opened.

    Raises:
        DataError: there is none, it is damaged, or it is of something else or of another version.
    """
    path = os.path.join(folder, MANIFEST)
    if not os.path.isdir(folder):
        raise DataError("no such folder; build an index and save it there", file=folder)
    _check_plain(path)
    if os.path.getsize(path) > _MAX_MANIFEST:
        raise DataError(f"{os.path.getsize(path):,} bytes; the manifest of an index has less than a MiB", file=path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        manifest = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); the file is damaged, build the index again", file=path) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"not the manifest of an index: no format {FORMAT!r}", file=path)
    if manifest.get("version") != VERSION:
        message = f"found {shown(manifest.get('version'))}, this mmembed reads version {VERSION}"
        raise DataError(message, file=path, field="version")
    if manifest.get("manifest_sha256") != _own_hash(manifest) or data != _text(manifest).encode(
        "utf-8", "surrogatepass"
    ):
        raise DataError("not the file that was written (its hash differs): it was changed or damaged", file=path)
    for field, kinds in _FIELDS.items():
        if not isinstance(manifest.get(field), kinds) or isinstance(manifest.get(field), bool):
            raise DataError(f"found {shown(manifest.get(field))}, which an index does not have", file=path, field=field)
    for field in ("dim", "count", "rows"):
        if manifest[field] < (field == "dim"):
            raise DataError(f"found {manifest[field]}", file=path, field=field)
    if manifest["metric"] != "cosine":
        raise DataError(f"found {shown(manifest['metric'])}, expected 'cosine'", file=path, field="metric")
    _check_entries(manifest["files"], path)
    return manifest


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "parameters": dict,
    "metric": str,
    "dim": int,
    "count": int,
    "rows": int,
    "files": dict,
}


def is_index(path: str) -> bool:
    """Whether a file is the manifest of an index, damaged or not."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX_MANIFEST).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def check_files(folder: str, manifest: dict[str, Any]) -> None:
    """Compare every file with what the manifest says of it.

    Raises:
        DataError: one is missing, a link, of another size or of other content; names it and what to do.
    """
    for name in FILES:
        if name not in manifest["files"] and os.path.lexists(os.path.join(folder, name)):
            raise DataError("not in the manifest, so not of this index; delete it", file=os.path.join(folder, name))
    for name, entry in manifest["files"].items():
        path = os.path.join(folder, name)
        _check_plain(path)
        size = os.path.getsize(path)
        if size != entry["bytes"]:
            message = f"{size:,} bytes, the manifest says {entry['bytes']:,}: it was cut, damaged or exchanged"
            raise DataError(f"{message}; build the index again", file=path)
        found = _sha256(path)
        if found != entry["sha256"]:
            message = (
                f"its SHA-256 is {found[:12]}…, the manifest says {entry['sha256'][:12]}…: it was damaged or exchanged"
            )
            raise DataError(f"{message}; build the index again", file=path)


def check_made_by(folder: str, manifest: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare what made the vectors with what the caller expects; what is None is not asked.

    Raises:
        DataError: they differ, or the index does not say; names both.
    """
    path = os.path.join(folder, MANIFEST)
    for field, wanted in expected.items():
        found = manifest.get(field)
        if wanted is None or found == wanted:
            continue
        if found is None:
            message = f"the index does not say, and {wanted!r} is expected; build it from embeddings that do"
        else:
            message = f"the index has {found!r}, expected is {wanted!r}; build it anew, or load it with what made it"
        raise DataError(message, file=path, field=field)


def write_ids(folder: str, ids: Sequence[str | None]) -> None:
    """Write ids.jsonl."""
    with open(os.path.join(folder, IDS), "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)


def read_ids(folder: str, manifest: dict[str, Any]) -> list[str | None]:
    """The ids, as many as the manifest says and each once."""
    path = os.path.join(folder, IDS)
    ids: list[str | None] = []
    with open(path, "rb") as file:
        for line, data in enumerate(file, 1):
            try:
                value = json.loads(data.decode("utf-8"))
                if value is not None and not isinstance(value, str):
                    raise ValueError(f"found {shown(value)}, expected a string")
                ids.append(None if value is None else check_id(value))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{error}; build the index again", file=path, line=line) from None
    named = [one for one in ids if one is not None]
    if (len(ids), len(named)) != (manifest["rows"], manifest["count"]) or len(set(named)) < len(named):
        message = f"{len(set(named))} different ids in {len(ids)} lines, the manifest says {manifest['count']} in "
        raise DataError(f"{message}{manifest['rows']}", file=path)
    return ids


def read_structure(folder: str, *, binary: bool, memory_map: bool) -> Any:
    """The FAISS index, from a file whose hash was compared; no count in it makes more memory than the file has."""
    faiss = faiss_module()
    path = os.path.join(folder, STRUCTURE)
    limit = os.path.getsize(path)
    # tables that distances are looked up in, and inner products not
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_PQ_SKIP_SDC_TABLE | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
    flags |= faiss.IO_FLAG_MMAP_IFC if memory_map else 0
    with _ONE_READ:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(limit)
        faiss.set_deserialization_loop_limit(limit)
        try:
            return (faiss.read_index_binary if binary else faiss.read_index)(path, flags)
        except (RuntimeError, MemoryError) as error:
            said = str(error).strip().split("\n")[0].split(": Error: ")[-1][:200]
            raise DataError(f"FAISS cannot read it: {said}; build the index again", file=path) from None
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def read_array(folder: str, name: str, shape: tuple[int, int], dtype: np.dtype, *, mapped: bool) -> np.ndarray:
    """An array of a shape and dtype that are known already."""
    path = os.path.join(folder, name)
    try:
        array = np.load(path, mmap_mode="r" if mapped and shape[0] else None, allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise DataError(f"not a whole .npy file ({error}); build the index again", file=path) from None
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise DataError(f"found {array.dtype} {array.shape}, the manifest says {dtype} {shape}", file=path)
    return array


def _check_plain(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        raise DataError("missing; the folder holds no index, or not all of one", file=path) from None
    if not stat.S_ISREG(mode):
        raise DataError("a link or no plain file; an index lies in its folder, copy the file there", file=path)


def _check_entries(files: dict[str, Any], path: str) -> None:
    for name in (IDS, STRUCTURE):
        if name not in files:
            raise DataError(f"no {name}", file=path, field="files")
    for name, entry in files.items():
        if name not in FILES:
            raise DataError(f"found {shown(name)}, known are {', '.join(FILES)}", file=path, field="files")
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or size < 0 or not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            raise DataError(f"found {shown(entry)}, expected bytes and a SHA-256", file=path, field=name)


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"


def _own_hash(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
