"""Which structure of FAISS holds the vectors of an index, and how is it searched and changed?

A row of a structure is the number of a vector, from 0 on in the order of adding. Each structure also reads back what it
holds, as rows of float32, so that scores can be exact inner products with just that.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmembed.search.index_settings import EXHAUSTIVE, IndexSettings
from mmembed.search.nearest import SCORE_ERROR, ExactSearch, faiss_module
from mmembed.search.quantization import Calibration, packed_signs, signs
from mmembed.search.vectors import Rows

#: From this many queries on, a matrix product over decoded blocks is faster than FAISS, which decodes for each query.
_MANY_QUERIES = 8
#: Rows that a learning structure sees, at most: floats.
_SAMPLE_FLOATS = 2**26
_POINTS_A_CENTROID = 256  # more FAISS's k-means does not use


class FloatStructure:
    """Vectors of "flat", "ivf", "hnsw", "pq" or "ivf_pq", compared by inner products.

    Args:
        index: a FAISS index with the metric of inner products.
        settings: what it is.
        calibration: what "int8" stands for.
        mapped: whether its vectors lie in a file.
    """

    score_error = SCORE_ERROR

    def __init__(
        self, index: Any, settings: IndexSettings, calibration: Calibration | None = None, *, mapped: bool = False
    ) -> None:
        self.index = index
        self.settings = settings
        self.calibration = calibration
        self.mapped = mapped
        self._map_rows()

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.index.d)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """What is held of these rows: float32 (len(rows), dim)."""
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        return self.index.reconstruct_batch(rows) if len(rows) else np.zeros((0, self.dim), np.float32)

    def block(self, start: int, stop: int) -> np.ndarray:
        """What is held of rows start … stop − 1: float32 (stop − start, dim)."""
        count = min(stop, len(self)) - start
        return self.index.reconstruct_n(start, count) if count > 0 else np.zeros((0, self.dim), np.float32)

    def size(self) -> int:
        """Bytes of the structure, as it is written."""
        return _written(faiss_module().write_index, self.index)

    def coded(self, vectors: np.ndarray) -> np.ndarray:
        """Queries in the form that `search` takes."""
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def add(self, vectors: np.ndarray) -> None:
        """Take in float32 (n, dim) vectors, as the rows after the last."""
        faiss = faiss_module()
        if self.settings.kind in ("ivf", "ivf_pq"):
            self.index.set_direct_map_type(faiss.DirectMap.NoMap)
        self.index.add(self.coded(vectors))

    def finish(self) -> None:
        """After the last `add`: make rows readable again."""
        self._map_rows()

    def remove(self, rows: np.ndarray) -> bool:
        """Drop rows, after which those behind them move up; False where the structure cannot, which is "hnsw"."""
        faiss = faiss_module()
        if self.settings.kind == "hnsw":
            return False
        selected = faiss.IDSelectorBatch(np.ascontiguousarray(rows, dtype=np.int64))
        if self.settings.kind in EXHAUSTIVE:
            self.index.remove_ids(selected)
            return True
        kept = np.ones(len(self), dtype=bool)
        kept[rows] = False
        self.index.set_direct_map_type(faiss.DirectMap.NoMap)
        self.index.remove_ids(selected)
        numbers = np.cumsum(kept) - 1
        for held in inverted_ids(self.index):
            held[:] = numbers[held]
        self._map_rows()
        return True

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, count: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of each query among those allowed.

        Where lists or the graph give fewer than there are, more lists are looked into and the graph is walked further;
        what is still missing then is found by comparing all allowed rows.

        Args:
            queries: float32 (q, dim).
            k: how many, at most `count`.
            allowed: bool (n,); None for all.
            count: rows that are allowed; all when None.

        Returns:
            float32 (q, k) scores and int64 (q, k) rows, in no order.
        """
        count = len(self) if count is None else count
        if self.settings.kind == "flat":
            return self._flat(queries, k, allowed)
        if self.settings.kind == "pq":
            return self._filtered(queries, k, allowed, count)
        return self._approximate(queries, k, allowed, count)

    def above(self, queries: np.ndarray, threshold: float, allowed: np.ndarray | None) -> list[np.ndarray]:
        """For each query the rows that score about `threshold` or more, in the lists that are looked into."""
        parameters = self._parameters(allowed, self.settings.probes or 1)
        limits, _, rows = self.index.range_search(queries, float(threshold) - self.score_error, params=parameters)
        return np.split(rows, limits[1:-1].astype(np.int64))

    def _flat(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if len(queries) >= _MANY_QUERIES:
            return ExactSearch(self, allowed).search(queries, k)
        return _padded(*self.index.search(queries, k, params=self._parameters(allowed, 0)))

    def _filtered(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of an index that takes no selection: deeper until enough are allowed."""
        if allowed is None:
            return _padded(*self.index.search(queries, k))
        depth = min(len(self), int(1.2 * k * len(self) / count) + 64)
        while True:
            scores, rows = self.index.search(queries, depth)
            good = (rows >= 0) & allowed[rows]
            if depth == len(self) or (good.sum(axis=1) >= k).all():
                break
            depth = min(len(self), 4 * depth)
        order = np.argsort(~good, axis=1, kind="stable")[:, :k]  # FAISS gives the best first
        scores, rows = (np.take_along_axis(one, order, axis=1) for one in (scores, rows))
        good = np.take_along_axis(good, order, axis=1)
        return _padded(scores, np.where(good, rows, -1))

    def _approximate(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        settings = self.settings
        most = settings.lists if settings.kind != "hnsw" else len(self)
        effort = settings.probes if settings.kind != "hnsw" else max(settings.ef_search or 1, k)
        assert most is not None and effort is not None  # filled in
        # of a selected tenth, ten times as many must be looked at to see as many
        effort = min(most, -(-effort * len(self) // count))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        todo = np.arange(len(queries))
        while len(todo):
            parameters = self._parameters(allowed, effort)
            scores[todo], rows[todo] = _padded(*self.index.search(queries[todo], k, params=parameters))
            todo = todo[(rows[todo] < 0).any(axis=1)]
            if effort >= most:
                break
            effort = min(most, 4 * effort)
        if len(todo):
            scores[todo], rows[todo] = ExactSearch(self, allowed).search(queries[todo], k)
        return scores, rows

    def _parameters(self, allowed: np.ndarray | None, effort: int) -> Any:
        faiss = faiss_module()
        given: dict[str, Any] = {}
        if allowed is not None:
            given["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.settings.kind in ("ivf", "ivf_pq"):
            return faiss.SearchParametersIVF(nprobe=effort, **given)
        if self.settings.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=effort, **given)
        return faiss.SearchParameters(**given) if given else None

    def _map_rows(self) -> None:
        # Once and not at the first search, since searches may run in several threads; and anew, since one that was read
        # from a file says what its writer wanted.
        if self.settings.kind in ("ivf", "ivf_pq"):
            self.index.set_direct_map_type(faiss_module().DirectMap.NoMap)
            self.index.make_direct_map()


class BinaryStructure:
    """Vectors of one bit a dimension, whose score is equal bits − unequal bits: the inner product of their signs.

    Args:
        index: a FAISS index of flat binary codes.
        dim: dimensions, which need not fill the last byte.
        mapped: whether its codes lie in a file.
    """

    score_error = 0.0

    def __init__(self, index: Any, dim: int, *, mapped: bool = False) -> None:
        self.index = index
        self.mapped = mapped
        self._dim = dim

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self._dim

    def codes(self) -> np.ndarray:
        """uint8 (n, ⌈dim / 8⌉), where they lie."""
        width = int(self.index.code_size)
        if not len(self):
            return np.zeros((0, width), dtype=np.uint8)
        return faiss_module().rev_swig_ptr(self.index.xb.data(), len(self) * width).reshape(len(self), width)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The signs of these rows: float32 (len(rows), dim) of 1 and −1."""
        return signs(self.codes()[rows], self.dim)

    def block(self, start: int, stop: int) -> np.ndarray:
        """The signs of rows start … stop − 1: float32 (stop − start, dim) of 1 and −1."""
        return signs(self.codes()[start:stop], self.dim)

    def size(self) -> int:
        """Bytes of the structure, as it is written."""
        return _written(faiss_module().write_index_binary, self.index)

    def coded(self, vectors: np.ndarray) -> np.ndarray:
        """Queries in the form that `search` takes: their signs."""
        return np.where(vectors > 0, np.float32(1), np.float32(-1))

    def add(self, vectors: np.ndarray) -> None:
        """Take in float32 (n, dim) vectors, as the rows after the last."""
        self.index.add(packed_signs(vectors))

    def finish(self) -> None:
        """After the last `add`: nothing is to be done."""

    def remove(self, rows: np.ndarray) -> bool:
        """Drop rows, after which those behind them move up."""
        self.index.remove_ids(faiss_module().IDSelectorBatch(np.ascontiguousarray(rows, dtype=np.int64)))
        return True

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, count: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `FloatStructure.search`, of signs."""
        faiss = faiss_module()
        parameters = None
        if allowed is not None:
            selected = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            parameters = faiss.SearchParameters(sel=selected)
        distances, rows = self.index.search(packed_signs(queries), k, params=parameters)
        return _padded((self.dim - 2 * distances).astype(np.float32), rows)


Structure = FloatStructure | BinaryStructure


class Among:
    """A structure as a searcher of allowed rows.

    Args:
        structure: n rows.
        allowed: bool (n,); None for all.
        count: rows that are allowed.
    """

    #: As many rows are compared one by one, whatever the kind.
    few = 2**14

    def __init__(self, structure: Structure, allowed: np.ndarray | None, count: int) -> None:
        self.structure, self.allowed, self.count = structure, allowed, count
        self.exhaustive = allowed is not None and count <= self.few
        self._rows = np.flatnonzero(allowed) if allowed is not None and self.exhaustive else None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 (q, k) scores and int64 (q, k) rows, in no order; −inf and −1 where there are fewer."""
        if self._rows is None:
            return self.structure.search(queries, k, self.allowed, self.count)
        scores, rows = ExactSearch(Selected(self.structure, self._rows)).search(queries, k)
        return scores, np.where(rows >= 0, self._rows[rows], -1)


class Selected:
    """Some rows, as rows of their own.

    Args:
        rows: n rows.
        selected: int64 (m,), which of them.
    """

    def __init__(self, rows: Rows, selected: np.ndarray) -> None:
        self.rows, self.selected = rows, selected

    def __len__(self) -> int:
        return len(self.selected)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.rows.dim

    def block(self, start: int, stop: int) -> np.ndarray:
        """float32 (stop − start, dim)."""
        return self.rows.take(self.selected[start:stop])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows), dim)."""
        return self.rows.take(self.selected[rows])


def new_structure(
    settings: IndexSettings, vectors: Rows, calibration: Calibration | None = None
) -> FloatStructure | BinaryStructure:
    """An empty structure that has learnt what it must from a sample of the vectors.

    Args:
        settings: filled in for the vectors.
        vectors: n rows, of the dimension that is searched.
        calibration: of the same dimension, where the precision is "int8".

    Returns:
        The structure.

    Raises:
        ImportError: without the `search` extra.
    """
    faiss = faiss_module()
    dim, kind = vectors.dim, settings.kind
    if kind == "binary":
        return BinaryStructure(faiss.IndexBinaryFlat(8 * -(-dim // 8)), dim)
    metric = faiss.METRIC_INNER_PRODUCT
    types = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
    coded = types.get(settings.precision or "")
    if kind == "flat":
        index = faiss.IndexFlatIP(dim) if coded is None else faiss.IndexScalarQuantizer(dim, coded, metric)
    elif kind == "hnsw":
        links = settings.neighbours
        made = faiss.IndexHNSWFlat(dim, links, metric)
        index = made if coded is None else faiss.IndexHNSWSQ(dim, coded, links, metric)
        index.hnsw.efConstruction = settings.ef_construction
    elif kind == "pq":
        index = faiss.IndexPQ(dim, settings.segments, 8, metric)
    else:
        lists, centroids = settings.lists, faiss.IndexFlatIP(dim)
        if kind == "ivf_pq":
            index = faiss.IndexIVFPQ(centroids, dim, lists, settings.segments, 8, metric)
        elif coded is None:
            index = faiss.IndexIVFFlat(centroids, dim, lists, metric)
        else:
            # whole vectors, not their differences from a centroid: the calibration is of whole ones
            index = faiss.IndexIVFScalarQuantizer(centroids, dim, lists, coded, metric, False)
    if kind in ("ivf", "pq", "ivf_pq"):
        index.train(_sample(vectors, settings.lists or 256))
    if settings.precision == "int8":
        assert calibration is not None
        calibration = _set_ranges(index if kind != "hnsw" else faiss.downcast_index(index.storage), calibration)
        index.is_trained = True  # of the graph, whose storage it is
    return FloatStructure(index, settings, calibration)


def inverted_ids(index: Any) -> list[np.ndarray]:
    """The rows that each list of an inverted file holds, where they lie."""
    faiss = faiss_module()
    lists = faiss.downcast_InvertedLists(index.invlists)
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    return [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in enumerate(sizes) if size]


def _set_ranges(index: Any, calibration: Calibration) -> Calibration:
    """Give FAISS the ranges, and return them as FAISS holds them: beginning and width."""
    low, high = calibration.ranges
    faiss_module().copy_array_to_vector(np.concatenate([low, high - low]).astype(np.float32), index.sq.trained)
    index.is_trained = True
    return dataclasses.replace(calibration, ranges=np.stack([low, low + (high - low)]))


def _sample(vectors: Rows, centroids: int) -> np.ndarray:
    """Rows that lie evenly among all, as many as k-means uses, in bounded memory."""
    most = max(40 * centroids, min(_POINTS_A_CENTROID * centroids, _SAMPLE_FLOATS // vectors.dim))
    count = min(len(vectors), max(most, _POINTS_A_CENTROID * 256))
    return vectors.take(np.linspace(0, len(vectors) - 1, count).astype(np.int64))


def _written(write: Any, index: Any) -> int:
    total = 0

    def count(data: bytes) -> None:
        nonlocal total
        total += len(data)

    write(index, faiss_module().PyCallbackIOWriter(count))
    return total


def _padded(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(rows >= 0, scores, -np.inf).astype(np.float32), rows.astype(np.int64)
