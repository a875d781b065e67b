"""Vectors → the parts of an index: what is searched, and what candidates are scored by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from mmembed.embeddings import Embeddings
from mmembed.search.index_kinds import FloatStructure, Selected, Structure, new_structure
from mmembed.search.index_settings import IndexSettings
from mmembed.search.kept_vectors import KeptVectors
from mmembed.search.quantization import Calibration, truncated
from mmembed.search.vectors import Rows, VectorRows

_FLOATS_A_BLOCK = 2**22


@dataclass
class IndexParts:
    """What an index consists of; a vector has the same row in each part.

    Args:
        ids: (rows,) the id of each row; None for a vector of a graph that was removed.
        structure: what is searched.
        kept: whole vectors that candidates are scored by; None where they are scored by what is searched.
    """

    ids: list[str | None]
    structure: Structure
    kept: KeptVectors | None = None


def build_parts(
    embeddings: Embeddings,
    settings: IndexSettings,
    *,
    calibration: Embeddings | None = None,
    show_progress_bar: bool = False,
) -> IndexParts:
    """Read the vectors block by block and put them where they are searched.

    Args:
        embeddings: n ids and their vectors, such as memory-mapped ones.
        settings: filled in for these.
        calibration: vectors to find the ranges of int8 on; the embeddings when None.
        show_progress_bar: show one.

    Returns:
        The parts.
    """
    whole = VectorRows([embeddings.vectors])
    searched: Rows = whole if settings.truncate_dim is None else _Truncated(whole, settings.truncate_dim)
    ranges = None
    if settings.precision == "int8":
        ranges = Calibration.of(calibration or embeddings, truncate_dim=settings.truncate_dim)
    structure = new_structure(settings, searched, ranges)
    fill(structure, searched, show_progress_bar=show_progress_bar)
    kept = None
    if settings.rescore is not None and settings.rescore != "signs":
        ranges = Calibration.of(calibration or embeddings) if settings.rescore == "int8" else None
        kept = KeptVectors.of(whole, settings.rescore, calibration=ranges, stored=embeddings.vectors)
    return IndexParts(list(embeddings.ids), structure, kept)


def fill(structure: Structure, vectors: Rows, *, show_progress_bar: bool = False) -> None:
    """Add vectors to a structure, block by block."""
    size = max(1, _FLOATS_A_BLOCK // vectors.dim)
    if isinstance(structure, FloatStructure) and structure.settings.kind == "hnsw":
        size = max(1, size // 32)  # slow to add, so that the bar moves
    bar = tqdm(total=len(vectors), desc="index", unit="vector", disable=not show_progress_bar)
    with bar:
        for start in range(0, len(vectors), size):
            block = vectors.block(start, start + size)
            structure.add(block)
            bar.update(len(block))
    structure.finish()


def without_removed(parts: IndexParts) -> IndexParts:
    """The graph built again from the vectors that are left."""
    live = np.array([row for row, one in enumerate(parts.ids) if one is not None], dtype=np.int64)
    old = parts.structure
    assert isinstance(old, FloatStructure)  # the others lose vectors at once
    structure = new_structure(old.settings, old, old.calibration)
    fill(structure, Selected(old, live))
    if parts.kept is not None:
        parts.kept.remove(np.setdiff1d(np.arange(len(parts.ids)), live))
    return IndexParts([parts.ids[row] for row in live.tolist()], structure, parts.kept)


class _Truncated:
    """The first dimensions of rows, of length 1 again."""

    def __init__(self, rows: Rows, dim: int) -> None:
        self.rows, self._dim = rows, dim

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        return self._dim

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.take(np.arange(start, min(stop, len(self))), in_order=True)

    def take(self, rows: np.ndarray, *, in_order: bool = False) -> np.ndarray:
        found = np.empty((len(rows), self._dim), dtype=np.float32)
        size = max(1, _FLOATS_A_BLOCK // self.rows.dim)  # as many whole vectors as a block holds, not short ones
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            whole = self.rows.block(int(some[0]), int(some[-1]) + 1) if in_order else self.rows.take(some)
            found[start : start + size] = truncated(whole, self._dim)
        return found
