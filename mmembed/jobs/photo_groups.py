"""Photos of the same things, read and split: what an image tower trains on, and which photo should find which."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from mmembed.data.catalogue import demo_catalogue
from mmembed.data.reading import read_items
from mmembed.data.schema import DataError
from mmembed.data.splits import split_by_group, split_leaks
from mmembed.images import ImagePolicy, ImageReader, scan_images

if TYPE_CHECKING:
    from mmembed.jobs.train_image_tower_options import ImageTowerOptions

_PARTS = ("train", "validation", "test")


@dataclass
class PhotoData:
    """The photos of each part of a split, and how to read them.

    Args:
        parts: "train", and where they have rows "validation" and "test": ITEMS with an image and a group each.
        reader: Reads the images.
        bad_images: Those that cannot be read.
        leaks: What stands in two parts.
    """

    parts: dict[str, Dataset]
    reader: ImageReader
    bad_images: list[dict[str, Any]]
    leaks: list[str]


def load_photos(options: ImageTowerOptions, *, record_to: Path, show_progress_bar: bool = True) -> PhotoData:
    """Read, scan, split and check the photos of a run.

    Args:
        options: Where they are and how they are split.
        record_to: JSON lines file for images that cannot be read.
        show_progress_bar: Show bars for drawing and scanning.

    Returns:
        The parts and the reader of their images.

    Raises:
        DataError: If a row has no image or no group, no part trains, or test photos stand in the training part.
        ImageError: If images cannot be read and `on_bad_image` says to stop.
    """
    where = options.items or "catalogue"
    root, bad = None, []
    if options.items is None:
        drawn = {"cache_dir": Path.home() / ".cache" / "mmembed", "num_workers": 2, **options.catalogue}
        photos = demo_catalogue(show_progress_bar=show_progress_bar, **drawn).photos
    else:
        folder = Path(options.items)
        root = options.image_root or str(folder if folder.is_dir() else folder.parent)
        photos = read_items(
            options.items,
            id_column=options.id_column,
            text_column=None,
            image_column=options.image_column,
            group_column=options.group_column,
            image_root=options.image_root,
        )
    bare = [row for row, group in enumerate(photos["group"][:]) if group is None]
    if bare:
        raise DataError(
            f"{len(bare)} rows have no group that says what they show, first {photos[bare[0]]['id']!r}; fill it in or leave "
            "them out",
            file=where,
            row=bare[0],
            field="group",
        )
    reader = ImageReader(ImagePolicy(root=root), on_bad="replace" if options.on_bad_image == "replace" else "error")
    if options.items is not None:  # drawn images are whole
        scan = scan_images(
            photos["id"][:],
            photos["image"][:],
            policy=reader.policy,
            on_bad=options.on_bad_image,
            max_bad_fraction=options.max_bad_fraction,
            num_workers=2,
            record_to=record_to,
            show_progress_bar=show_progress_bar,
        )
        photos, bad = photos.select(scan.good), scan.bad
    parts = _split(photos, options, where)
    leaks = [str(leak) for leak in split_leaks(parts, show_progress_bar=False)]
    if leaks and not options.allow_leakage:
        raise DataError(
            f"{len(leaks)} images or groups stand in two parts of the split, first: {leaks[0]}; split by a column that "
            "keeps them together (split_by), leave them out, or say --allow_leakage",
            file=where,
        )
    return PhotoData(parts, reader, bad, leaks)


def _split(photos: Dataset, options: ImageTowerOptions, where: str) -> dict[str, Dataset]:
    if options.split_column and options.split_column in photos.column_names:
        values = photos[options.split_column][:]
        unknown = sorted({str(value) for value in values} - {*_PARTS, "", "None"})
        if unknown:
            raise DataError(
                f"found {unknown[0]!r}, expected train, validation, test or nothing (the row is left out)",
                file=where,
                row=[str(value) for value in values].index(unknown[0]),
                field=options.split_column,
            )
        parts = {name: photos.select([row for row, value in enumerate(values) if value == name]) for name in _PARTS}
    else:
        parts = split_by_group(
            photos,
            test_percent=options.test_percent,
            validation_percent=options.validation_percent,
            by=options.split_by,
            salt=options.split_salt,
        )
    parts = {name: part for name, part in parts.items() if len(part)}
    if "train" not in parts:
        raise DataError("no photo falls into the training part", file=where)
    return parts


def photo_pairs(photos: Dataset, *, lonely: bool) -> Dataset:
    """Which photo goes with which: each with the others of its group.

    Args:
        photos: ITEMS with a group each.
        lonely: Whether a photo that is alone in its group goes with itself; it is left out otherwise.

    Returns:
        PAIRS.

    Example:
        >>> photos = Dataset.from_dict({"id": ["a", "b", "c"], "group": ["1", "1", "2"]})
        >>> photo_pairs(photos, lonely=False)["positive_ids"][:]
        [['b'], ['a']]
    """
    of_group: dict[str, list[str]] = defaultdict(list)
    ids, groups = photos["id"][:], photos["group"][:]
    for id, group in zip(ids, groups):
        of_group[group].append(id)
    positives = [[other for other in of_group[group] if other != id] for id, group in zip(ids, groups)]
    rows = [(id, others or [id]) for id, others in zip(ids, positives) if others or lonely]
    table = {"query_id": [id for id, _ in rows], "positive_ids": [others for _, others in rows]}
    return Dataset.from_dict({**table, "negative_ids": [[] for _ in rows]})
