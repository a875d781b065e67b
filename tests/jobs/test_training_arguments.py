"""Options become arguments: what was given counts, then what the run is for, then the class's own defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.jobs.options import OptionsError
from mmembed.jobs.train_image_tower import main as train_image_tower
from mmembed.jobs.train_options import TrainOptions
from mmembed.jobs.training_arguments import (
    augmentation_of,
    embedding_arguments,
    free_output_dir,
    kept_options,
    measured_use,
)


def options_of(tmp_path: Path, items: str | None = "items.jsonl", **extra: object) -> TrainOptions:
    options = TrainOptions(items=items, output_dir=str(tmp_path / "run"))
    options.extra = dict(extra)
    return options


def test_what_is_given_counts_before_what_the_catalogue_wants(tmp_path: Path) -> None:
    drawn = embedding_arguments(options_of(tmp_path, None))
    own = embedding_arguments(options_of(tmp_path))
    assert drawn.learning_rate != own.learning_rate  # the catalogue's, and the class's
    given = embedding_arguments(options_of(tmp_path, None, learning_rate=0.5, use_cpu=True))
    assert given.learning_rate == 0.5 and given.num_train_epochs == drawn.num_train_epochs and given.use_cpu
    assert str(own.output_dir) == str(tmp_path / "run")


def test_what_the_class_refuses_is_said_as_an_option(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="did you mean"):
        embedding_arguments(options_of(tmp_path, learning_rat=0.5))
    with pytest.raises(OptionsError, match="loss"):
        train_image_tower(["--loss", "ArcFaceLos", "--output_dir", str(tmp_path)])


def test_a_finished_run_keeps_its_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "train-2", "train-3")):
        assert free_output_dir(tmp_path / "train").name == name, number
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")


def test_what_is_kept_is_what_was_chosen(tmp_path: Path) -> None:
    options = options_of(tmp_path, weight_decay=0.25)
    kept = kept_options(options, embedding_arguments(options))
    assert kept["weight_decay"] == 0.25 and kept["seed"] == 42 and kept["items"] == "items.jsonl"
    assert kept["output_dir"] == str(tmp_path / "run") and "learning_rate" not in kept and "extra" not in kept


def test_images_vary_where_they_are_not_stored(tmp_path: Path) -> None:
    assert augmentation_of(options_of(tmp_path)) is None
    drawn = augmentation_of(options_of(tmp_path, None))
    assert drawn is not None and drawn != type(drawn)()
    stored = options_of(tmp_path, None)
    stored.store_image_features = True
    assert augmentation_of(stored) == type(drawn)()


def test_any_side_is_measured_as_both() -> None:
    assert [measured_use(use) for use in ("text", "image", "any")] == ["text", "image", "fused"]


def test_a_run_does_not_upload_by_itself(tmp_path: Path) -> None:
    """The trainer's own upload holds training_args.bin, a pickle."""
    with pytest.raises(OptionsError, match="mmembed push"):
        embedding_arguments(options_of(tmp_path, push_to_hub=True))
    with pytest.raises(OptionsError, match="mmembed push"):
        train_image_tower(["--push_to_hub", "true", "--output_dir", str(tmp_path)])
