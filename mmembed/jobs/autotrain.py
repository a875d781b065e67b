"""`mmembed autotrain`: pairs of texts → a project of AutoTrain Advanced, and the model that it trains where it is run."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.autotrain_options import AutotrainOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.jobs.training_data import Part, RunData, Tables

MODEL = "model"


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `autotrain`.

    Returns:
        0 when the project is written and, where it was to be run, a model was trained.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
        DataError: If the data has a fault; nothing is written then.
        AutoTrainError: If AutoTrain would refuse the project, or trained nothing.

    Example:
        >>> main(["--output_dir", "project"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name the base model
    """
    options = parse_options(
        AutotrainOptions, argv, prog="mmembed autotrain", description=AutotrainOptions.__doc__ or ""
    )
    run(options)
    return 0


def run(options: AutotrainOptions) -> Path:
    """Write the project, run it where that is asked for, and tell what came of it.

    Args:
        options: The pairs, the task, the base model, and where the project goes.

    Returns:
        The folder of the trained model, or of the project.
    """
    output = _checked(options)
    from mmembed.export.autotrain_project import CONFIG, autotrain_rows, check_params, check_project_name
    from mmembed.export.autotrain_project import write_autotrain_project as write_project
    from mmembed.jobs.model_choice import resolve_name

    check_project_name(options.project_name)
    check_params(options.params)
    if options.run:
        from mmembed.export.autotrain_run import check_autotrain

        found = check_autotrain(options.python or "")
        sys.stdout.write(f"autotrain       {found}, in the environment of {options.python}\n")
    data = _data(options, output)
    rows = {
        name: list(
            autotrain_rows(
                _within(part),
                part.queries,
                part.documents,
                options.task,
                negatives=options.negatives,
                source=f"pairs ({name})",
            )
        )
        for name, part in data.parts.items()
        if name in ("train", "validation")
    }
    _clear(options, output)
    with as_option_errors():
        write_project(
            output,
            rows["train"],
            rows.get("validation", []),
            task=options.task,
            base_model=resolve_name(options.model or ""),
            project_name=options.project_name,
            params=options.params,
            data_format=options.data_format,
        )
    sys.stdout.write(
        f"rows            {len(rows['train']):,} to train, {len(rows.get('validation', [])):,} to validate, {options.task}\n"
        f"project         {output / CONFIG}\n"
    )
    if not options.run:
        sys.stdout.write(
            f"to train it     cd {output} && autotrain --config {CONFIG}   # in AutoTrain's own environment\n"
        )
        return output
    return _trained(options, output)


def _trained(options: AutotrainOptions, output: Path) -> Path:
    from mmembed.export.autotrain_run import LOG, run_autotrain

    sys.stdout.write(f"running         its output goes to {output / LOG}\n")
    sys.stdout.flush()
    started = time.monotonic()
    model = run_autotrain(output, options.project_name, python=options.python or "", timeout=options.timeout)
    model.save_pretrained(str(output / MODEL), create_model_card=False)
    sys.stdout.write(
        f"trained         in {time.monotonic() - started:,.0f} s, vectors of {model.get_embedding_dimension()} numbers\n"
        f"model           {output / MODEL}\n"
    )
    return output / MODEL


def _checked(options: AutotrainOptions) -> Path:
    """The output, once the options can be meant; before anything heavy is imported or read."""
    if not options.model:
        raise OptionsError("--model: name the base model")
    if options.output_dir is None:
        raise OptionsError("--output_dir: name the folder of the project")
    if options.data is None and (options.items is None or options.pairs is None):
        raise OptionsError("--items and --pairs, or --data: name the pairs of texts")
    if options.data is not None and (options.items or options.documents or options.pairs):
        raise OptionsError("--data holds items, documents and pairs; give it, or --items, --documents and --pairs")
    if options.format is not None and options.data is None:
        raise OptionsError("--format is of --data, which is not given")
    if options.text_parts is not None:
        raise OptionsError("--text_parts are vectors that are summed; AutoTrain takes one text, give --text_template")
    if options.run and not options.python:
        raise OptionsError(
            "--python: name the Python of AutoTrain's environment, as it cannot be installed beside mmembed"
        )
    for name, least in (("negatives", 1), ("timeout", 1)):
        if getattr(options, name) < least:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least {least}")
    output = options.output_dir
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        if not _is_project(output):
            raise OptionsError(f"--output_dir: {output} holds something else than a project; name another folder")
        if not options.overwrite:
            raise OptionsError(f"--output_dir: {output} holds a project already; name another, or say --overwrite")
    return output


def _is_project(folder: Path) -> bool:
    config = folder / "config.yml"
    return config.is_file() and config.read_bytes()[:64].startswith(b"task: sentence-transformers:")


def _clear(options: AutotrainOptions, output: Path) -> None:
    """Remove the project that is replaced, and nothing else."""
    from mmembed.export.autotrain_project import BASE, CONFIG, DATA
    from mmembed.export.autotrain_run import LOG

    for name in (CONFIG, DATA, BASE, LOG, MODEL, options.project_name):
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def _data(options: AutotrainOptions, output: Path) -> RunData:
    from mmembed.data.schema import DataError
    from mmembed.jobs.named_data import named_tables
    from mmembed.jobs.training_data import Tables, load_run_data

    given: Tables | None = None
    if options.data is not None:
        named = named_tables(options.data, options.format, read_options=options.read_options)
        if named is None or named.pairs is None:
            raise DataError("this data relates nothing; AutoTrain learns from pairs", file=options.data)
        given = Tables(
            _texts_alone(named.queries),
            None if named.documents is None else _texts_alone(named.documents),
            named.pairs,
            None,
        )
    data = load_run_data(
        options,
        record_to=output.with_name(f"{output.name}-bad_samples.jsonl"),
        tables=given,
        show_progress_bar=options.show_progress_bar,
    )
    return data


def _within(part: Part) -> Dataset:
    """A part's pairs without ids of documents that are of another part, as they are in a table of both."""
    known = set(part.documents["id"][:])
    if all(
        one in known for name in ("positive_ids", "negative_ids") for ids in part.pairs[name][:] for one in ids or []
    ):
        return part.pairs

    def kept(row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for side in ("positive", "negative"):
            here = [one in known for one in row[f"{side}_ids"] or []]
            for name in (f"{side}_ids", f"{side}_scores"):
                if row.get(name) is not None:
                    found[name] = [value for value, stays in zip(row[name], here) if stays]
        return found

    return part.pairs.map(kept, desc=None, features=part.pairs.features)


def _texts_alone(items: Dataset) -> Any:
    """Items without their images, which are not trained on and need not be read."""
    from mmembed.data.schema import validate_items

    return validate_items(items.remove_columns("image")) if "image" in items.column_names else items
