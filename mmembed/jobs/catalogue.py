"""`mmembed catalogue`: the drawn demonstration catalogue as files, to look at and to try the other verbs on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from datasets import Dataset


@dataclasses.dataclass
class CatalogueOptions:
    """Where the catalogue goes, and what is drawn."""

    output_dir: Path = dataclasses.field(
        metadata={"help": "folder to write: products.jsonl, photos.jsonl, pairs.jsonl and images/; must not exist yet"}
    )
    products: int = dataclasses.field(default=2400, metadata={"help": "how many products"})
    photos: int = dataclasses.field(default=3, metadata={"help": "photos of each product"})
    size: int = dataclasses.field(default=128, metadata={"help": "side of a photo in pixels"})
    seed: int = dataclasses.field(default=0, metadata={"help": "another seed draws another catalogue"})
    language: Literal["en", "zh", "ru"] = dataclasses.field(
        default="en", metadata={"help": "language of the titles that stand in `text`; the other columns have all three"}
    )
    num_workers: int = dataclasses.field(default=0, metadata={"help": "processes that draw; 0 draws in this one"})


def main(argv: Sequence[str]) -> int:
    """Draw the catalogue and write it.

    Args:
        argv: The words after the verb.

    Returns:
        The exit status, 0.

    Raises:
        OptionsError: For a wrong option, or an output folder that is there already.

    Example:
        >>> folder = getfixture("tmp_path") / "catalogue"
        >>> main(["--output_dir", str(folder), "--products", "2", "--photos", "1", "--size", "32"])
        0
        >>> sorted(path.name for path in folder.iterdir())
        ['images', 'pairs.jsonl', 'photos.jsonl', 'products.jsonl']
    """
    options = parse_options(
        CatalogueOptions,
        argv,
        prog="mmembed catalogue",
        description="Write a drawn demonstration catalogue to a folder.",
    )
    write_catalogue(options)
    return 0


def write_catalogue(options: CatalogueOptions) -> None:
    """Draw the catalogue and write it whole or not at all.

    Args:
        options: What to draw and where to write it. Items in the files name their images relative to the folder.

    Raises:
        OptionsError: If the output folder is there already, or a number is out of range.
    """
    folder = options.output_dir
    if folder.exists():
        raise OptionsError(f"--output_dir: {folder} is there already; name a new folder, or remove it first")
    if options.products < 1 or options.photos < 1 or options.size < 16 or options.num_workers < 0:
        raise OptionsError(
            "wanted --products and --photos of at least 1, --size of at least 16 and --num_workers of at least 0; found "
            f"{options.products}, {options.photos}, {options.size} and {options.num_workers}"
        )
    from mmembed.data.catalogue import demo_catalogue
    from mmembed.data.writing import write_items, write_pairs

    catalogue = demo_catalogue(
        products=options.products,
        photos=options.photos,
        size=options.size,
        seed=options.seed,
        language=options.language,
        num_workers=options.num_workers,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        images = partial / "images"
        images.mkdir()
        for photo in catalogue.photos:
            (images / f"{photo['id']}.jpg").write_bytes(photo["image"]["bytes"])
        first_photos = {pair["query_id"]: pair["positive_ids"][0] for pair in catalogue.pairs}
        products = _with_files(
            catalogue.products, [images / f"{first_photos[id]}.jpg" for id in catalogue.products["id"]]
        )
        photos = _with_files(catalogue.photos, [images / f"{id}.jpg" for id in catalogue.photos["id"]])
        write_items(products, partial / "products.jsonl", image_root=partial)
        write_items(photos, partial / "photos.jsonl", image_root=partial)
        write_pairs(catalogue.pairs, partial / "pairs.jsonl")
        partial.chmod(0o755)  # mkdtemp's 0700 would keep everyone else out
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _with_files(items: Dataset, paths: list[Path]) -> Dataset:
    """The same items with their images as paths instead of bytes."""
    files = [{"bytes": None, "path": os.path.realpath(path)} for path in paths]
    table = items.remove_columns("image").add_column("image", files, feature=items.features["image"])
    return table.select_columns(items.column_names)
