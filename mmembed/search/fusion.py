"""Several rankings of the same queries → one: by reciprocal ranks, or by weighted scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mmembed.data.schema import did_you_mean, shown

Method = Literal["rrf", "min_max", "z_score"]
Ranking = Mapping[str, float]

RRF_K = 60
_DECIMALS = 12


@dataclass(frozen=True)
class FittedOn:
    """Which queries chose a fusion.

    Args:
        query_keys: what each is recognised by, see `mmembed.search.queries.query_key`.
        metric: what was made as high as possible on them.
        tried: how many fusions were compared.
    """

    query_keys: tuple[str, ...]
    metric: str
    tried: int


@dataclass(frozen=True)
class Fusion:
    """How rankings are made one.

    "rrf": Σ over rankings of w / (k + rank), reciprocal rank fusion (Cormack, Clarke and Büttcher 2009); scores do not
    count, only ranks from 1 on, so that rankings of any scales go together. A document that a ranking lacks gets nothing
    from it.

    "min_max" and "z_score": Σ over rankings of w · normalised score. Of each query's ranking "min_max" makes 1 of the best
    score and 0 of the worst that is there (1 of all where they are equal), and 0 of a document that it lacks; "z_score"
    subtracts the mean and divides by the deviation (0 for all where they are equal), and gives a document that it lacks
    the lowest that is there.

    Args:
        method: "rrf", "min_max" or "z_score".
        weights: w of each ranking by its name, at least 0; 1 for one that is not named. Only their ratios count.
        k: of "rrf": the larger, the less the first ranks are above the next; 60 in the paper.
        fitted_on: the queries that chose it, where it was learned (`mmembed.search.fusion_fit`).

    Raises:
        ValueError: an unknown method, a weight that is negative or no number, or k below 0.

    Example:
        >>> runs = {"words": {"a": 9.0, "b": 3.0}, "vectors": {"b": 0.8, "c": 0.7}}
        >>> Fusion().fuse(runs)
        {'b': 0.032522474881, 'a': 0.016393442623, 'c': 0.016129032258}
        >>> Fusion("min_max", {"words": 3.0}).fuse(runs)
        {'a': 3.0, 'b': 1.0, 'c': 0.0}
    """

    method: Method = "rrf"
    weights: Mapping[str, float] = field(default_factory=dict)
    k: float = RRF_K
    fitted_on: FittedOn | None = None

    def __post_init__(self) -> None:
        known = get_args(Method)
        if self.method not in known:
            raise ValueError(
                f"fusion {self.method!r} is not known{did_you_mean(str(self.method), known)} Known: {known}."
            )
        for name, weight in self.weights.items():
            if not isinstance(weight, (int, float)) or not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} is {weight!r}; a weight is a number of at least 0")
        if not (math.isfinite(self.k) and self.k >= 0):
            raise ValueError(f"k={self.k}; it is a number of at least 0")

    def fuse(self, rankings: Mapping[str, Ranking]) -> dict[str, float]:
        """One query's rankings as one.

        Args:
            rankings: by name, scores by document, best first. One of weight 0 adds nothing, not even its documents.

        Returns:
            Scores by document, best first, to twelve decimals: what differs by rounding alone is a tie. Documents of one
            score stand in the order of their ids.

        Raises:
            ValueError: a score that is not finite, or all weights are 0.
        """
        fused: dict[str, float] = {}
        counted = {name: ranking for name, ranking in rankings.items() if self.weight(name) > 0}
        if rankings and not counted:
            raise ValueError(f"the weights of {', '.join(rankings)} are all 0; then nothing has a score")
        everything = dict.fromkeys(id for ranking in counted.values() for id in ranking)
        for name, ranking in counted.items():
            shares, absent = self._shares(name, ranking)
            weight = self.weight(name)
            for id in everything:
                fused[id] = fused.get(id, 0.0) + weight * shares.get(id, absent)
        return best_first({id: round(score, _DECIMALS) for id, score in fused.items()})

    def weight(self, name: str) -> float:
        """The weight of a ranking by its name."""
        return float(self.weights.get(name, 1.0))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, which `from_dict` takes again."""
        fitted = None if self.fitted_on is None else asdict(self.fitted_on)
        return {"method": self.method, "weights": dict(self.weights), "k": self.k, "fitted_on": fitted}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fusion:
        """A fusion of what `as_dict` gave.

        Raises:
            ValueError: anything else.

        Example:
            >>> Fusion.from_dict(Fusion("z_score").as_dict()) == Fusion("z_score")
            True
        """
        try:
            fitted = values.get("fitted_on")
            if fitted is not None:
                keys = tuple(str(key) for key in fitted["query_keys"])
                fitted = FittedOn(keys, str(fitted["metric"]), int(fitted["tried"]))
            return cls(values["method"], dict(values["weights"]), values["k"], fitted)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no fusion: {type(error).__name__} {error} in {shown(values)}") from None

    def _shares(self, name: str, ranking: Ranking) -> tuple[dict[str, float], float]:
        """What each document of a ranking gets, and what one gets that is not in it."""
        scores = list(ranking.values())
        if not all(map(math.isfinite, scores)):
            bad = next(id for id, score in ranking.items() if not math.isfinite(score))
            raise ValueError(f"the score of {bad!r} in {name!r} is {ranking[bad]}; fusion takes finite scores")
        if self.method == "rrf":
            return {id: 1 / (self.k + rank) for rank, id in enumerate(ranking, 1)}, 0.0
        if not scores:
            return {}, 0.0
        low, high = min(scores), max(scores)
        if self.method == "min_max":
            span = high - low
            return {id: (score - low) / span if span > 0 else 1.0 for id, score in ranking.items()}, 0.0
        mean = math.fsum(scores) / len(scores)
        deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
        scaled = {id: (score - mean) / deviation if deviation > 0 else 0.0 for id, score in ranking.items()}
        return scaled, min(scaled.values())


def reciprocal_rank_fusion(rankings: Sequence[Ranking], *, k: float = RRF_K) -> dict[str, float]:
    """Rankings of one query that need no names, fused by reciprocal ranks with equal weights.

    Args:
        rankings: scores by document, best first.
        k: as of `Fusion`.

    Returns:
        Scores by document, best first.

    Example:
        >>> list(reciprocal_rank_fusion([{"a": 2.0, "b": 1.0}, {"b": 5.0}]))
        ['b', 'a']
    """
    return Fusion(k=k).fuse({str(number): ranking for number, ranking in enumerate(rankings)})


def best_first(scores: Ranking) -> dict[str, float]:
    """Scores sorted, the highest first; of one score in the order of the ids.

    Example:
        >>> best_first({"b": 1.0, "a": 1.0, "c": 2.0})
        {'c': 2.0, 'a': 1.0, 'b': 1.0}
    """
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
