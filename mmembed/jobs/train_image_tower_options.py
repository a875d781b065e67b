"""What `mmembed train-image-tower` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mmembed.jobs.data_options import option


@dataclass
class ImageTowerOptions:
    """Where the photos are, what the tower is, and what to measure. All training arguments are options as well.

    Without `items` the photos of the drawn catalogue are used, without `model` and `backbone` a small ResNet. `loss_arguments`
    are those of ArcFaceLoss, or of another loss that `loss` names.
    """

    allow_extra: ClassVar[bool] = True

    # data
    items: str | None = option(
        None, "ITEMS, a row a photo: .jsonl, .csv, .tsv, .parquet or a saved dataset; null: the drawn catalogue"
    )
    id_column: str = option("id", "column with the unique id")
    image_column: str = option("image", "column with the image: a path below image_root, or bytes")
    group_column: str = option("group", "column that says which photos show the same thing: the classes")
    image_root: str | None = option(None, "folder that images may be read from; null: the items file's own folder")
    split_column: str | None = option("split", "column with train, validation, test or empty; used where it exists")
    split_by: str = option("group", "column that keeps rows together, where there is no split_column")
    split_salt: str = option("split", "salt of the split's hash")
    test_percent: int = option(20, "share of groups held out for the figures before and after")
    validation_percent: int = option(0, "share of groups for evaluation during training")
    allow_leakage: bool = option(False, "train although test photos or groups stand in the training part")
    on_bad_image: Literal["error", "skip", "replace"] = option("error", "what to do with an image that cannot be read")
    max_bad_fraction: float = option(0.01, "share of bad images above which the run stops")
    catalogue: dict[str, Any] = option({}, "arguments of the drawn catalogue: products, photos, size, seed")

    # model
    model: str | None = option(None, "image tower to train on: a folder, a Hub name, or package:NAME/FOLDER")
    backbone: str | None = option(None, "vision model under a new tower: a folder or Hub name; timm/NAME needs timm")
    model_arguments: dict[str, Any] = option({}, "pooling, neck and sizes of a new tower, see ImageTowerConfig")
    adaptive_margin: bool = option(False, "give the classes with fewer photos larger margins, see ArcFaceLoss")
    augmentation: dict[str, Any] = option({}, "arguments of Augmentation: crop, flip, colour, rotation, erasing")

    # what comes out
    output_dir: str | None = option(None, "folder of the run; null: runs/image_tower, or the next free one")
    resume: bool = option(True, "go on from the newest whole checkpoint in output_dir")
    ks: list[int] = option([1, 5, 10], "cut-offs of recall")
    bootstrap_samples: int = option(2000, "resamples of the 95 % intervals")
    license: str | None = option(None, "licence of the model, for the model card")

    extra: dict[str, Any] = field(default_factory=dict, init=False)
    sources: dict[str, str] = field(default_factory=dict, init=False)
