"""From files to what a run trains on, watches and is measured by."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from mmembed.data.catalogue import demo_catalogue
from mmembed.data.image_looks import image_looks, require_imagehash, together
from mmembed.data.leaks import look_alike_leaks, split_leaks
from mmembed.data.look_alikes import look_alikes
from mmembed.data.reading import read_items, read_pairs
from mmembed.data.schema import DataError
from mmembed.data.splits import split_by_group
from mmembed.images import ImagePolicy, ImageReader, scan_images
from mmembed.jobs.data_options import DataOptions

logger = logging.getLogger(__name__)

_PARTS = ("train", "validation", "test")


class LeakageError(DataError):
    """Test rows stand in the training part; the command line exits with status 3."""

    exit_status = 3


@dataclass
class Part:
    """The queries of one part of a split, their documents, and which belongs to which."""

    queries: Dataset
    documents: Dataset
    pairs: Dataset


@dataclass
class Tables:
    """A run's tables before they are split: queries, documents (None: the queries' table), pairs and the images' root."""

    queries: Dataset
    documents: Dataset | None
    pairs: Dataset | None
    root: str | None


@dataclass
class RunData:
    """All parts of a run's data, the whole tables that they are of, and how to read its images."""

    parts: dict[str, Part]
    reader: ImageReader
    bad_images: list[dict[str, Any]]
    leaks: list[str]
    is_catalogue: bool
    tables: Tables | None = None

    def measured(self, name: str) -> Part | None:
        """A part as it is measured: each query with its first document, which no other query shares."""
        part = self.parts.get(name)
        if part is None or not len(part.pairs):
            return None
        firsts = [ids[0] for ids in part.pairs["positive_ids"][:]]
        wanted = set(firsts)
        rows = [row for row, id in enumerate(part.documents["id"][:]) if id in wanted]
        ids = part.pairs["query_id"][:]
        pairs = Dataset.from_dict(
            {"query_id": ids, "positive_ids": [[id] for id in firsts], "negative_ids": [[]] * len(ids)}
        )
        return Part(part.queries, part.documents.select(rows), pairs)


def load_run_data(
    options: DataOptions, *, record_to: Path, tables: Tables | None = None, show_progress_bar: bool = True
) -> RunData:
    """Read, scan, split and check the data of a run.

    Args:
        options: Where the data is and how it is split.
        record_to: JSON lines file for images that cannot be read.
        tables: What has been read already, instead of the files that the options name.
        show_progress_bar: Show bars for drawing and scanning.

    Returns:
        The parts train, validation and test (those that have rows) and the reader of their images.

    Raises:
        DataError: If a file has an error or a part has no pair.
        LeakageError: If rows of one part stand in another, or have images that look like its.
        ImageError: If images cannot be read and `on_bad_image` says to stop.
    """
    is_catalogue = tables is None and options.items is None
    tables, reader, bad = read_tables(options, record_to=record_to, tables=tables, show_progress_bar=show_progress_bar)
    parts = split_tables(tables, options)
    if "train" not in parts:
        raise DataError("no pair falls into the training part", file=options.items or "catalogue")
    leaks = _leaks({name: part.queries for name, part in parts.items()}, reader, options, show_progress_bar)
    if leaks and not options.allow_leakage:
        raise LeakageError(
            f"{len(leaks)} texts, images or groups stand in two parts of the split, first: {leaks[0]}; split by a column "
            "that keeps them together (split_by), leave them out, or say --allow_leakage; mmembed check-data shows all",
            file=options.items or "catalogue",
        )
    return RunData(parts, reader, bad, leaks, is_catalogue, tables)


def read_tables(
    options: DataOptions,
    *,
    record_to: Path,
    tables: Tables | None = None,
    decode_all: bool = True,
    show_progress_bar: bool = True,
) -> tuple[Tables, ImageReader, list[dict[str, Any]]]:
    """Read the tables that the options name, or draw the catalogue, and leave out images that cannot be read.

    Args:
        options: Where the data is.
        record_to: JSON lines file for images that cannot be read.
        tables: What has been read already, instead of the files that the options name.
        decode_all: Decode every image once to find the bad ones; without it they come to light where they are read.
        show_progress_bar: Show bars for drawing and scanning.

    Returns:
        The tables before they are split, the reader of their images, and the records of bad ones.

    Raises:
        DataError: If a file has an error.
        ImageError: If images cannot be read and `on_bad_image` says to stop.
    """
    is_catalogue = tables is None and options.items is None
    tables = tables or (_drawn(options, show_progress_bar) if is_catalogue else _read(options))
    queries, documents = tables.queries, tables.documents
    reader = ImageReader(
        ImagePolicy(root=tables.root), on_bad="replace" if options.on_bad_image == "replace" else "error"
    )
    bad: list[dict[str, Any]] = []
    if decode_all and not is_catalogue:  # drawn images are whole
        queries, bad = _scanned(queries, reader, options, record_to, show_progress_bar)
        if documents is not None:
            documents, found = _scanned(documents, reader, options, record_to, show_progress_bar)
            bad += found
    return Tables(queries, documents, tables.pairs, tables.root), reader, bad


def _leaks(splits: dict[str, Dataset], reader: ImageReader, options: DataOptions, show_progress_bar: bool) -> list[str]:
    """What stands in two parts. Images that look alike are looked for where they would be refused."""
    leaks = split_leaks(splits, show_progress_bar=False)
    drawn = options.items is None  # drawn images are of one hand: other products do look alike
    if options.check_near_duplicates and not options.allow_leakage and not drawn and len(splits) > 1 and not leaks:
        try:
            require_imagehash()
        except ImportError:
            logger.warning(
                "the parts were not searched for images that look alike, as ImageHash is not installed: "
                "pip install 'mmembed[checks]', or say --no_check_near_duplicates"
            )
            return []
        arguments: dict[str, Any] = {"num_threads": 2, "show_progress_bar": show_progress_bar}
        cache = Path.home() / ".cache" / "mmembed"
        try:
            looks = together(
                [image_looks(split, policy=reader.policy, cache_dir=cache, **arguments) for split in splits.values()]
            )
        except OSError as error:
            logger.warning("what images look like is not kept for the next run: %s", error)
            looks = together([image_looks(split, policy=reader.policy, **arguments) for split in splits.values()])
        leaks = look_alike_leaks(splits, looks, look_alikes(looks, num_threads=2))
    return [str(leak) for leak in leaks]


def _drawn(options: DataOptions, show_progress_bar: bool) -> Tables:
    cache = Path.home() / ".cache" / "mmembed"
    arguments = {"cache_dir": cache, "num_workers": 2, **options.catalogue}
    catalogue = demo_catalogue(show_progress_bar=show_progress_bar, **arguments)
    # pairs of its own, such as mined ones, are over the same products and photos
    pairs = read_pairs(options.pairs) if options.pairs else catalogue.pairs
    return Tables(catalogue.products, catalogue.photos, pairs, None)


def _read(options: DataOptions) -> Tables:
    columns: dict[str, Any] = {
        "id_column": options.id_column,
        "image_column": options.image_column,
        "group_column": options.group_column,
        "image_root": options.image_root,
        "text_template": options.text_template,
        "text_parts": options.text_parts,
    }
    if options.text_template is None and options.text_parts is None:
        names = options.text_column
        columns["text_column"] = names[0] if names and len(names) == 1 else names
    items = options.items or ""
    queries = read_items(items, **columns)
    documents = read_items(options.documents, **columns) if options.documents else None
    pairs = read_pairs(options.pairs) if options.pairs else None
    if documents is not None and pairs is None:
        raise DataError("documents of their own need pairs that say which belongs to which query", field="pairs")
    folder = Path(items)
    root = options.image_root or str(folder if folder.is_dir() else folder.parent)
    return Tables(queries, documents, pairs, root)


def _scanned(
    items: Dataset, reader: ImageReader, options: DataOptions, record_to: Path, show_progress_bar: bool
) -> tuple[Dataset, list[dict[str, Any]]]:
    result = scan_images(
        items["id"][:],
        items["image"][:],
        policy=reader.policy,
        on_bad=options.on_bad_image,
        max_bad_fraction=options.max_bad_fraction,
        num_workers=2,
        record_to=record_to,
        show_progress_bar=show_progress_bar,
    )
    return (items if len(result.good) == len(items) else items.select(result.good)), result.bad


def split_tables(tables: Tables, options: DataOptions) -> dict[str, Part]:
    """Part the queries by a split column, or by the hash of a group, and give each part its documents.

    Args:
        tables: The whole tables.
        options: How they are split.

    Returns:
        The parts train, validation and test, those that have pairs.

    Raises:
        DataError: If the split column holds another name.
    """
    queries, documents, pairs = tables.queries, tables.documents, tables.pairs
    if options.split_column and options.split_column in queries.column_names:
        values = queries[options.split_column][:]
        unknown = sorted({str(value) for value in values} - {*_PARTS, "", "None"})
        if unknown:
            raise DataError(
                f"found {unknown[0]!r}, expected train, validation, test or nothing (the row is left out)",
                file=options.items or "catalogue",
                row=[str(value) for value in values].index(unknown[0]),
                field=options.split_column,
            )
        rows = {name: queries.select([row for row, value in enumerate(values) if value == name]) for name in _PARTS}
    else:
        rows = split_by_group(
            queries,
            test_percent=options.test_percent,
            validation_percent=options.validation_percent,
            by=options.split_by,
            salt=options.split_salt,
        )
    parts = {}
    for name, table in rows.items():
        if len(table):
            part = part_of(table, documents, pairs)
            if len(part.pairs):
                parts[name] = part
    return parts


def part_of(queries: Dataset, documents: Dataset | None, pairs: Dataset | None) -> Part:
    """Queries with those of the pairs that are theirs, and the documents that these name.

    Args:
        queries: ITEMS.
        documents: ITEMS, or None: the queries' table.
        pairs: PAIRS over whole tables, or None: the text of each item goes with its image.

    Returns:
        The part.
    """
    ids = queries["id"][:]
    if pairs is None:
        both = [t is not None and i is not None for t, i in zip(queries["text"][:], queries["image"][:])]
        own = [id for id, keep in zip(ids, both) if keep]
        table = {"query_id": own, "positive_ids": [[id] for id in own], "negative_ids": [[]] * len(own)}
        return Part(queries, queries, Dataset.from_dict(table))
    wanted = set(ids)
    kept = pairs.select([row for row, id in enumerate(pairs["query_id"][:]) if id in wanted])
    documents = documents if documents is not None else queries
    known = set(documents["id"][:])
    kept = kept.filter(lambda row: any(id in known for id in row["positive_ids"]), desc=None)
    mentioned = {id for column in ("positive_ids", "negative_ids") for ids in kept[column][:] for id in ids or []}
    rows = [row for row, id in enumerate(documents["id"][:]) if id in mentioned]
    return Part(queries, documents.select(rows), kept)
