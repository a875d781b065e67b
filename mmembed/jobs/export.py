"""`mmembed export`: a model → ONNX graphs in a folder, with a table of how each compares with the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.export_options import ExportOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.export.parity_gate import Parity
    from mmembed.export.parity_inputs import ParityInputs


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `export`.

    Returns:
        0 when every graph that was asked for is in the folder.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
        ParityError: If a graph does not give what the model gives.
        ExportError: If the model cannot be exported.

    Example:
        >>> main(["--output_dir", "onnx"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name the model to export
    """
    run(parse_options(ExportOptions, argv, prog="mmembed export", description=ExportOptions.__doc__ or ""))
    return 0


def run(options: ExportOptions) -> list[Parity]:
    """Export, and tell what came of it.

    Args:
        options: Which model, which graphs of it, on which rows they are compared, and where they go.

    Returns:
        How each graph compares with the model.
    """
    _check(options)
    from mmembed.export.onnx import export_onnx, quantize_onnx
    from mmembed.export.onnx_embedder import is_export
    from mmembed.export.onnx_quantization import Quantization
    from mmembed.export.parity_gate import ParityError
    from mmembed.jobs.model_choice import resolve_name

    quantization = Quantization(
        method=options.quantization,
        per_channel=options.per_channel,
        per_row=options.per_row,
        reduce_range=options.reduce_range,
        calibration=options.calibration,
        keep_float="auto" if options.keep_float is None else options.keep_float,
    )
    name = resolve_name(options.model or "")
    shared: dict[str, Any] = {"quantization": quantization, "show_progress_bar": options.show_progress_bar}
    try:
        with as_option_errors():
            if is_export(name):
                if options.output_dir is not None and options.output_dir.resolve() != Path(name).resolve():
                    raise OptionsError(f"--output_dir: {name} is an export; its graphs are quantised where they are")
                folder: Any = name
                parities = quantize_onnx(
                    name,
                    verbs=options.verbs or None,
                    precisions=options.precision,
                    inputs=_inputs(options, _export_verbs(name)),
                    **shared,
                )
            else:
                folder = options.output_dir
                model = _model(options, name)
                from mmembed.export.onnx_verbs import verbs_of

                parities = export_onnx(
                    model,
                    folder,
                    verbs=options.verbs or None,
                    precisions=options.precision,
                    inputs=_inputs(options, options.verbs or verbs_of(model)),
                    backends=options.backend,
                    opset=options.opset,
                    external_data_above=options.external_data_mib << 20,
                    model_name=options.model,
                    overwrite=options.overwrite,
                    **shared,
                )
    except ParityError as error:
        _tell(error.parities)
        raise
    _tell(parities)
    sys.stdout.write(f"folder          {folder}\n")
    return parities


def _check(options: ExportOptions) -> None:
    """Whether the options can be meant; before anything heavy is imported or read."""
    if not options.model:
        raise OptionsError("--model: name the model to export")
    if options.output_dir is None and not (Path(options.model) / "mmembed_onnx.json").is_file():
        raise OptionsError("--output_dir: name the folder of the graphs")
    if options.data is not None and (options.items or options.documents or options.pairs):
        raise OptionsError("--data holds items, documents and pairs; give it, or --items, --documents and --pairs")
    if options.format is not None and options.data is None:
        raise OptionsError("--format is of --data, which is not given")
    for name in ("max_rows", "max_queries", "max_documents"):
        if getattr(options, name) < 8:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least 8")
    if options.external_data_mib < 0:
        raise OptionsError(f"--external_data_mib: found {options.external_data_mib}, wanted at least 0")
    for name in ("query_use", "document_use"):
        if getattr(options, name) == "any":
            raise OptionsError(f"--{name} any: a graph reads one side of an item; choose text, image or fused")


def _model(options: ExportOptions, name: str) -> Any:
    if options.kind == "reranker":
        from mmembed.rerankers.text_pairs import load_text_reranker

        return load_text_reranker(name, device="cpu", revision=options.revision)
    from mmembed.models.loading import load_model

    return load_model(name, device="cpu", revision=options.revision)


def _export_verbs(folder: str) -> list[str]:
    from mmembed.export.onnx_files import read_export

    return list(dict.fromkeys(graph.verb for graph in read_export(folder)[1]))


def _inputs(options: ExportOptions, verbs: Sequence[str]) -> ParityInputs | None:
    """The rows that the options name; None for drawn ones."""
    if options.data is None and options.items is None:
        return None
    from mmembed.export.parity_inputs import table_inputs
    from mmembed.jobs.named_data import named_tables
    from mmembed.jobs.training_data import part_of, read_tables, split_tables

    given = None
    name = options.data or options.items or ""
    if options.data is not None:
        given = named_tables(
            options.data, options.format, image_root=options.image_root, read_options=options.read_options
        )
        options.items = options.data if given is None else None
    tables, reader, _ = read_tables(
        options,
        record_to=Path(f"{options.output_dir or options.model}-bad_samples.jsonl"),
        tables=given,
        decode_all=False,
        show_progress_bar=options.show_progress_bar,
    )
    query_use, document_use = _uses(options, verbs, tables.queries, tables.documents)
    parts: dict[str, Any] = {}
    if options.part != "all" and (
        options.part != "auto" or (options.split_column or "") in tables.queries.column_names
    ):
        parts = split_tables(tables, options)
    part = options.part if options.part != "auto" else next((p for p in ("validation", "test") if p in parts), "all")
    if part != "all" and part not in parts:
        raise OptionsError(f"--part {part}: no row falls into it; there are {', '.join(parts) or 'none'}")
    chosen = parts[part] if part != "all" else part_of(tables.queries, tables.documents, tables.pairs)
    # An item finds its own photo by its text, but not its own text by its text.
    related = tables.pairs is not None or query_use != document_use
    documents = tables.documents if part == "all" and tables.documents is not None else chosen.documents
    return table_inputs(
        chosen.queries,
        documents,
        chosen.pairs if related else None,
        query_use=query_use,
        document_use=document_use,
        reader=reader,
        max_rows=options.max_rows,
        max_queries=options.max_queries,
        max_documents=options.max_documents,
        source=f"{name}, part {part}",
    )


def _uses(options: ExportOptions, verbs: Sequence[str], queries: Dataset, documents: Dataset | None) -> tuple[Any, Any]:
    reads_text = set(verbs) & {"text", "fused", "reranker"}
    reads_images = set(verbs) & {"image", "fused"}
    table = documents if documents is not None else queries
    # In Arrow, so that no image is read for the question whether there is one.
    column = table.select_columns(["image"]).with_format("arrow")[:]["image"] if "image" in table.column_names else None
    has_images = column is not None and column.null_count < len(column)
    query, document = options.query_use, options.document_use
    if query == "auto":
        query = "text" if reads_text else "image"
    if document == "auto":
        document = "image" if reads_images and has_images else "text"
    return query, document


def _tell(parities: Sequence[Parity]) -> None:
    from mmembed.export.parity_gate import parity_table

    sources = sorted({parity.source for parity in parities if parity.source})
    sys.stdout.write(f"\n{parity_table(parities)}\n\n" + "".join(f"rows            {source}\n" for source in sources))
