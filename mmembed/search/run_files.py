"""Results of a search → a file that others read: JSON lines with all that is known, or a TREC run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from mmembed.data.schema import DataError, did_you_mean, shown
from mmembed.search.hits import Hit
from mmembed.whole_files import write_whole

RunFormat = Literal["jsonl", "trec"]

_BLANK = re.compile(r"\s")


def write_run(
    path: str | os.PathLike,
    results: Mapping[str, Sequence[Hit]],
    *,
    format: RunFormat = "jsonl",
    tag: str = "mmembed",
    queries: Mapping[str, str | None] | None = None,
) -> None:
    """Write a run; the file appears whole or not at all.

    "jsonl" has a line a query: `{"query_id", "query", "hits": [{"id", "score", "stage", "ranks", "scores"}]}`. "trec" has a line
    a hit: `query Q0 document rank score tag`. Its score is 1 / rank: trec_eval sorts by it, and what a reranker scored does
    not compare with what stands behind.

    Args:
        path: the file, replaced where it exists.
        results: for each query its hits, best first.
        format: "jsonl" or "trec".
        tag: of "trec": the run's name.
        queries: of "jsonl": for each query its text.

    Raises:
        ValueError: an unknown format.
        DataError: of "trec": an id or tag with a blank in it, which the format cannot hold; a query without hits is no line.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/run.trec"
        >>> write_run(path, {"q1": [Hit("a", 0.9, "dense"), Hit("b", 0.7, "dense")]}, format="trec")
        >>> print(open(path).read(), end="")
        q1 Q0 a 1 1.000000 mmembed
        q1 Q0 b 2 0.500000 mmembed
    """
    known = get_args(RunFormat)
    if format not in known:
        raise ValueError(f"run format {format!r} is not known{did_you_mean(str(format), known)} Known: {known}.")
    lines = []
    for query, hits in results.items():
        if format == "trec":
            for rank, hit in enumerate(hits, 1):
                for word in (query, hit.id, tag):
                    if not word or _BLANK.search(word):
                        raise DataError(
                            f"{shown(word)} has a blank, which a TREC run cannot hold; write jsonl", file=path
                        )
                lines.append(f"{query} Q0 {hit.id} {rank} {1 / rank:.6f} {tag}\n")
            continue
        found = [
            {"id": hit.id, "score": hit.score, "stage": hit.stage, "ranks": dict(hit.ranks), "scores": dict(hit.scores)}
            for hit in hits
        ]
        row = {"query_id": query, "query": (queries or {}).get(query), "hits": found}
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(path, lambda new: Path(new).write_text("".join(lines), encoding="utf-8", newline="\n"))
