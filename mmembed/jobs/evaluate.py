"""`mmembed evaluate {retrieval,matching,probes,zero-shot,health,all}`: a model and data → numbers with intervals, and a page."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from mmembed.jobs.evaluate_options import EvaluateOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from mmembed.evaluation.sections import Section
    from mmembed.jobs.evaluation_data import EvaluationData
    from mmembed.jobs.measurement import Measurement
    from mmembed.statistics import PairedDifference

_PACKAGES = (
    "mmembed",
    "torch",
    "transformers",
    "sentence-transformers",
    "datasets",
    "numpy",
    "scikit-learn",
    "ir-measures",
    "faiss-cpu",
    "pillow",
    "matplotlib",
)


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `evaluate`; the first says what is measured.

    Returns:
        0 when the page and the numbers are written.

    Raises:
        OptionsError: If an option is unknown or of the wrong type, or the data does not allow what is asked for.
        DataError: If the data has a fault.

    Example:
        >>> main(["retrieval"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name the model to measure, or a folder of its embeddings
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--what", *words]
    options = parse_options(EvaluateOptions, words, prog="mmembed evaluate", description=EvaluateOptions.__doc__ or "")
    run(options, command=shlex.join(["mmembed", "evaluate", *argv]))
    return 0


def run(options: EvaluateOptions, *, command: str) -> Path:
    """Measure, write the page and tell the primary numbers.

    Args:
        options: What is measured, of which model, on which rows, and where the page goes.
        command: What the page says it was made by.

    Returns:
        The path of report.html.
    """
    _check(options)
    from mmembed.evaluation.query_results import FILE_NAME
    from mmembed.evaluation.report_page import write_report
    from mmembed.jobs.evaluation_data import evaluation_data, label_columns
    from mmembed.jobs.evaluation_rankings import keep_query_results
    from mmembed.jobs.evaluation_sections import (
        class_levels,
        data_checks,
        embedding_maps,
        measured_sections,
        with_notes,
    )
    from mmembed.jobs.evaluation_vectors import EvaluationVectors
    from mmembed.jobs.measurement import Measurement

    data = evaluation_data(options)
    labels = label_columns(data.measured.queries, options.labels)
    class_levels(options, data.measured.queries)  # what is wrong with a column is said before the work

    def under(name: str, before: Measurement | None = None) -> Measurement:
        vectors = EvaluationVectors(
            name,
            options.output_dir / "vectors",
            data.reader,
            batch_size=options.batch_size,
            show_progress_bar=options.show_progress_bar,
        )
        return Measurement(options, data, vectors, labels, before=before)

    earlier = under(options.base_model) if options.base_model else None
    after = under(options.model or "", earlier)
    before, _ = measured_sections(earlier) if earlier else ([], {})
    sections, left_out = measured_sections(after)
    with as_option_errors():
        maps = embedding_maps(after)
    if options.what == "all" and options.check_data:
        sections.append(data_checks(options, data))
    if data.notes and sections:
        sections[0] = with_notes(sections[0], data.notes)
    with as_option_errors():
        differences = _differences(after)
        page = write_report(
            sections,
            options.output_dir,
            title=options.title
            or f"{Path(data.name).name}: {'every row' if data.part == 'all' else f'{data.part} part'}",
            command=command,
            versions=_versions(),
            facts=_facts(options, data, left_out),
            before=before,
            names=_names(options),
            differences=differences,
            maps=maps,
            max_hit_lists=options.max_hit_lists,
        )
    for name, measurement in (("queries_before.jsonl", earlier), (FILE_NAME, after)):
        if measurement is not None and measurement.rankings:
            keep_query_results(measurement, options.output_dir / name)
    if options.update_card:
        _update_card(sections, data, Path(options.model or ""))
    _tell(sections, left_out, page)
    return page


def _check(options: EvaluateOptions) -> None:
    """Refuse what cannot be meant, before anything heavy is imported or read."""
    if not options.model:
        raise OptionsError("--model: name the model to measure, or a folder of its embeddings")
    for name, least in (("batch_size", 1), ("bootstrap_samples", 0), ("max_hit_lists", 0), ("map_points", 0)):
        if getattr(options, name) < least:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least {least}")
    if not options.ks or min(options.ks) < 1:
        raise OptionsError(f"--ks: found {options.ks}, wanted whole numbers from 1 on")
    for side in ("query_use", "document_use"):
        if getattr(options, side) == "any":
            raise OptionsError(f"--{side} any: an evaluation looks at one side of an item; choose text, image or fused")
    if options.update_card and not (Path(options.model) / "modules.json").is_file():
        raise OptionsError(f"--update_card: {options.model} is no folder of a saved model, whose card could be updated")
    if (options.output_dir / "report.html").is_dir() or options.output_dir.is_file():
        raise OptionsError(f"--output_dir: {options.output_dir} is no folder that a page can be written to")


# --- what the page says of it ------------------------------------------------------------------------------------


def _differences(after: Measurement) -> dict[str, Mapping[str, PairedDifference]]:
    options = after.options
    if after.before is None or not after.rankings or not options.bootstrap_samples:
        return {}
    from mmembed.evaluation.retrieval_section import retrieval_differences
    from mmembed.jobs.evaluation_rankings import query_clusters

    found = retrieval_differences(
        after.before.rankings,
        after.rankings,
        ks=options.ks,
        groups=query_clusters(after),
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
    )
    return {"retrieval": found}


def _names(options: EvaluateOptions) -> tuple[str, str]:
    """What the two models are called: the ends of their paths, more of them where these are the same."""
    old, new = (Path(name or "").parts for name in (options.base_model, options.model))
    if old == new:
        return "before", "after"
    length = next((n for n in range(1, 1 + max(len(old), len(new))) if old[-n:] != new[-n:]), 1)
    return "/".join(old[-length:]) or "before", "/".join(new[-length:]) or "after"


def _facts(options: EvaluateOptions, data: EvaluationData, left_out: Mapping[str, str]) -> dict[str, str]:
    facts = {"model": str(options.model)}
    if options.base_model:
        facts["compared with"] = options.base_model
    measured = data.measured
    facts |= {"data": data.name, "part": f"{data.part}, {len(measured.queries):,} queries"}
    if not data.is_one_table:
        facts["documents"] = f"{len(measured.documents):,}"
    facts["measured"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    if left_out:
        facts["not measured"] = "; ".join(f"{name}, as {reason}" for name, reason in left_out.items())
    return facts


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _update_card(sections: Sequence[Section], data: EvaluationData, folder: Path) -> None:
    from mmembed.export.evaluation_results import write_evaluation_results
    from mmembed.export.hub_results import EvaluationData as MeasuredOn

    for section in sections:
        if section.name != "data":  # checks of the data say nothing of the model
            measured_on = MeasuredOn(Path(data.name).name, data.part)
            write_evaluation_results(folder, section.metrics, measured_on, evaluation=section.name)
    sys.stdout.write(f"card            {folder / 'README.md'}\n")


def _tell(sections: Sequence[Section], left_out: Mapping[str, str], page: Path) -> None:
    from mmembed.evaluation.page_text import shown_number
    from mmembed.evaluation.report_numbers import measured_one
    from mmembed.pages import text_table

    rows = []
    for section in sections:
        one = measured_one(section.primary, section.metrics)
        interval = "" if one.low is None or one.high is None else f"{shown_number(one.low)} to {shown_number(one.high)}"
        rows.append([section.title, one.name, shown_number(one.value), interval, one.shown_n()])
    header = ["evaluation", "primary metric", "value", "95 % interval", "n"]
    sys.stdout.write(f"\n{text_table(rows, header)}\n\n")
    for name, reason in left_out.items():
        sys.stdout.write(f"not measured    {name}: {reason}\n")
    sys.stdout.write(f"numbers         {page.parent / 'metrics.json'}\npage            {page}\n")
