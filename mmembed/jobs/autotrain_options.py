"""What `mmembed autotrain` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.data_options import DataOptions, option

Task = Literal["pair", "pair_class", "pair_score", "triplet", "qa"]


@dataclass
class AutotrainOptions(DataOptions):
    """Write pairs of texts as a project of AutoTrain Advanced, and train it in AutoTrain's own environment where asked to.

    AutoTrain cannot be installed beside mmembed. `--run --python PATH` runs the project with the Python of its own
    environment, judges it by the model that it wrote, and loads that; without `--run` the folder can be taken elsewhere.
    """

    # data, beside items, documents and pairs
    data: str | None = option(None, "file or folder of a named format to read instead of items, documents and pairs")
    format: str | None = option(
        None, "name of its format, see `mmembed convert-data --list_formats`; null: a folder of tables"
    )
    read_options: dict[str, Any] = option({}, "further arguments of the format's reader")
    image_column: str | None = option(None, "texts alone are trained, so that images are not read")
    document_use: Literal["text", "image", "fused", "any"] = option("text", "what of a document is encoded: its text")
    validation_percent: int = option(
        10, "share of groups for validation; without any AutoTrain holds out a fifth of the pairs, by chance"
    )

    # what is trained
    task: Task = option(
        "pair",
        "AutoTrain's trainer: pair and qa of positives, triplet and pair_class with negatives, pair_score of scores",
    )
    negatives: int = option(1, "negatives of a query that are used, at most")
    model: str | None = option(
        None, "base: folder or package:NAME/FOLDER, which is copied, or a Hub name, which AutoTrain loads"
    )
    project_name: str = option("mmembed-text", "name of the project: letters, digits and hyphens")
    params: dict[str, Any] = option(
        {}, "AutoTrain's parameters: lr, epochs, batch_size, max_seq_length, mixed_precision, …"
    )
    data_format: Literal["jsonl", "csv"] = option("jsonl", "of the data; csv takes a text such as NA for nothing")

    # what comes out
    output_dir: Path | None = option(None, "folder of config.yml, data/, base_model/ and, after a run, model/")
    overwrite: bool = option(False, "replace a project that stands there")
    run: bool = option(False, "train it")
    python: str | None = option(None, "the Python of AutoTrain's environment")
    timeout: float = option(86_400, "seconds after which a run is ended")
    show_progress_bar: bool = option(True, "show progress bars")
