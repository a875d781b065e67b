"""What an evaluation measured, told with a saved model: in `.eval_results`, and in its card's metadata and text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed.export.card_reading import read_card
from mmembed.export.hub_results import (
    EvaluationData,
    EvaluationResult,
    arrow,
    evaluation_results,
    metadata_text,
    model_index_entries,
    write_result_file,
)
from mmembed.pages import escape_markdown, markdown_table
from mmembed.whole_files import write_whole


def write_evaluation_results(
    folder: str | os.PathLike[str],
    metrics: Mapping[str, Any],
    data: EvaluationData,
    *,
    evaluation: str = "retrieval",
    confidence: float = 0.95,
    date: str | None = None,
) -> list[Path]:
    """Tell a saved model's numbers: in `.eval_results`, and in its card's model-index and text where it has a card.

    Earlier numbers of the same evaluation on the same data are replaced, others stay. All three places are filled from
    `metrics`, so that they cannot say different things.

    Args:
        folder: The model's.
        metrics: What `evaluate_*` returned, see `evaluation_results`.
        data: What they were measured on.
        evaluation: "retrieval", "matching", "probes", "zero-shot", …
        confidence: Of the intervals.
        date: When, ISO 8601.

    Returns:
        The files that were written.

    Raises:
        ValueError: The folder is not there, no number is finite, or the card's front matter cannot be read.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "README.md").write_text("---\\nlicense: mit\\n---\\n# Shoes\\n")
        >>> metrics = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "n": 30.0}
        >>> paths = write_evaluation_results(folder, metrics, EvaluationData("shop", "test"), evaluation="matching")
        >>> [path.name for path in paths]
        ['matching-shop-test.yaml', 'README.md']
        >>> (folder / "README.md").read_text().splitlines()[-1]
        '| f1 | 0.500 | 0.400–0.600 | 30 |'
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: save the model first, then write its results")
    results = evaluation_results(metrics)
    card = folder / "README.md"
    text = _card_with(card, results, data, evaluation, confidence) if card.is_file() else None
    written = [write_result_file(folder, results, data, evaluation=evaluation, confidence=confidence, date=date)]
    if text is not None:
        whole = text
        write_whole(card, lambda new: Path(new).write_bytes(whole.encode("utf-8")))
        written.append(card)
    return written


def _card_with(
    path: Path, results: Sequence[EvaluationResult], data: EvaluationData, evaluation: str, confidence: float
) -> str:
    """A card's text with these numbers in its metadata and in a section of their own."""
    card = read_card(path)
    known: Any = card.data
    entries = model_index_entries(results, data, evaluation=evaluation, confidence=confidence)
    new = {entry.unique_identifier for entry in entries}
    kept = [entry for entry in known.eval_results or [] if entry.unique_identifier not in new]
    known.eval_results = [*kept, *entries]
    known.model_name = known.model_name or metadata_text(path.parent.resolve().name) or "model"
    part = f", {data.split}" if data.split else ""
    heading = escape_markdown(f"Evaluation: {evaluation} on {data.name}{part}")
    section = f"## {heading}\n\n{_table(results, confidence)}\n"
    start, body = _without_section(card.text.replace("\r\n", "\n"), heading)
    front = known.to_yaml(original_order=card._original_order)
    return f"---\n{front}\n---\n{start.rstrip()}\n\n{section}" + (f"\n{body}" if body else "")


def _without_section(text: str, heading: str) -> tuple[str, str]:
    """What stands before a section and after it."""
    lines = text.split("\n")
    try:
        first = lines.index(f"## {heading}")
    except ValueError:
        return text, ""
    end = next((n for n in range(first + 1, len(lines)) if re.match(r"##? ", lines[n])), len(lines))
    return "\n".join(lines[:first]), "\n".join(lines[end:])


def _table(results: Sequence[EvaluationResult], confidence: float) -> str:
    counts = list(dict.fromkeys(name for one in results for name in one.counts))
    intervals = any(one.low is not None for one in results)
    rows = []
    for one in results:
        row: list[object] = [arrow(one.direction) + ", " * bool(one.direction) + one.metric, f"{one.value:.3f}"]
        row += ([None] if one.low is None else [f"{one.low:.3f}–{one.high:.3f}"]) if intervals else []
        rows.append([*row, *(one.counts.get(name) for name in counts)])
    return markdown_table(rows, ["metric", "value", *([f"{confidence:.0%} interval"] if intervals else []), *counts])
