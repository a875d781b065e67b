"""`mmembed encode`: items → a folder of vectors for each use, by one process or several, going on where one stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.data_options import DataOptions, ItemsOptions
from mmembed.jobs.encode_options import EncodeOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.images import ImageReader


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `encode`.

    Returns:
        0 when the vectors are whole.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
        DataError: If the data has a fault, or the folder holds other vectors.

    Example:
        >>> main(["--output_dir", "vectors"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name the embedding model, or with --vectors a file of vectors
    """
    run(parse_options(EncodeOptions, argv, prog="mmembed encode", description=EncodeOptions.__doc__ or ""))
    return 0


def run(options: EncodeOptions) -> dict[str, Path]:
    """Encode, and tell where the vectors are.

    Args:
        options: What is encoded, by which model, and where the vectors go.

    Returns:
        The folder of each use.
    """
    output = _checked(options)
    if options.vectors is not None:
        from mmembed.jobs.vectors_taken_over import take_over

        named = options.items is not None or options.data is not None
        return take_over(
            options, output, _items(options, output)[0]["id"][:] if named and options.ids is None else None
        )
    from mmembed.dataset_encoding import write_dataset_vectors
    from mmembed.distributed import rank
    from mmembed.embeddings import read_manifest

    with _launched(options) as device:
        items, reader = _items(options, output)
        model = _model(options, device)
        uses: list[Any] = list(options.use) or _uses(model, items)
        folders = {use: output if len(options.use) == 1 else output / use for use in uses}
        for use, folder in folders.items():
            with as_option_errors():
                was_whole = write_dataset_vectors(
                    model,
                    items,
                    folder,
                    use=use,
                    batch_size=options.batch_size,
                    reader=reader,
                    prompt=options.prompt,
                    dtype=options.dtype or "float32",
                    shard_rows=options.shard_rows,
                    num_workers=options.num_workers,
                    model_name=options.model,
                    revision=options.revision,
                    show_progress_bar=options.show_progress_bar,
                )
            told = read_manifest(str(folder))
            if rank() == 0:
                sys.stdout.write(
                    f"{use:<15} {told['count']:,} vectors of {told['dim']} numbers, {told['dtype']}: {folder}"
                    f"{', whole already' if was_whole else ''}\n"
                )
    return folders


@contextlib.contextmanager
def _launched(options: EncodeOptions) -> Iterator[str | None]:
    """The group of the processes that were launched together, where there are several; yields this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield options.device
        return
    import torch
    from accelerate import PartialState

    from mmembed.distributed import check_launch, world_size

    on_cpu = not torch.cuda.is_available() or options.device == "cpu"
    if options.device not in (None, "cpu", "cuda"):
        raise OptionsError(
            f"--device {options.device}: of several processes each takes a device of its own; leave it out"
        )
    state = PartialState(cpu=on_cpu)
    check_launch(device=state.device, world=world_size(), num_visible_gpus=1, fsdp=False)
    yield str(state.device)
    # not in a finally: after a failure the others may be gone, and a good-bye would wait for them
    state.destroy_process_group()


def _checked(options: EncodeOptions) -> Path:
    """The output, once the options can be meant; before anything heavy is imported or read."""
    if not options.model and options.vectors is None:
        raise OptionsError("--model: name the embedding model, or with --vectors a file of vectors")
    if options.output_dir is None:
        raise OptionsError("--output_dir: name the folder of the vectors")
    if options.data is not None and options.items is not None:
        raise OptionsError("--data holds the items; give it, or --items")
    if options.format is not None and options.data is None:
        raise OptionsError("--format is of --data, which is not given")
    taken_over = ("array", "vector_column", "ids", "normalise")
    for name in taken_over:
        if options.vectors is None and getattr(options, name):
            raise OptionsError(f"--{name} is of --vectors, which is not given")
    if len(set(options.use)) < len(options.use):
        raise OptionsError(f"--use: {' '.join(options.use)} names one twice")
    for name in ("batch_size", "shard_rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionsError(f"--{name}: found {value}, wanted at least 1")
    if options.num_workers is not None and options.num_workers < 0:
        raise OptionsError(f"--num_workers: found {options.num_workers}, wanted at least 0")
    return options.output_dir


def _items(options: EncodeOptions, output: Path) -> tuple[Dataset, ImageReader]:
    """The rows to encode, and what reads their images."""
    from mmembed.jobs.named_data import named_tables
    from mmembed.jobs.training_data import read_tables

    plain = DataOptions(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(ItemsOptions) if field.init}
    )
    given = None
    if options.data is not None:
        given = named_tables(
            options.data, options.format, image_root=options.image_root, read_options=options.read_options
        )
        plain.items = options.data if given is None else None
    tables, reader, bad = read_tables(
        plain,
        record_to=output.with_name(f"{output.name}-bad_samples.jsonl"),
        tables=given,
        decode_all=options.on_bad_image != "error",
        show_progress_bar=options.show_progress_bar,
    )
    if bad:
        sys.stdout.write(f"bad images      {len(bad):,}, see {output.name}-bad_samples.jsonl beside the folder\n")
    if tables.documents is None or options.table == "queries":
        return tables.queries, reader
    if options.table == "documents":
        return tables.documents, reader
    return _together(tables.queries, tables.documents), reader


def _together(queries: Dataset, documents: Dataset) -> Dataset:
    """Queries and documents as one table of what is encoded."""
    from datasets import concatenate_datasets

    from mmembed.data.schema import DataError

    shared = sorted(set(queries["id"][:]) & set(documents["id"][:]))
    if shared:
        message = (
            f"{shared[0]!r:.80} is the id of a query and of a document; encode each table into a folder of its own"
        )
        raise DataError(message, file="documents", field="id")
    columns = [
        name
        for name in ("id", "text", "text_parts", "image")
        if name in queries.column_names and name in documents.column_names
    ]
    return concatenate_datasets([table.select_columns(columns) for table in (queries, documents)])


def _model(options: EncodeOptions, device: str | None) -> Any:
    import torch

    from mmembed.jobs.model_choice import load_encoder

    kwargs = {"dtype": getattr(torch, options.precision)} if options.precision else None
    return load_encoder(options.model or "", device=device, revision=options.revision, model_kwargs=kwargs)


def _uses(model: Any, items: Dataset) -> list[str]:
    """All that the model reads and every row has."""
    from mmembed.jobs.evaluation_vectors import uses_of

    found = uses_of(items, model)
    if not found:
        raise OptionsError(
            "--use: some items have no text and some no image, or the model reads neither "
            f"({', '.join(map(str, model.modalities))}); name a use: fused takes of each item what it has"
        )
    return found
