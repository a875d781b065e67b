"""What can an index be, and do its settings go together?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mmembed.data.schema import did_you_mean

Kind = Literal["flat", "ivf", "hnsw", "pq", "ivf_pq", "binary"]
Precision = Literal["float32", "float16", "int8"]
Rescore = Literal["float32", "float16", "int8", "signs"]

#: These compare a query with every vector, so that nothing is missed of what they hold.
EXHAUSTIVE = ("flat", "pq", "binary")
_INVERTED = ("ivf", "ivf_pq")
_OF_KINDS = {
    "precision": ("flat", "ivf", "hnsw"),
    "lists": _INVERTED,
    "probes": _INVERTED,
    "neighbours": ("hnsw",),
    "ef_construction": ("hnsw",),
    "ef_search": ("hnsw",),
    "segments": ("pq", "ivf_pq"),
}
_FINENESS = {"signs": 1, "int8": 8, "float16": 16, "float32": 32}
_POINTS_A_CENTROID = 39  # what FAISS's k-means asks for
CENTROIDS = 256  # of a segment of a product quantiser: a byte


@dataclass(frozen=True)
class IndexSettings:
    """What an index is. None is what suits the kind and the number of vectors; `filled` says what that is.

    Args:
        kind: "flat": every vector is compared. "ivf": vectors lie in lists by their nearest centroid, and a query looks
            into the nearest lists (inverted file). "hnsw": a graph of neighbours is walked (Malkov and Yashunin 2018);
            built by several threads it is not quite the same each time.
            "pq": a vector is one byte for each of its segments (product quantisation, Jégou et al. 2011), every one is
            compared. "ivf_pq": both. "binary": one bit a dimension, compared by the number of equal bits.
        precision: of the numbers of "flat", "ivf" and "hnsw": "float32", "float16", or "int8" by a calibration.
        truncate_dim: dimensions that are searched, the first ones, of length 1 again; None for all.
        rescore: what is kept beside, in a file that is mapped and not read into memory, to score the best candidates
            by: whole vectors in "float32", "float16" or "int8"; or "signs", of "binary" alone, which keeps nothing and
            compares the query's numbers with the documents' bits. None scores by what is searched.
        oversample: candidates that are rescored, for each one that is asked for.
        lists: of an inverted file; about 4 √n when None.
        probes: lists that a query looks into; an eighth of them when None, at least 8.
        neighbours: of a vector in the graph; more find more and take more memory.
        ef_construction: candidates that are looked at when a vector joins the graph.
        ef_search: candidates that a query looks at, at least; more find more and take longer.
        segments: bytes of a vector in "pq" and "ivf_pq"; a divisor of the dimension, at most a quarter of it when None.

    Example:
        >>> IndexSettings("ivf").filled(10_000, 64).lists, IndexSettings("pq").filled(10_000, 64).segments
        (256, 16)
    """

    kind: Kind = "flat"
    precision: Precision | None = None
    truncate_dim: int | None = None
    rescore: Rescore | None = None
    oversample: int | None = None
    lists: int | None = None
    probes: int | None = None
    neighbours: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    segments: int | None = None

    def filled(self, count: int, dim: int) -> IndexSettings:
        """The settings with nothing left open that the kind needs.

        Args:
            count: vectors that the index is built from.
            dim: their dimension.

        Returns:
            The settings; what does not concern the kind stays None.

        Raises:
            ValueError: settings that do not go together, with each other or with the vectors.
        """
        self._check_names()
        width = self._check_numbers(count, dim)
        values: dict[str, Any] = {}
        if self.kind in _OF_KINDS["precision"]:
            values["precision"] = self.precision or "float32"
        if self.rescore:
            values["oversample"] = self.oversample or 4
        if self.kind in _INVERTED:
            most = max(1, count // _POINTS_A_CENTROID)
            values["lists"] = self.lists or max(1, min(int(4 * count**0.5), most))
            values["probes"] = min(self.probes or max(8, values["lists"] // 8), values["lists"])
        if self.kind == "hnsw":
            values["neighbours"] = self.neighbours or 32
            values["ef_construction"] = self.ef_construction or 100
            values["ef_search"] = self.ef_search or 64
        if "segments" in self.concerning():
            values["segments"] = self.segments or _largest_divisor(width, max(1, width // 4))
        return dataclasses.replace(self, **values)

    def concerning(self) -> list[str]:
        """The names of the settings that concern this kind."""
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if self.kind in _OF_KINDS.get(name, (self.kind,))]

    def parameters(self) -> dict[str, Any]:
        """What is set beside the kind, by name."""
        return {
            name: value for name in self.concerning() if name != "kind" and (value := getattr(self, name)) is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IndexSettings:
        """Settings by name, as `kind` and `parameters` give them.

        Raises:
            ValueError: an unknown name.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no setting of an index{did_you_mean(name, known)} Known: {sorted(known)}."
                )
        return cls(**values)

    def __str__(self) -> str:
        """The settings in a few words, such as "binary, 128 dimensions, rescored with int8"."""
        said: list[str] = [self.kind]
        if self.precision not in (None, "float32") or self.kind == "flat":
            said.append(self.precision or "float32")
        if self.truncate_dim is not None:
            said.append(f"{self.truncate_dim} dimensions")
        for name in ("lists", "probes", "neighbours", "ef_search", "segments"):
            if getattr(self, name) is not None:
                said.append(f"{getattr(self, name)} {name}")
        if self.rescore:
            said.append(f"rescored with {self.rescore}" + (f" × {self.oversample}" if self.oversample else ""))
        return ", ".join(said)

    def _check_names(self) -> None:
        for name, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("precision", self.precision, get_args(Precision)),
            ("rescore", self.rescore, get_args(Rescore)),
        ):
            if value is None and name != "kind" or value in known:
                continue
            if name == "precision" and value == "binary":
                raise ValueError('precision "binary" is a kind of its own; give kind="binary"')
            raise ValueError(f"{name} {value!r} is not known{did_you_mean(str(value), known)} Known: {known}.")
        for name, kinds in _OF_KINDS.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f"{name}={getattr(self, name)!r} does not concern kind {self.kind!r}, only {kinds}")
        if self.oversample is not None and self.rescore is None:
            raise ValueError(f"oversample={self.oversample} without rescore; say what candidates are rescored with")
        searched = "float32" if self.kind in _OF_KINDS["precision"] and not self.precision else self.precision
        if self.rescore == "signs" and self.kind != "binary":
            raise ValueError(f'rescore="signs" is of kind "binary", not of {self.kind!r}')
        finer = self.truncate_dim is not None or _FINENESS[self.rescore or "float32"] > _FINENESS[searched or "signs"]
        if self.rescore and self.rescore != "signs" and not finer:
            raise ValueError(
                f"rescore={self.rescore!r} is not finer than the {searched} that is searched; leave it out"
            )

    def _check_numbers(self, count: int, dim: int) -> int:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("kind", "precision", "rescore") or value is None:
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"{field.name}={value!r}; give a whole number of at least 1")
        width = dim if self.truncate_dim is None else self.truncate_dim
        if width > dim:
            raise ValueError(f"truncate_dim={width} of vectors of {dim} dimensions; give at most {dim}")
        if self.lists is not None and self.lists > count:
            raise ValueError(
                f"lists={self.lists} for {count} vectors; give at most {max(1, count // _POINTS_A_CENTROID)}"
            )
        if self.neighbours == 1:
            raise ValueError("neighbours=1; a graph needs at least 2 a vector")
        if self.segments is not None and width % self.segments:
            raise ValueError(f"segments={self.segments} do not divide {width} dimensions; give a divisor")
        if self.kind in ("pq", "ivf_pq") and count < CENTROIDS:
            raise ValueError(
                f"{count} vectors; {self.kind} learns {CENTROIDS} centroids a segment from at least as many: use kind "
                '"flat" or "binary"'
            )
        if self.kind == "ivf" and not count:
            raise ValueError('no vectors, and ivf learns its lists from them; use kind "flat" or "hnsw"')
        return width


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(min(most, number), 0, -1) if number % divisor == 0)
