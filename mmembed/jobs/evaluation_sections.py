"""What each evaluation takes from the data and the vectors, and when the data does not allow it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmembed.jobs.evaluate_options import EvaluateOptions
from mmembed.jobs.measurement import Measurement
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.evaluation.embedding_map import EmbeddingMap
    from mmembed.evaluation.sections import Section
    from mmembed.jobs.evaluation_data import EvaluationData


class NotPossibleError(OptionsError):
    """The data does not allow this measurement; the message says what is missing."""


def measured_sections(measurement: Measurement) -> tuple[list[Section], dict[str, str]]:
    """The sections that were asked for; with "all" those that the data allows, and why the others are not there."""
    measures = {
        "retrieval": _retrieval,
        "matching": _matching,
        "probes": _probes,
        "zero-shot": _zero_shot,
        "health": _health,
    }
    what = measurement.options.what
    sections: list[Section] = []
    left_out: dict[str, str] = {}
    for name, measure in measures.items():
        if what not in (name, "all"):
            continue
        if measurement.options.show_progress_bar:
            sys.stdout.write(f"measuring       {name}, {measurement.vectors.name}\n")
            sys.stdout.flush()
        try:
            with as_option_errors():
                sections.append(measure(measurement))
        except NotPossibleError as error:
            if what != "all":
                raise
            left_out[name] = str(error)
    if not sections:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise OptionsError(f"this data allows none of the evaluations: {reasons}")
    return sections, left_out


def _retrieval(measurement: Measurement) -> Section:
    from mmembed.evaluation.retrieval_section import retrieval_section
    from mmembed.jobs.evaluation_rankings import measured_rankings, query_clusters, ranked_tables

    options = measurement.options
    if not len(measurement.data.measured.pairs):
        raise NotPossibleError("no pairs, and no item with both a text and an image: nothing is to be found")
    queries, documents = ranked_tables(measurement)
    measurement.rankings = measured_rankings(measurement, queries, documents)
    section = retrieval_section(
        measurement.rankings,
        queries,
        documents,
        reader=measurement.data.reader,
        label_columns=measurement.labels,
        before=None if measurement.before is None else measurement.before.rankings,
        groups=query_clusters(measurement),
        ks=options.ks,
        max_hit_lists=options.max_hit_lists,
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
    )
    if options.directions == "every" and measurement.data.is_one_table and not options.exclude_same_id:
        section = with_notes(
            section, ["A fused vector holds its item's text and image: from it or to it is no search."]
        )
    return section


def _matching(measurement: Measurement) -> Section:
    from mmembed.data.splits import split_by_group
    from mmembed.evaluation.matching import measure_matching
    from mmembed.evaluation.matching_rows import matching_rows
    from mmembed.evaluation.matching_section import matching_section

    options, data = measurement.options, measurement.data
    side = next((side for side in ("queries", "documents") if _has_groups(getattr(data.measured, side))), None)
    if side is None:
        raise NotPossibleError(f"no two rows share a group (column {options.group_column!r})")
    items: Dataset = getattr(data.measured, side)
    validation: Dataset | None = getattr(data.parts["validation"], side) if "validation" in data.parts else None
    notes, encoded = [], items
    halved = data.part == "validation" or validation is None or not _has_groups(validation)
    if halved or validation is None:
        halves = split_by_group(items, test_percent=50, validation_percent=0, by="group", salt="matching thresholds")
        validation, items = halves["train"], halves["test"]
        notes.append(
            f"There is no validation part of its own: thresholds are chosen on {len(validation):,} rows of one half of the "
            f"groups, and all numbers here are of the {len(items):,} rows of the other."
        )
        if not (_has_groups(validation) and _has_groups(items)):
            raise NotPossibleError(
                "too few groups of several rows to choose thresholds on one half and measure the other"
            )
    uses = [use for use in ("image", "text") if use in measurement.vectors.uses(items)]
    if not uses:
        raise NotPossibleError("neither a text nor an image is there for every row")
    steps: dict[str, Any] = {} if options.matching_steps is None else {"steps": options.matching_steps}
    # halves are rows of a table that is encoded already
    rows = [
        matching_rows(measurement.vectors.by_use(whole, uses), table)
        for whole, table in ((encoded, items), (encoded if halved else validation, validation))
    ]
    found = measure_matching(None, *rows, bootstrap_samples=options.bootstrap_samples, seed=options.seed, **steps)
    return with_notes(matching_section(found, images=_Thumbnails(items, data)), notes)


def _probes(measurement: Measurement) -> Section:
    from mmembed.evaluation.probes import measure_probes
    from mmembed.evaluation.probes_section import probes_section
    from mmembed.evaluation.probes_tasks import guess_tasks

    options, items = measurement.options, measurement.data.measured.queries
    if options.tasks is None and not guess_tasks(items):
        raise NotPossibleError("no column that could be a task: give --tasks")
    vectors = measurement.vectors.by_use(items)
    if not vectors:
        raise NotPossibleError("neither a text nor an image is there for every row")
    found = measure_probes(
        vectors,
        items,
        tasks=options.tasks,
        probes=options.probes or (["logistic"] if options.what == "all" else ["logistic", "mlp", "knn"]),
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
        show_progress_bar=options.show_progress_bar,
    )
    return probes_section(found)


def _zero_shot(measurement: Measurement) -> Section:
    from mmembed.evaluation.zero_shot import measure_zero_shot
    from mmembed.evaluation.zero_shot_section import zero_shot_section
    from mmembed.jobs.evaluation_data import class_column

    options, items = measurement.options, measurement.data.measured.queries
    column = options.class_column or class_column(items)
    if column is None:
        raise NotPossibleError("no column of classes: give --class_column, and --classes for their names")
    if measurement.vectors.stored:
        raise NotPossibleError("the names of the classes are to be encoded, and --model is a folder of embeddings")
    uses = measurement.vectors.uses(items)
    if options.document_use not in uses:
        raise NotPossibleError(f"not every row has what --document_use {options.document_use} looks at")
    labels = sorted({str(value) for value in items[column][:] if value is not None})
    if options.classes is None and len(labels) < 2:
        raise NotPossibleError(f"the column {column!r} has fewer than two values")
    found = measure_zero_shot(
        measurement.vectors.model,
        items,
        labels if options.classes is None else options.classes,
        label_column=column,
        templates=_templates(options, labels),
        use=options.document_use,
        item_embeddings=measurement.vectors.of(items, options.document_use),
        levels=class_levels(options, items),
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    return with_notes(zero_shot_section(found), [f"Classes are the values of the column {column!r}."])


def _health(measurement: Measurement) -> Section:
    from mmembed.evaluation.embedding_health import measure_health
    from mmembed.evaluation.health_section import health_section

    options, items = measurement.options, measurement.data.measured.queries
    vectors = measurement.vectors.by_use(items)
    if not vectors:
        raise NotPossibleError("neither a text nor an image is there for every row")
    k = max(options.ks)
    if len(items) < k + 2:
        raise NotPossibleError(f"{len(items)} rows are too few for the {k} neighbours of a row; choose smaller --ks")
    return health_section(measure_health(vectors, items, k=k, seed=options.seed))


def _templates(options: EvaluateOptions, labels: Sequence[str]) -> str | list[str]:
    """The templates that were given, else those of the script that most class names are written in."""
    if options.templates:
        return (
            options.templates[0]
            if len(options.templates) == 1 and "{}" not in options.templates[0]
            else options.templates
        )
    scripts = Counter(
        "zh" if "\u4e00" <= sign <= "\u9fff" else "ru" if "\u0400" <= sign <= "\u04ff" else "en"
        for label in labels
        for sign in label
        if sign.isalpha()
    )
    return scripts.most_common(1)[0][0] if scripts and options.classes is None else "en"


def class_levels(options: EvaluateOptions, items: Dataset) -> dict[str, dict[str, str]]:
    """Level → class → larger class, from columns that say it row by row; checked before anything is measured.

    Args:
        options: `class_column` and `class_levels`.
        items: ITEMS.

    Returns:
        Nothing where no levels are asked for.

    Raises:
        OptionsError: A column is not there, or a class has two larger ones.
    """
    from mmembed.jobs.evaluation_data import class_column

    wanted = {
        "class_column": [options.class_column] if options.class_column else [],
        "class_levels": options.class_levels,
    }
    for option, names in wanted.items():
        for name in names:
            if name not in items.column_names:
                raise OptionsError(f"--{option}: no column {name!r}; there are {', '.join(items.column_names)}")
    column = options.class_column or class_column(items)
    levels: dict[str, dict[str, str]] = {}
    for level in options.class_levels if column else []:
        larger = levels.setdefault(level, {})
        for label, value in zip(items[column][:], items[level][:]):
            if label is not None and value is not None and larger.setdefault(str(label), str(value)) != str(value):
                raise OptionsError(
                    f"--class_levels: {level} of the class {str(label)!r} is {larger[str(label)]!r} in one row and "
                    f"{value!r} in another; a larger class has to hold all rows of a class"
                )
    return levels


def data_checks(options: EvaluateOptions, data: EvaluationData) -> Section:
    from mmembed.data.checks import check_data
    from mmembed.data.image_looks import require_imagehash
    from mmembed.evaluation.data_section import data_section
    from mmembed.images import ImageReader

    tables = {name: part.queries for name, part in data.parts.items()} or {"items": data.measured.queries}
    drawn = options.items is None and options.data is None  # of one hand: other products do look alike
    look, notes = not drawn, []
    if look:
        try:
            require_imagehash()
        except ImportError as error:
            look, notes = False, [f"Images that look alike were not looked for: {error}."]
    reader = ImageReader(data.reader.policy, on_bad="skip")
    report = check_data(
        tables,
        reader=dict.fromkeys(tables, reader),
        near_duplicates=look,
        cache_dir=options.output_dir / "vectors",
    )
    return with_notes(data_section(report), notes)


def embedding_maps(measurement: Measurement) -> list[EmbeddingMap]:
    from mmembed.evaluation.embedding_map import embedding_map

    options, part = measurement.options, measurement.data.measured
    if not options.map_points or len(part.queries) < 3:
        return []
    use = next((use for use in ("fused", "image", "text") if use in measurement.vectors.uses(part.queries)), None)
    if use is None:
        return []
    found = embedding_map(
        part.queries,
        measurement.vectors.array(part.queries, use),
        reader=measurement.data.reader,
        label_column=measurement.labels[0] if measurement.labels else None,
        method=options.map_method,
        limit=options.map_points,
        seed=options.seed,
        name=f"{use}-vectors",
        title=f"Map of the {use} vectors",
    )
    return [found]


class _Thumbnails(Mapping[str, bytes]):
    """Thumbnails by id, read when they are asked for."""

    def __init__(self, items: Dataset, data: EvaluationData) -> None:
        self.table, self.reader = items, data.reader
        self.rows = {id: row for row, id in enumerate(items["id"][:])} if "image" in items.column_names else {}

    def __getitem__(self, id: str) -> bytes:
        from mmembed.evaluation.page_images import thumbnail_bytes

        image = self.table[self.rows[id]]["image"]
        picture = None if image is None else self.reader.read(image, id=id)
        if picture is None:
            raise KeyError(id)
        return thumbnail_bytes(picture)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def with_notes(section: Section, notes: Sequence[str]) -> Section:
    return replace(section, notes=[*notes, *section.notes])


def _has_groups(items: Dataset) -> bool:
    groups = [group for group in items["group"][:] if group is not None] if "group" in items.column_names else []
    return len(set(groups)) < len(groups)
