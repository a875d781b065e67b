"""Arrays of vectors and their ids: `.npz` such as one of text and img, `.npy`, `.safetensors`. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmembed.data.schema import DataError, check_id, did_you_mean, shown

MAX_BYTES = 1 << 35  # of an array, uncompressed
MAX_DIM = 1 << 16
EXTENSIONS = (".npz", ".npy", ".safetensors")
_BOMB_BYTES, _BOMB_RATIO = 1 << 26, 100
_ID_NAMES = ("ids", "id", "keys", "names", "item_ids", "nm")


def read(
    path: str | os.PathLike, *, array: str | None = None, max_bytes: int = MAX_BYTES
) -> tuple[list[str] | None, np.ndarray]:
    """Read one array of vectors and, where the file has them, its ids.

    Ids are an array of strings or whole numbers beside the vectors, called `ids` (or `{array}_ids`); in safetensors, which
    holds no strings, the metadata's `ids`, a JSON list.

    Args:
        path: a file of `EXTENSIONS`.
        array: its name; needed where there are several.
        max_bytes: the largest array that is read.

    Returns:
        The ids or None, and the vectors (rows, dim), float16 or float32; a `.npy` file is memory-mapped.

    Raises:
        DataError: an array of Python objects, another shape or type, or a damaged file; names the array.

    Example:
        >>> file = getfixture("tmp_path") / "vectors.npz"
        >>> np.savez(file, text=np.eye(2, dtype=np.float32), img=np.eye(2)[::-1], ids=np.array(["a", "b"]))
        >>> ids, vectors = read(file, array="img")
        >>> ids, vectors.tolist()
        (['a', 'b'], [[0.0, 1.0], [1.0, 0.0]])
        >>> read(file)
        Traceback (most recent call last):
        mmembed.data.schema.DataError: .../vectors.npz: several arrays of vectors, ['img', 'text']; name the one that is meant
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if not os.path.isfile(path):
        raise DataError("no such file", file=path)
    if extension == ".npz":
        return _read_npz(path, array, max_bytes)
    if extension == ".npy":
        if array is not None:
            raise DataError(f"a .npy file has one array, without the name {array!r}", file=path)
        return None, _as_vectors(_open_npy(path), path, None)
    if extension == ".safetensors":
        return _read_safetensors(path, array, max_bytes)
    raise DataError(f"the extension {extension!r} is not one of {EXTENSIONS}", file=path)


def array_names(path: str | os.PathLike) -> list[str]:
    """The arrays of vectors (rows, dim) that a `.npz` or `.safetensors` file holds; of another file none.

    Args:
        path: the file.

    Returns:
        Their names, sorted.

    Raises:
        DataError: a damaged file, or an array of Python objects.
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if extension == ".npz":
        axes = {name: len(shape) for name, (shape, _) in _npz_headers(path).items()}
    elif extension == ".safetensors":
        with _opened_safetensors(path) as file:
            axes = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}
    else:
        return []
    return sorted(name for name, count in axes.items() if count == 2)


def _npz_headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    try:
        with zipfile.ZipFile(path) as file:
            return {
                entry.filename.removesuffix(".npy"): _npz_header(file, entry, path)
                for entry in file.infolist()
                if entry.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"not a whole .npz file ({error})", file=path) from None


def _read_npz(path: str, wanted: str | None, max_bytes: int) -> tuple[list[str] | None, np.ndarray]:
    headers = _npz_headers(path)
    name = _chosen({name: len(shape) for name, (shape, _) in headers.items()}, wanted, path)
    shape, dtype = headers[name]
    _check_size(shape, dtype, max_bytes, path, name)
    with_ids = _ids_array({key: (len(found), found[:1]) for key, (found, _) in headers.items()}, name, shape[:1])
    if with_ids is not None:
        _check_size(*headers[with_ids], max_bytes, path, with_ids)
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors = file[name]
            ids = None if with_ids is None else file[with_ids]
    except Exception as error:
        raise DataError(f"not a whole .npz file ({error})", file=path, field=name) from None
    return None if ids is None else _as_ids(ids, path, str(with_ids)), _as_vectors(vectors, path, name)


def _npz_header(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str) -> tuple[tuple[int, ...], np.dtype]:
    """What an array says it is, once the file has as many bytes for it."""
    name = entry.filename.removesuffix(".npy")
    with file.open(entry) as member:
        try:
            version = np.lib.format.read_magic(member)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(member)
        except Exception as error:  # numpy's parser of headers lets through nearly everything
            raise DataError(f"not an array ({error})", file=path, field=name) from None
        if dtype.hasobject:
            message = "an array of Python objects, which only a pickle brings back; save strings as an array of strings"
            raise DataError(message, file=path, field=name)
        claimed = dtype.itemsize * int(np.prod(shape, dtype=object))
        if entry.file_size > _BOMB_BYTES and entry.file_size > _BOMB_RATIO * max(1, entry.compress_size):
            message = f"{entry.compress_size:,} bytes unpack to {entry.file_size:,}, as those of no vectors do"
            raise DataError(message, file=path, field=name)
        if claimed != entry.file_size - member.tell():
            message = f"{dtype} {shape} takes {claimed} bytes, and {entry.file_size - member.tell()} are there"
            raise DataError(message, file=path, field=name)
    return shape, dtype


def _open_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error) or "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError("an array of Python objects or a pickle; save an array of numbers", file=path) from None
        raise DataError(f"not a whole .npy file ({error})", file=path) from None
    except Exception as error:  # numpy's parser of headers lets through nearly everything
        raise DataError(f"not a whole .npy file ({error})", file=path) from None


@contextlib.contextmanager
def _opened_safetensors(path: str, framework: str = "np") -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except DataError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, MemoryError) as error:
        raise DataError(f"not a whole .safetensors file ({error})", file=path) from None


def _read_safetensors(path: str, wanted: str | None, max_bytes: int) -> tuple[list[str] | None, np.ndarray]:
    with _opened_safetensors(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        name = _chosen({key: len(shape) for key, shape in shapes.items()}, wanted, path)
        kind = file.get_slice(name).get_dtype()
        if kind not in ("F16", "F32", "F64", "BF16"):
            raise DataError(f"vectors of {kind}, expected F16, BF16, F32 or F64", file=path, field=name)
        _check_size(shapes[name], np.dtype(np.float64), max_bytes, path, name)
        metadata = file.metadata() or {}
        with_ids = _ids_array({key: (len(one), one[:1]) for key, one in shapes.items()}, name, shapes[name][:1])
        ids = None if with_ids is None else _as_ids(file.get_tensor(with_ids), path, with_ids)
        vectors = None if kind == "BF16" else file.get_tensor(name)
    if vectors is None:  # numpy has no bfloat16
        with _opened_safetensors(path, "pt") as file:
            vectors = file.get_tensor(name).float().numpy()
    for key in (f"{name}_ids", "ids"):
        if key in metadata:
            ids = _listed_ids(metadata[key], path, key)
            break
    return ids, _as_vectors(vectors, path, name)


def _listed_ids(text: str, path: str, key: str) -> list[str]:
    try:
        found = json.loads(text)
        if not isinstance(found, list):
            raise ValueError(f"found {shown(found)}, expected a JSON list")
        return [check_id(one) for one in found]
    except (ValueError, RecursionError) as error:
        raise DataError(f"the metadata's ids: {error}", file=path, field=key) from None


def _chosen(axes: dict[str, int], wanted: str | None, path: str) -> str:
    vectors = sorted(name for name, count in axes.items() if count == 2)
    if wanted is not None:
        if wanted not in axes:
            raise DataError(f"no such array; found {sorted(axes)}{did_you_mean(wanted, axes)}", file=path, field=wanted)
        if axes[wanted] != 2:
            raise DataError(f"an array of {axes[wanted]} axes, expected (rows, dim)", file=path, field=wanted)
        return wanted
    if not vectors:
        raise DataError(f"no array of vectors (rows, dim); found {sorted(axes)}", file=path)
    if len(vectors) > 1:
        raise DataError(f"several arrays of vectors, {vectors}; name the one that is meant", file=path)
    return vectors[0]


def _ids_array(axes: dict[str, tuple[int, Any]], name: str, rows: Any) -> str | None:
    """The array of as many ids as there are vectors, by its name."""
    for candidate in (f"{name}_ids", f"{name}_id", *_ID_NAMES):
        if candidate in axes and axes[candidate][0] == 1 and tuple(axes[candidate][1]) == tuple(rows):
            return candidate
    return None


def _check_size(shape: tuple[int, ...], dtype: np.dtype, max_bytes: int, path: str, name: str) -> None:
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if size > max_bytes:
        raise DataError(f"{size:,} bytes; at most {max_bytes:,} are read", file=path, field=name)


def _as_ids(array: np.ndarray, path: str, name: str) -> list[str]:
    if array.dtype.kind not in "SUiu":
        raise DataError(f"ids of {array.dtype}, expected strings or whole numbers", file=path, field=name)
    try:
        found = [one.decode("utf-8") if isinstance(one, bytes) else one for one in array.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"ids that are not UTF-8 ({error})", file=path, field=name) from None
    for row, one in enumerate(found):
        try:
            found[row] = check_id(one)
        except ValueError as error:
            raise DataError(str(error), file=path, row=row, field=name) from None
    return found


def _as_vectors(array: np.ndarray, path: str, name: str | None) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind != "f":
        hint = "; quantised vectors are not taken back to numbers here" if array.dtype.kind in "iub" else ""
        raise DataError(
            f"found {array.dtype} {array.shape}, expected (rows, dim) of floats{hint}", file=path, field=name
        )
    if not 0 < array.shape[1] <= MAX_DIM:
        raise DataError(f"vectors of {array.shape[1]} numbers; 1 to {MAX_DIM} are read", file=path, field=name)
    return array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
