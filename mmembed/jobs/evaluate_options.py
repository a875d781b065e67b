"""What `mmembed evaluate` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.data_options import DataOptions, option

What = Literal["retrieval", "matching", "probes", "zero-shot", "health", "all"]


@dataclass
class EvaluateOptions(DataOptions):
    """Measure a model on data, and write report.html, metrics.json and the tables.

    The first word says what is measured: retrieval, matching, probes, zero-shot, health, or all, which is what the data
    allows. Without `data` and `items` the drawn catalogue is used.
    """

    what: What = option("all", "what is measured; the word after `evaluate` says the same")

    # what is measured
    model: str | None = option(
        None,
        "model (folder, Hub name, package:NAME/FOLDER), or a folder of embeddings, or one of text/, image/, fused/",
    )
    base_model: str | None = option(None, "another model, or its embeddings, to compare with: the page's before")
    data: str | None = option(None, "file of items, or a file or folder of a named format")
    format: str | None = option(
        None, "name of the data's format, see `mmembed convert-data --list_formats`; null: items, or a folder of tables"
    )
    read_options: dict[str, Any] = option({}, "further arguments of the format's reader")
    part: Literal["auto", "train", "validation", "test", "all"] = option(
        "auto",
        "part of the data to measure; auto: test where a split column is there or the catalogue is drawn, else all",
    )

    # how it is measured
    ks: list[int] = option([1, 5, 10], "cut-offs of retrieval")
    directions: Literal["both", "forward", "backward", "every"] = option(
        "both",
        "directions of retrieval; every: each of text, image and fused against each, as far as the rows have them",
    )
    exclude_same_id: bool = option(False, "leave the document with a query's own id out of its candidates")
    cluster_by_group: bool = option(True, "resample whole groups of queries, where there are groups of several")
    tasks: list[str] | None = option(
        None, "columns to probe, such as gender, price:bands, price:number; null: what the columns offer"
    )
    probes: list[str] | None = option(
        None, "what learns from the vectors; null: logistic, mlp and knn, with all logistic alone, which takes minutes"
    )
    class_column: str | None = option(
        None, "column with the true class of an item, for zero-shot; null: one whose name says so"
    )
    classes: Path | None = option(None, "file of class names for zero-shot; null: the values of class_column")
    class_levels: list[str] = option([], "columns with larger classes, such as the category of a type")
    templates: list[str] | None = option(
        None, "prompt templates with {}, or a set of them: bare, en, zh, ru, en_shop, …; null: by the names' script"
    )
    matching_steps: list[str] | None = option(None, "steps of the matching ladder, in order; null: all")
    labels: list[str] | None = option(
        None, "columns to break down, filter and colour by; null: up to three of few values, language first"
    )
    check_data: bool = option(True, "with all: check the data for leaks, duplicates and noise, and show what was found")
    batch_size: int = option(64, "rows a forward pass")
    bootstrap_samples: int = option(2000, "resamples for the intervals; 0 gives none")
    seed: int = option(0, "seed of resampling, folds and samples")

    # what is written
    output_dir: Path = option(
        Path("runs/evaluate"), "folder of report.html, metrics.json, queries.jsonl, report_files/ and vectors/"
    )
    update_card: bool = option(False, "also tell the numbers in the model's own card and .eval_results")
    title: str | None = option(None, "heading of the page")
    max_hit_lists: int = option(60, "queries of a hit sheet")
    map_points: int = option(800, "items of the map of embeddings; 0: no map")
    map_method: Literal["auto", "pca", "umap"] = option("auto", "auto: umap where umap-learn is installed, else pca")
    show_progress_bar: bool = option(True, "show progress bars")
