"""How do the parts of an index become a folder, and a folder the parts?"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from mmembed.data.schema import DataError, shown
from mmembed.search import index_files
from mmembed.search.index_building import IndexParts
from mmembed.search.index_kinds import BinaryStructure, FloatStructure, Structure, inverted_ids
from mmembed.search.index_settings import EXHAUSTIVE, IndexSettings
from mmembed.search.kept_vectors import DTYPES, KeptVectors
from mmembed.search.nearest import faiss_module
from mmembed.search.quantization import Calibration

_FLOATS_A_BLOCK = 2**22


def write_parts(folder: str, parts: IndexParts, manifest: dict[str, Any]) -> None:
    """Write a new folder.

    Args:
        folder: which is not there yet.
        parts: what is written.
        manifest: what is said of it, but for the files.
    """
    faiss = faiss_module()
    os.mkdir(folder)
    index_files.write_ids(folder, parts.ids)
    path = os.path.join(folder, index_files.STRUCTURE)
    if isinstance(parts.structure, BinaryStructure):
        faiss.write_index_binary(parts.structure.index, path)
    else:
        faiss.write_index(parts.structure.index, path)
    if parts.kept is not None:
        _write_kept(folder, parts.kept)
    index_files.write_manifest(folder, manifest)


def read_parts(folder: str, manifest: dict[str, Any], *, memory_map: bool = False) -> tuple[IndexParts, IndexSettings]:
    """Read a folder, once every file was compared with the manifest.

    Args:
        folder: the folder.
        manifest: as `index_files.read_manifest` gives it.
        memory_map: leave the structure's vectors in their file.

    Returns:
        The parts, and what the index is.

    Raises:
        DataError: a file is not what the manifest says, or is not what an index of these settings has.
    """
    path = os.path.join(folder, index_files.MANIFEST)
    try:
        given = IndexSettings.from_dict({**manifest["parameters"], "kind": manifest["kind"]})
        settings = given.filled(
            max(manifest["rows"], 2**62), manifest["dim"]
        )  # lists and centroids may be left of more
        if settings != given:
            raise ValueError(f"incomplete: {manifest['parameters']}")
    except (ValueError, TypeError) as error:
        raise DataError(f"{error}; build the index again", file=path, field="parameters") from None
    if memory_map and settings.kind not in EXHAUSTIVE:
        raise ValueError(f"memory_map=True serves {EXHAUSTIVE}, not {settings.kind!r}; load it without")
    index_files.check_files(folder, manifest)
    ids = index_files.read_ids(folder, manifest)
    binary = settings.kind == "binary"
    found = index_files.read_structure(folder, binary=binary, memory_map=memory_map)
    width = settings.truncate_dim or manifest["dim"]
    for problem in _problems(found, settings, width, len(ids)):
        file = os.path.join(folder, index_files.STRUCTURE)
        raise DataError(f"{problem}; build the index again", file=file)
    about = _calibrated_on(manifest, path)
    structure: Structure
    if binary:
        structure = BinaryStructure(found, width, mapped=memory_map)
    else:
        structure = FloatStructure(found, settings, mapped=memory_map)
        structure.calibration = _ranges_of(found, settings, about)
    kept = None
    if settings.rescore is not None and settings.rescore != "signs":
        kept = _read_kept(folder, settings.rescore, (len(ids), manifest["dim"]), about)
    return IndexParts(ids, structure, kept), settings


def _write_kept(folder: str, kept: KeptVectors) -> None:
    path = os.path.join(folder, index_files.KEPT)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=kept.dtype, shape=(len(kept), kept.dim))
    size = max(1, _FLOATS_A_BLOCK // kept.dim)
    for start in range(0, len(kept), size):
        array[start : start + size] = kept.codes(start, min(start + size, len(kept)))
    array.flush()
    if kept.calibration is not None:
        np.save(os.path.join(folder, index_files.RANGES), kept.calibration.ranges, allow_pickle=False)


def _read_kept(folder: str, precision: str, shape: tuple[int, int], about: Calibration) -> KeptVectors:
    array = index_files.read_array(folder, index_files.KEPT, shape, DTYPES[precision], mapped=True)
    if precision != "int8":
        return KeptVectors([array], precision)
    ranges = index_files.read_array(folder, index_files.RANGES, (2, shape[1]), np.dtype(np.float32), mapped=False)
    return KeptVectors([array], precision, dataclasses.replace(about, ranges=ranges))


def _calibrated_on(manifest: dict[str, Any], path: str) -> Calibration:
    """What the manifest says of a calibration, without its ranges."""
    found = manifest.get("calibration") or {"count": 0, "of": {}}
    count, source = (found.get("count"), found.get("of")) if isinstance(found, dict) else (None, None)
    if type(count) is not int or not isinstance(source, dict):
        raise DataError(f"found {shown(found)}, expected a count and what was counted", file=path, field="calibration")
    return Calibration(np.zeros((2, 0), np.float32), count, source)


def _ranges_of(index: Any, settings: IndexSettings, about: Calibration) -> Calibration | None:
    if settings.precision != "int8":
        return None
    faiss = faiss_module()
    trained = faiss.vector_to_array(scalar_quantiser(index, settings).trained)
    low, width = trained[: index.d], trained[index.d :]
    return dataclasses.replace(about, ranges=np.stack([low, low + width]))


def scalar_quantiser(index: Any, settings: IndexSettings) -> Any:
    """What codes the numbers of an index in "float16" or "int8"."""
    return (faiss_module().downcast_index(index.storage) if settings.kind == "hnsw" else index).sq


def _problems(index: Any, settings: IndexSettings, dim: int, rows: int) -> list[str]:
    """What in a structure that FAISS has read is not as its settings say, or would make a search go astray."""
    faiss = faiss_module()
    coded = settings.precision not in (None, "float32")
    names = {
        "flat": "IndexScalarQuantizer" if coded else "IndexFlatIP",
        "ivf": "IndexIVFScalarQuantizer" if coded else "IndexIVFFlat",
        "hnsw": "IndexHNSWSQ" if coded else "IndexHNSWFlat",
        "pq": "IndexPQ",
        "ivf_pq": "IndexIVFPQ",
        "binary": "IndexBinaryFlat",
    }
    wanted = names[settings.kind], 8 * -(-dim // 8) if settings.kind == "binary" else dim, rows
    found = type(index).__name__, int(index.d), int(index.ntotal)
    if found != wanted:
        return [f"a {found[0]} of {found[2]} × {found[1]}, the manifest says {wanted[0]} of {wanted[2]} × {wanted[1]}"]
    problems = []
    if settings.kind != "binary" and index.metric_type != faiss.METRIC_INNER_PRODUCT:
        problems.append("its metric is not the inner product")
    if not index.is_trained:
        problems.append("it has not learnt what it needs")
    if coded:
        quantiser = scalar_quantiser(index, settings)
        wanted_type = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
        ranges = faiss.vector_to_array(quantiser.trained)
        if quantiser.qtype != wanted_type[str(settings.precision)] or not np.isfinite(ranges).all():
            problems.append(f"its numbers are not of {settings.precision}")
        elif settings.precision == "int8" and len(ranges) != 2 * dim:
            problems.append(f"{len(ranges)} numbers of ranges for {dim} dimensions")
    if settings.kind == "hnsw" and faiss.downcast_index(index.storage).ntotal != rows:
        problems.append("a graph and vectors of different numbers")
    if settings.kind in ("pq", "ivf_pq") and (index.pq.M, index.pq.nbits) != (settings.segments, 8):
        problems.append(f"{index.pq.M} segments, the manifest says {settings.segments}")
    if settings.kind in ("ivf", "ivf_pq"):
        held = np.sort(np.concatenate([np.zeros(0, np.int64), *inverted_ids(index)]))
        if index.nlist != settings.lists or not np.array_equal(held, np.arange(rows)):
            problems.append(f"{index.nlist} lists of {len(held)} rows, the manifest says {settings.lists} of {rows}")
    return problems
