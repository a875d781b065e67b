"""Several data sets as one to train on, each with its share of every epoch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Value, concatenate_datasets

from mmembed.data.keys import permutation, pick
from mmembed.data.schema import DataError
from mmembed.data.training_pairs import TrainingPairs

_STRING = Value("string")


class PairMixture(TrainingPairs):
    """`TrainingPairs` of several sources; an epoch takes a fixed number of rows from each.

    Each source is gone through in an order drawn anew for every pass, so that all its rows are seen before one comes
    again, however its share cuts the passes into epochs. Which rows an epoch has is a function of (seed, epoch).

    Args:
        sources: Name → pairs. Their item ids differ between sources, e.g. by a prefix; uses and negatives are the same.
        shares: Name → weight; they are divided by their sum.
        rows: Rows of an epoch; None is as many as the sources have together.

    Raises:
        ValueError: If sources and shares do not fit one another.
        DataError: If a share is too small for one row an epoch, or pairs carry prompts.

    Example:
        >>> def shop(name, rows):
        ...     ids = [f"{name}/{row}" for row in range(rows)]
        ...     items = Dataset.from_dict({"id": ids, "text": ids, "image": [None] * rows, "group": ids})
        ...     pairs = Dataset.from_dict({"query_id": ids, "positive_ids": [[id] for id in ids], "negative_ids": [[]] * rows})
        ...     return TrainingPairs(items, items, pairs, document_use="text")
        >>> mixed = PairMixture({"a": shop("a", 4), "b": shop("b", 2)}, {"a": 1, "b": 2})
        >>> len(mixed), mixed.counts
        (6, {'a': 2, 'b': 4})
        >>> [mixed.queries[mixed.draw(row, seed=0, epoch=0)[0]]["id"][0] for row in range(6)]
        ['a', 'a', 'b', 'b', 'b', 'b']
    """

    def __init__(
        self, sources: Mapping[str, TrainingPairs], shares: Mapping[str, float], rows: int | None = None
    ) -> None:
        self.sources = dict(sources)
        first = _check(self.sources, shares)
        self.query_use, self.document_use = first.query_use, first.document_use
        self.num_negatives, self.scored, self.teacher_scores = first.num_negatives, first.scored, first.teacher_scores
        self.pairs, self.prompts = None, None
        self.counts = _counts({name: shares[name] for name in sources}, rows or sum(map(len, sources.values())))
        together = list(self.sources.values())
        self.queries = concatenate_datasets([source.queries for source in together])
        same = all(source.documents is source.queries for source in together)
        self.documents = self.queries if same else concatenate_datasets([source.documents for source in together])
        self.query_keys = np.concatenate([source.query_keys for source in together])
        self.document_keys = np.concatenate([source.document_keys for source in together])
        self._query_start = _starts(len(source.queries) for source in together)
        self._document_start = _starts(len(source.documents) for source in together)
        self._slot_start = _starts(self.counts.values())
        # What was drawn last, in memory that worker processes share: an error names rows by it.
        self._last = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._held: tuple[tuple[int, int], list[np.ndarray]] = ((-1, -1), [])

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def ids(self) -> list[str]:
        """The query of each row, in the epoch that was drawn last."""
        seed, epoch = self._last.tolist()
        rows = self._rows(seed, epoch)
        return [source.ids[row] for source, own in zip(self.sources.values(), rows) for row in own.tolist()]

    def draw(self, row: int, *, seed: int, epoch: int) -> tuple[int, list[int], float | list[float] | None]:
        number = int(np.searchsorted(self._slot_start, row, side="right")) - 1
        own = self._rows(seed, epoch)[number][row - self._slot_start[number]]
        query, documents, score = self._source(number).draw(int(own), seed=seed, epoch=epoch)
        start = int(self._document_start[number])
        return query + int(self._query_start[number]), [document + start for document in documents], score

    def pair_keys(self, *, seed: int, epoch: int) -> np.ndarray:
        keys = [source.pair_keys(seed=seed, epoch=epoch) for source in self.sources.values()]
        return np.concatenate([own[rows] for own, rows in zip(keys, self._rows(seed, epoch))])

    def fingerprint(self) -> str:
        described: list[Any] = [[name, source.fingerprint()] for name, source in self.sources.items()]
        return hashlib.sha256(json.dumps([described, self.counts]).encode()).hexdigest()

    def _source(self, number: int) -> TrainingPairs:
        return list(self.sources.values())[number]

    def _rows(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The rows of each source that an epoch takes."""
        if self._held[0] != (seed, epoch):
            rows = []
            for (name, source), count in zip(self.sources.items(), self.counts.values()):
                own_seed = pick(2**32, seed=seed, epoch=0, id=name, salt="mixture")
                places = np.arange(epoch * count, (epoch + 1) * count)
                passes = places // len(source)
                own = np.empty(count, dtype=np.int64)
                for number in np.unique(passes).tolist():
                    chosen = passes == number
                    own[chosen] = permutation(len(source), own_seed, number)[places[chosen] % len(source)]
                rows.append(own)
            self._held = ((seed, epoch), rows)
        self._last[0], self._last[1] = seed, epoch
        return self._held[1]


def with_prefix(items: Dataset, name: str) -> Dataset:
    """ITEMS whose ids and groups begin with `name/`, attribute columns left out, ready to stand beside other sources'.

    Args:
        items: ITEMS.
        name: The source.

    Returns:
        The same rows.

    Example:
        >>> items = Dataset.from_dict({"id": ["1"], "text": ["hat"], "image": [None], "group": [None], "price": [3]})
        >>> with_prefix(items, "shop")[0]
        {'id': 'shop/1', 'text': 'hat', 'image': None, 'group': None}
    """
    kept = [column for column in ("text", "image", "text_parts") if column in items.column_names]
    columns = {"id": [f"{name}/{id}" for id in items["id"][:]]}
    groups = items["group"][:] if "group" in items.column_names else [None] * len(items)
    columns["group"] = [None if group is None else f"{name}/{group}" for group in groups]
    table = items.select_columns(kept)
    for column, values in columns.items():
        table = table.add_column(column, values, feature=_STRING)
    return table.select_columns(["id", "text", "image", "group", *kept[2:]])


def pairs_with_prefix(pairs: Dataset, name: str) -> Dataset:
    """PAIRS whose ids begin with `name/`."""

    def prefixed(rows: dict[str, list]) -> dict[str, list]:
        lists = {
            key: [[f"{name}/{id}" for id in ids or []] for ids in rows[key]] for key in ("positive_ids", "negative_ids")
        }
        return {"query_id": [f"{name}/{id}" for id in rows["query_id"]], **lists}

    return pairs.map(prefixed, batched=True, features=pairs.features, desc=None, load_from_cache_file=False)


def replay_rows(rows: int, share: float) -> int:
    """How many rows an epoch has when `rows` rows of its own leave the share for earlier data.

    Example:
        >>> replay_rows(80, 0.2)
        100
    """
    if not 0 <= share < 1:
        raise ValueError(f"replay={share}; it must be at least 0 and below 1.")
    return round(rows / (1 - share))


def _check(sources: Mapping[str, TrainingPairs], shares: Mapping[str, float]) -> TrainingPairs:
    if not sources or set(sources) != set(shares):
        raise ValueError(
            f"a mixture of {sorted(sources)} with shares for {sorted(shares)}; give each source its share."
        )
    wrong = [name for name, share in shares.items() if not (share > 0 and math.isfinite(share))]
    if wrong:
        raise ValueError(f"the share of {wrong[0]!r} is {shares[wrong[0]]}; it must be above 0.")
    first = next(iter(sources.values()))
    for name, source in sources.items():
        for what in ("query_use", "document_use", "num_negatives", "scored", "teacher_scores"):
            if getattr(source, what) != getattr(first, what):
                raise ValueError(
                    f"{what} is {getattr(source, what)!r} in {name!r} and {getattr(first, what)!r} in another source; "
                    "the sources of a mixture are encoded alike."
                )
        if source.prompts and any(source.prompts):
            raise DataError(
                "pairs of a mixture cannot carry prompts; leave the column out and set prompts in the training arguments",
                file=name,
                field="prompt",
            )
    return first


def _counts(shares: Mapping[str, float], rows: int) -> dict[str, int]:
    """Whole numbers of rows that add up to `rows`, as near to the shares as they can be."""
    total = sum(shares.values())
    exact = {name: rows * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in order[: rows - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, count in counts.items() if not count]:
        raise DataError(f"its share of {rows} rows an epoch is less than one row; raise its weight", file=empty[0])
    return counts


def _starts(sizes: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(sizes))[:-1]]).astype(np.int64)
