"""Where a run's data is, how it is read and how it is split. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def option(default: Any, help: str) -> Any:
    """A field with its default and its line of help; lists and mappings are copied for each instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ItemsOptions:
    """Where a table of items is, and which of its columns is what."""

    items: str | None = option(
        None, "ITEMS: .jsonl, .csv, .tsv, .parquet or a saved dataset; null: the drawn catalogue"
    )
    id_column: str = option("id", "column with the unique id")
    text_column: list[str] | None = option(["text"], "column, or columns joined by a blank, with the text")
    text_template: str | None = option(None, "template over columns, e.g. '{brand} {title}', instead of text_column")
    text_parts: dict[str, float] | None = option(None, "columns and weights whose vectors are combined, instead")
    image_column: str | None = option("image", "column with the image: a path below image_root, or bytes")
    group_column: str | None = option("group", "column that says which rows are the same thing")
    image_root: str | None = option(None, "folder that images may be read from; null: the items file's own folder")
    on_bad_image: Literal["error", "skip", "replace"] = option("error", "what to do with an image that cannot be read")
    max_bad_fraction: float = option(0.01, "share of bad images above which the run stops")
    catalogue: dict[str, Any] = option({}, "arguments of the drawn catalogue: products, photos, size, seed, language")


@dataclass
class DataOptions(ItemsOptions):
    """The tables, what of them is encoded, and the split by which they are trained, mined and measured."""

    documents: str | None = option(None, "ITEMS in which the pairs' documents are looked up; null: those of items")
    pairs: str | None = option(None, "PAIRS by id; null: the text of each item goes with its image")
    query_use: Literal["text", "image", "fused", "any"] = option("text", "what of a query is encoded")
    document_use: Literal["text", "image", "fused", "any"] = option("image", "what of a document is encoded")
    split_column: str | None = option("split", "column with train, validation, test or empty; used where it exists")
    split_by: str = option("group", "column that keeps rows together, where there is no split_column")
    split_salt: str = option("split", "salt of the split's hash")
    test_percent: int = option(20, "share of groups held out for the figures before and after")
    validation_percent: int = option(0, "share of groups for evaluation during training")
    allow_leakage: bool = option(False, "train although test rows stand in the training part by text or image")
    check_near_duplicates: bool = option(
        True, "also refuse images that look like those of another part (needs mmembed[checks]); not with allow_leakage"
    )
