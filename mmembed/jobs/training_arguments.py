"""How a training run's options become the arguments of its trainer, and what of them is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors, check_names
from mmembed.jobs.options import OptionsError, apply_extra
from mmembed.jobs.train_options import TrainOptions

if TYPE_CHECKING:
    from mmembed.training.arguments import EmbeddingTrainingArguments


def embedding_arguments_class() -> type:
    """The class whose fields are options of a run as well; imported when an option is not one of the run's own."""
    from mmembed.training.arguments import EmbeddingTrainingArguments

    return EmbeddingTrainingArguments


def build_arguments(
    options: Any,
    kind: type,
    *,
    run_folder: str,
    defaults: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda given: {},
) -> Any:
    """Build the arguments of a trainer from the options that are not the run's own.

    Args:
        options: A run's options, with `extra`, `sources` and `output_dir`.
        kind: The class of arguments.
        run_folder: Below `runs`, where no output_dir is given: this name, or the next that no finished run has.
        defaults: From what was given to what holds where it was not.

    Returns:
        The arguments; on a machine without a GPU they use the CPU.

    Raises:
        OptionsError: If an option is unknown, of the wrong type or out of range.
    """
    import torch

    known = [field.name for field in dataclasses.fields(options)]
    given = apply_extra(kind, options.extra, options.sources, known=known)
    given = {"use_cpu": not torch.cuda.is_available(), **defaults(given), **given}
    if given.get("push_to_hub"):
        raise OptionsError(
            "--push_to_hub: the trainer would upload its arguments as a pickle; train, look at the figures, and publish "
            "with `mmembed push --model OUTPUT_DIR/model`"
        )
    given["output_dir"] = str(options.output_dir or free_output_dir(Path("runs") / run_folder))
    with as_option_errors():
        return kind(**given)


def free_output_dir(wanted: Path) -> Path:
    """The wanted folder, or the next number where a finished run is already kept.

    Example:
        >>> free_output_dir(getfixture("tmp_path") / "train").name
        'train'
    """
    candidate, number = wanted, 2
    while (candidate / "metrics.json").exists():
        candidate, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return candidate


def kept_options(options: Any, args: Any) -> dict[str, Any]:
    """What config.yaml says of a run: its own options and the arguments that were given."""
    own = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.init}
    given = {name: getattr(args, name) for name in sorted({*options.extra, "seed", "loss"}) if hasattr(args, name)}
    return {**own, **given, "output_dir": str(args.output_dir)}


def embedding_arguments(options: TrainOptions) -> EmbeddingTrainingArguments:
    """The arguments of `mmembed train`; without data, those of the drawn catalogue where nothing else is said."""

    def of_the_catalogue(given: dict[str, Any]) -> Mapping[str, Any]:
        from mmembed.jobs.catalogue_defaults import TRAINING

        return TRAINING if options.items is None else {}

    arguments: EmbeddingTrainingArguments = build_arguments(
        options, embedding_arguments_class(), run_folder="train", defaults=of_the_catalogue
    )
    return arguments


def augmentation_of(options: TrainOptions) -> Any:
    """How training images are varied, or None."""
    from mmembed.data.augment import Augmentation

    check_names("augmentation", options.augmentation, Augmentation)
    if options.store_image_features:
        return Augmentation()  # images vary by the views that are stored of them
    if options.items is None:
        from mmembed.jobs.catalogue_defaults import AUGMENTATION

        return Augmentation(**{**AUGMENTATION, **options.augmentation})
    return Augmentation(**options.augmentation) if options.augmentation else None


def measured_use(use: str) -> Any:
    """What a row is looked at as where it is measured: one that is trained as any of its sides, as all of them."""
    return "fused" if use == "any" else use
