"""`mmembed index`: embeddings → an index that searches, measured before it is written."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmembed.jobs.index_options import IndexOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from mmembed.embeddings import Embeddings
    from mmembed.ranking_metrics import Qrels
    from mmembed.search.fit_report import FitReport
    from mmembed.search.index import Index
    from mmembed.search.index_settings import IndexSettings

_SETTINGS = (
    "kind", "precision", "truncate_dim", "rescore", "oversample", "lists", "probes", "neighbours", "ef_construction",
    "ef_search", "segments",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `index`.

    Returns:
        0 when the index is written, or, with `--report_only`, measured.

    Raises:
        OptionsError: If an option is unknown or of the wrong type, or options do not go together.
        DataError: If embeddings or judgements have a fault.
        FitError: If the index keeps less than the floor; nothing is written then.

    Example:
        >>> main(["--output_dir", "shop-index"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --embeddings: name the folder of embeddings to index
    """
    options = parse_options(IndexOptions, argv, prog="mmembed index", description=IndexOptions.__doc__ or "")
    run(options)
    return 0


def run(options: IndexOptions) -> Index | None:
    """Measure where there is something to measure on, build, write, and tell what came of it.

    Args:
        options: What is indexed, how, what it is measured on, and where it goes.

    Returns:
        The index; None with `report_only`.
    """
    _check(options)
    from mmembed.embeddings import Embeddings
    from mmembed.search.index import Index
    from mmembed.search.index_settings import IndexSettings

    documents = Embeddings.load(str(options.embeddings))
    calibration = None if options.calibration is None else Embeddings.load(options.calibration)
    with as_option_errors():
        wanted = IndexSettings(**{name: getattr(options, name) for name in _SETTINGS})
        wanted.filled(len(documents), int(documents.vectors.shape[1]))
        report = _report(options, documents, calibration, wanted)
    fit = None
    if report is not None:
        sys.stdout.write(f"{report.table()}\n\n")
        fit = report.rows[0 if wanted == IndexSettings("flat") else 1]
        if not (options.report_only or options.allow_collapse):
            report.check(fit)
    if options.report_only:
        return None
    with as_option_errors():
        index = Index.build(
            documents,
            calibration=calibration,
            show_progress_bar=options.show_progress_bar,
            kind=wanted.kind,
            **wanted.parameters(),
        )
    if fit is not None and report is not None:
        measured = {**fit.to_dict(), "measure": report.measure, "floor": report.floor, "documents": report.documents}
        # JSON has no NaN: of nothing no share is kept
        index.fit = {name: None if value != value else value for name, value in measured.items()}
    index.save(str(options.output_dir))
    _tell(options, index, fitted=fit is not None)
    return index


def _check(options: IndexOptions) -> None:
    """What can be said before anything heavy is imported or read."""
    if not options.embeddings:
        raise OptionsError("--embeddings: name the folder of embeddings to index")
    if not options.output_dir and not options.report_only:
        raise OptionsError("--output_dir: name the folder of the index, or say --report_only")
    if options.pairs and options.qrels:
        raise OptionsError("--pairs and --qrels both judge; give one of them")
    if options.output_dir and os.path.lexists(options.output_dir) and not options.overwrite and not options.report_only:
        if not os.path.isdir(options.output_dir) or os.listdir(options.output_dir):
            raise OptionsError(f"--output_dir: {options.output_dir} is there already; name another, or say --overwrite")
    if not (0 <= options.floor <= 1 and math.isfinite(options.floor)) or options.k < 1:
        raise OptionsError(f"--floor {options.floor}, --k {options.k}: from 0 to 1, and at least 1")
    measured = bool(options.queries or options.pairs or options.qrels)
    if (options.compare or options.report_only) and not measured:
        raise OptionsError(
            "--compare and --report_only measure; give --queries, and --pairs or --qrels where you have them"
        )


def _report(
    options: IndexOptions, documents: Embeddings, calibration: Embeddings | None, wanted: IndexSettings
) -> FitReport | None:
    if not (options.queries or options.pairs or options.qrels):
        return None
    from mmembed.embeddings import Embeddings
    from mmembed.search.fit_report import default_settings, fit_report

    queries = documents if options.queries is None else Embeddings.load(options.queries)
    others = default_settings(len(documents), int(documents.vectors.shape[1])) if options.compare else []
    same = options.queries is None if options.exclude_same_id is None else options.exclude_same_id
    return fit_report(
        queries,
        documents,
        _judgements(options),
        settings=[wanted, *(one for one in others if one != wanted)],
        k=options.k,
        floor=options.floor,
        exclude_same_id=same,
        calibration=calibration,
        show_progress_bar=options.show_progress_bar,
    )


def _judgements(options: IndexOptions) -> Qrels | None:
    if options.qrels is not None:
        return read_qrels(options.qrels)
    if options.pairs is None:
        return None
    from mmembed.data.reading import read_pairs

    found: dict[str, dict[str, int]] = {}
    for row in read_pairs(options.pairs):
        scores = row.get("positive_scores") or [1] * len(row["positive_ids"])
        whole = all(float(score).is_integer() and score > 0 for score in scores)
        # scores that are no grades, such as a teacher's, say that a document is relevant, and not how much
        grades = [int(score) for score in scores] if whole else [1] * len(scores)
        found.setdefault(row["query_id"], {}).update(zip(row["positive_ids"], grades))
    return found


def read_qrels(path: str) -> dict[str, dict[str, int]]:
    """Read judgements as TREC has them.

    Args:
        path: lines of query, a word that says nothing, document and a whole grade, separated by blanks or tabs.

    Returns:
        Grades by document, by query; those of 0 and below, which are judged and not relevant, are left out.

    Raises:
        DataError: a line of another form; names it.
    """
    from mmembed.data.schema import DataError, shown

    found: dict[str, dict[str, int]] = {}
    with open(path, "rb") as file:
        for line, data in enumerate(file, 1):
            try:
                words = data.decode("utf-8").split()
                if not words:
                    continue
                query, _, document, grade = words
                if int(grade) > 0:
                    found.setdefault(query, {})[document] = int(grade)
            except ValueError:
                message = f"found {shown(data)}, expected four words: query 0 document grade"
                raise DataError(message, file=path, line=line) from None
    return found


def _tell(options: IndexOptions, index: Index, *, fitted: bool) -> None:
    memory, mapped = index.bytes_per_vector()
    beside = f" and {mapped:,.0f} in a mapped file" if mapped else ""
    sys.stdout.write(
        f"index           {options.output_dir}\n"
        f"what it is      {index.settings}\n"
        f"vectors         {len(index):,} × {index.dim}, {memory:,.0f} bytes each in memory{beside}\n"
    )
    if not fitted and (index.kind, index.settings.precision) != ("flat", "float32"):
        sys.stdout.write(
            "kept            not measured: give --queries, and --pairs or --qrels, to see what this keeps of the retrieval\n"
        )
