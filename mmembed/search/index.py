"""Which items are nearest to a query, kept, changed and saved?"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.data.schema import DataError, shown
from mmembed.embeddings import Embeddings
from mmembed.search import index_files
from mmembed.search.index_building import IndexParts, build_parts, without_removed
from mmembed.search.index_folder import read_parts, write_parts
from mmembed.search.index_input import MADE_BY, check_ids, check_made_by_the_same, checked_additions, checked_queries
from mmembed.search.index_kinds import Among, FloatStructure
from mmembed.search.index_search import best_rows, rows_above, shortened
from mmembed.search.index_settings import IndexSettings, Kind, Precision, Rescore
from mmembed.search.quantization import Calibration, of_unit_length
from mmembed.search.ranked_search import CANDIDATES_AT_ONCE, SPARE
from mmembed.whole_files import write_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_CLIPPED = 0.01  # share of added numbers beyond the int8 ranges above which one is warned
_REMOVED = 0.25  # share of removed vectors in a graph above which it is built again


class Index:
    """Items by the vectors that are nearest to a query's, in one of several structures of FAISS.

    Scores are cosines: inner products of the query, brought to length 1, with what the index holds of the document
    (with "int8" and "pq" nearly of length 1; of "binary" the signs of both), each summed by itself in float64, so that
    a pair has one score in any company. Higher is better, and documents of one score stand in the order of their ids:
    of "flat", "pq" and "binary" among all documents, of "ivf", "ivf_pq" and "hnsw" among those that were found.

    Made by `Index.build` or `Index.load`. Needs the extra `mmembed[search]`. Searches may run in several threads at
    once; a change must run alone.

    Args:
        parts: what `build` or `load` has put together.
        settings: what the index is.
        about: what is known of the vectors: `dim`, `model`, `revision`, …

    Example:
        >>> shop = Embeddings(["hat", "mug", "cup"], np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32))
        >>> index = Index.build(shop)
        >>> index.search(np.array([[0, 1]], dtype=np.float32), k=2)
        [{'mug': 1.0, 'cup': 0.800000011920929}]
        >>> index.search(np.array([[0, 1]], dtype=np.float32), k=2, allowed={"hat", "cup"})
        [{'cup': 0.800000011920929, 'hat': 0.0}]
    """

    def __init__(self, parts: IndexParts, settings: IndexSettings, about: Mapping[str, Any]) -> None:
        self.settings = settings
        self._about = dict(about)
        self._take(parts)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, one: object) -> bool:
        return one in self._rows

    def __repr__(self) -> str:
        return f"Index({len(self)} × {self.dim}, {self.settings})"

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of adding."""
        return list(self._rows)

    @property
    def kind(self) -> Kind:
        """ "flat", "ivf", "hnsw", "pq", "ivf_pq" or "binary"."""
        return self.settings.kind

    @property
    def dim(self) -> int:
        """Numbers of a vector, and of a query, before any truncation."""
        return int(self._about["dim"])

    @property
    def manifest(self) -> dict[str, Any]:
        """What the index is, and what made its vectors, as `save` writes it."""
        return {
            "kind": self.kind,
            "parameters": self.settings.parameters(),
            "metric": "cosine",
            "normalised": True,
            **self._about,
            "count": len(self),
            "rows": len(self._parts.ids),
        }

    @property
    def fit(self) -> dict[str, Any] | None:
        """What was measured of the index before it was used, see `mmembed.search.fit_report`; saved with it."""
        return self._about.get("fit")

    @fit.setter
    def fit(self, measured: Mapping[str, Any] | None) -> None:
        self._about["fit"] = None if measured is None else dict(measured)

    @property
    def calibration(self) -> Calibration | None:
        """What int8 stands for, of what is searched or else of what is kept; None where nothing is int8."""
        structure, kept = self._parts.structure, self._parts.kept
        of_structure = structure.calibration if isinstance(structure, FloatStructure) else None
        return of_structure or (kept.calibration if kept is not None else None)

    # --- building and changing -----------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        embeddings: Embeddings,
        *,
        kind: Kind = "flat",
        precision: Precision | None = None,
        truncate_dim: int | None = None,
        rescore: Rescore | None = None,
        oversample: int | None = None,
        lists: int | None = None,
        probes: int | None = None,
        neighbours: int | None = None,
        ef_construction: int | None = None,
        ef_search: int | None = None,
        segments: int | None = None,
        calibration: Embeddings | None = None,
        show_progress_bar: bool = False,
    ) -> Index:
        """Build from vectors, which are read by blocks and may be memory-mapped.

        Args:
            embeddings: n ids and their vectors.
            kind: "flat", "ivf", "hnsw", "pq", "ivf_pq" or "binary"; this and what follows is explained at
                `IndexSettings`.
            precision: of "flat", "ivf" and "hnsw": "float32" (when None), "float16" or "int8".
            truncate_dim: dimensions that are searched; None for all.
            rescore: what the best candidates are scored by: "float32", "float16", "int8", "signs" or None.
            oversample: candidates rescored for each that is asked for; 4 when None.
            lists: of an inverted file.
            probes: lists that a query looks into.
            neighbours: of a vector in the graph.
            ef_construction: candidates when a vector joins the graph.
            ef_search: candidates of a query in the graph.
            segments: bytes of a vector in a product quantiser.
            calibration: vectors to find the ranges of int8 on; these embeddings when None.
            show_progress_bar: show one.

        Returns:
            The index, in memory.

        Raises:
            ValueError: settings that are unknown or do not go together, or too few vectors to learn from.
            DataError: an id that is none, or a calibration of other dimensions.
            ImportError: FAISS is not installed.

        Example:
            >>> vectors = np.eye(16, dtype=np.float32)
            >>> index = Index.build(Embeddings([f"{row}" for row in range(16)], vectors), kind="binary", rescore="float32")
            >>> index.search(vectors[3:4], k=1)
            [{'3': 1.0}]
        """
        given = IndexSettings(
            kind=kind,
            precision=precision,
            truncate_dim=truncate_dim,
            rescore=rescore,
            oversample=oversample,
            lists=lists,
            probes=probes,
            neighbours=neighbours,
            ef_construction=ef_construction,
            ef_search=ef_search,
            segments=segments,
        )
        dim = int(embeddings.vectors.shape[1])
        settings = given.filled(len(embeddings), dim)
        check_ids(embeddings.ids)
        of_int8 = "int8" in (settings.precision, settings.rescore)
        if calibration is not None and (not of_int8 or calibration.vectors.shape[1] != dim):
            width = calibration.vectors.shape[1]
            raise ValueError(
                f'calibration vectors of {width} dimensions for {dim}, and "int8" is {of_int8 or "not used"}'
            )
        parts = build_parts(embeddings, settings, calibration=calibration, show_progress_bar=show_progress_bar)
        about: dict[str, Any] = {name: embeddings.manifest.get(name) for name in MADE_BY}
        index = cls(parts, settings, {**about, "dim": dim, "calibration": None, "fit": None})
        if index.calibration is not None:
            index._about["calibration"] = {"count": index.calibration.count, "of": dict(index.calibration.source)}
        return index

    def add(self, ids: Sequence[str], vectors: np.ndarray, *, manifest: Mapping[str, Any] | None = None) -> None:
        """Take in further items.

        What was learnt when the index was built (lists, centroids, ranges) stays as it is: where the new vectors differ
        from the old ones much, build again.

        Args:
            ids: (n,) ids that are not in the index; remove an item before it is added anew.
            vectors: float32 or float16 (n, dim), each of length 1 or 0.
            manifest: of the embeddings that these vectors are from, to be sure that the same model made them.

        Raises:
            DataError: an id that is there already or stands twice, vectors of another dimension, length or model;
                nothing is changed then.
        """
        self._check_changeable()
        vectors = checked_additions(ids, vectors, self.dim, self._rows)
        if manifest is not None:
            check_made_by_the_same(self._about, manifest)
        if not len(ids):
            return
        searched = shortened(vectors, self.settings)
        structure, kept = self._parts.structure, self._parts.kept
        if self.calibration is not None:
            share = self.calibration.clipped(searched if self.settings.precision == "int8" else vectors)
            if share > _CLIPPED:
                logger.warning(
                    "%.1f %% of the added numbers lie beyond the ranges that int8 was calibrated on, and are clipped; build "
                    "the index again with all vectors",
                    100 * share,
                )
        if kept is not None:
            kept.add(vectors)
        structure.add(searched)
        structure.finish()
        self._take(IndexParts([*self._parts.ids, *ids], structure, kept))

    def remove(self, ids: Collection[str]) -> None:
        """Take items out; they are found no more from now on.

        The graph of "hnsw" cannot lose a vector: it stays a way to others, and is built again, without them, once a
        quarter of its vectors are such. The other kinds lose them at once.

        Args:
            ids: ids in the index.

        Raises:
            DataError: an id that is not there; nothing is changed then.
        """
        self._check_changeable()
        if isinstance(ids, str):
            raise ValueError(f"ids={ids!r} is one text; give a list of ids")
        rows = np.unique(self._rows_of(ids))
        if not len(rows):
            return
        left, structure, kept = list(self._parts.ids), self._parts.structure, self._parts.kept
        if structure.remove(rows):
            if kept is not None:
                kept.remove(rows)
            gone = set(rows.tolist())
            self._take(IndexParts([one for row, one in enumerate(left) if row not in gone], structure, kept))
            return
        for row in rows.tolist():
            left[row] = None
        parts = IndexParts(left, structure, kept)
        if left.count(None) > _REMOVED * len(left):
            logger.info("build the graph again, without %d removed vectors", left.count(None))
            parts = without_removed(parts)
        self._take(parts)

    # --- searching -----------------------------------------------------------------------------------------------

    def search(
        self, queries: np.ndarray, k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """The best items of each query.

        With `allowed` there are k results wherever so many are allowed: up to 16,384 allowed items are compared one by
        one, whatever the kind, so that what is found is exact; of more, "ivf" and "hnsw" look into as many more lists
        and neighbours as the selection is smaller than all.

        Args:
            queries: float (q, dim), of any length but NaN; of `truncate_dim` dimensions too where nothing is rescored.
            k: how many items a query.
            allowed: ids that may be found; None for all. Those that the index does not have are passed over.

        Returns:
            For each query its items' scores by id, best first; fewer than k where fewer are there or allowed.

        Raises:
            ValueError: k below 1.
            DataError: queries of another shape or dimension, or with NaN or infinity.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ValueError(f"k={k!r}; give a whole number of at least 1")
        vectors = checked_queries(queries, self._widths())
        mask, count = self._mask(allowed)
        k = min(int(k), count)
        depth = min(count, k * (self.settings.oversample or 1))
        found: list[dict[str, float]] = []
        at_once = max(1, CANDIDATES_AT_ONCE // (depth + SPARE))
        among = Among(self._parts.structure, mask, count)
        for start in range(0, len(vectors), at_once):
            some = vectors[start : start + at_once]
            if not k:
                found += [{} for _ in some]
                continue
            scores, rows = best_rows(some, k, depth, self._parts, self.settings, among, self._order())
            found += [self._named(*one) for one in zip(scores, rows)]
        return found

    def range_search(
        self, queries: np.ndarray, threshold: float, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """All items of each query that score at least so much.

        Of all kinds every allowed item is compared, by what `search` would score it with at last, so that none is
        missed; only "ivf" and "ivf_pq" without `rescore` look into their lists alone, as `search` does. All results are
        held in memory: for very many, `threshold_search` gives them as a stream.

        Args:
            queries: as in `search`.
            threshold: the lowest score.
            allowed: as in `search`.

        Returns:
            For each query its items' scores by id, best first.

        Raises:
            ValueError: a threshold that is no number.
            DataError: as `search`.
        """
        if not np.isfinite(threshold):
            raise ValueError(f"threshold={threshold!r}; give a number")
        vectors = checked_queries(queries, self._widths())
        mask, _ = self._mask(allowed)
        found = rows_above(vectors, threshold, self._parts, self.settings, mask, self._order())
        return [self._named(*one) for one in found]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """What the index holds of items: for "more like this", or to take them elsewhere.

        Args:
            ids: ids in the index.

        Returns:
            float32 (n, dim), or (n, truncate_dim) where only that is held: the kept vectors where the index rescores,
            else what is searched, which of "binary" are signs; each of length 1.

        Raises:
            DataError: an id that is not there.
        """
        parts = self._parts
        return of_unit_length((parts.structure if parts.kept is None else parts.kept).take(self._rows_of(ids)))

    def bytes_per_vector(self) -> tuple[float, float]:
        """What a vector takes on average, ids apart.

        Returns:
            Bytes that a search holds in memory, and bytes in the mapped file that candidates are scored from.
        """
        parts = self._parts
        rows = max(1, len(parts.ids))
        mapped = 0 if parts.kept is None else len(parts.ids) * parts.kept.dim * parts.kept.dtype.itemsize
        return parts.structure.size() / rows, mapped / rows

    def _named(self, scores: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        ids = self._parts.ids
        pairs = zip(rows.tolist(), scores.tolist())
        return {str(ids[row]): score for row, score in pairs if row >= 0}

    def _mask(self, allowed: Collection[str] | None) -> tuple[np.ndarray | None, int]:
        """Which rows may be found, None for all, and how many."""
        if isinstance(allowed, str):
            raise ValueError(f"allowed={allowed!r} is one text; give a set of ids")
        if allowed is None:
            if len(self) == len(self._parts.ids):
                return None, len(self)
            rows = list(self._rows.values())
        else:
            rows = [self._rows[one] for one in allowed if one in self._rows]
        mask = np.zeros(len(self._parts.ids), dtype=bool)
        mask[rows] = True
        count = int(mask.sum())
        return (None if count == len(mask) else mask), count

    # --- files ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Write a folder that is whole or not there; one that holds an index already is replaced.

        Args:
            folder: where to.

        Raises:
            DataError: the folder holds something else.
        """
        folder = os.fspath(folder)
        there = os.path.join(folder, index_files.MANIFEST)
        if os.path.lexists(folder) and not (os.path.isfile(there) and index_files.is_index(there)):
            if not os.path.isdir(folder) or os.listdir(folder):
                raise DataError("holds something other than an index; give another folder", file=folder)
        write_whole(folder, lambda new: write_parts(new, self._parts, self.manifest))

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        *,
        model: str | SentenceTransformer | None = None,
        revision: str | None = None,
        dim: int | None = None,
        metric: str | None = None,
        memory_map: bool = False,
    ) -> Index:
        """Read what `save` wrote, once every byte of it was compared with the manifest.

        Args:
            folder: the folder.
            model: what the vectors must be of: the model itself, or its name; None does not ask.
            revision: the version of the model that they must be of; None does not ask.
            dim: dimensions that they must have; None does not ask.
            metric: "cosine"; None does not ask.
            memory_map: leave the vectors of "flat", "pq" and "binary" in their file, for an index that need not fit into
                memory; such an index cannot be changed.

        Returns:
            The index.

        Raises:
            DataError: the folder is no whole index: a file is missing, damaged, cut short, exchanged or a link; or it is
                of another model, revision, dimension or metric, with both named.
            ImportError: FAISS is not installed.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp() + "/index"
            >>> Index.build(Embeddings(["a"], np.eye(1, 2, dtype=np.float32), {"model": "mine"})).save(folder)
            >>> Index.load(folder, model="mine", dim=2).ids
            ['a']
        """
        folder = os.fspath(folder)
        manifest = index_files.read_manifest(folder)
        expected: dict[str, Any] = {"revision": revision, "dim": dim, "metric": metric}
        if isinstance(model, str):
            expected["model"] = model
        elif model is not None:
            from mmembed.dataset_encoding import model_fingerprint

            expected["model_fingerprint"] = model_fingerprint(model)
        index_files.check_made_by(folder, manifest, expected)
        parts, settings = read_parts(folder, manifest, memory_map=memory_map)
        return cls(parts, settings, {name: manifest.get(name) for name in (*MADE_BY, "dim", "calibration", "fit")})

    # --- what holds it together ----------------------------------------------------------------------------------

    def _take(self, parts: IndexParts) -> None:
        self._parts = parts
        self._rows = {one: row for row, one in enumerate(parts.ids) if one is not None}
        self._place: np.ndarray | None = None

    def _order(self) -> np.ndarray:
        """int64 (rows,): the place of each row in the order of ids."""
        place = self._place
        if place is None:
            ids = self._parts.ids
            order = sorted(range(len(ids)), key=lambda row: ids[row] or "")
            place = np.empty(len(order), dtype=np.int64)
            place[order] = np.arange(len(order))
            self._place = place
        return place

    def _rows_of(self, ids: Collection[str]) -> np.ndarray:
        """int64 (len(ids),): the row of each id."""
        missing = [one for one in ids if one not in self._rows]
        if missing:
            message = f"{len(missing)} ids are not in the index, such as {shown(missing[0])}; look at `ids`"
            raise DataError(message, file="index", field="id")
        return np.array([self._rows[one] for one in ids], dtype=np.int64)

    def _widths(self) -> list[int]:
        """Dimensions that a query may have."""
        short = self.settings.truncate_dim if self._parts.kept is None else None
        return [self.dim] if short is None else [self.dim, short]

    def _check_changeable(self) -> None:
        if self._parts.structure.mapped:
            raise ValueError("an index that was loaded with memory_map=True cannot be changed; load it without")
