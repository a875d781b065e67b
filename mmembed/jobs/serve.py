"""`mmembed serve`: a model, an index and a reranker → an HTTP server, until it is told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.options import OptionsError, parse_options
from mmembed.jobs.serve_options import ServeOptions

if TYPE_CHECKING:
    from mmembed.apps.serve.served import Served

_LIMITS = (
    "max_body_bytes", "max_rows", "max_text_chars", "max_pixels", "max_results", "max_waiting_rows", "max_waiting_pixels",
    "max_waiting_bytes", "max_rows_a_pass",
    "body_seconds", "request_seconds", "drain_seconds", "max_connections",
)  # fmt: skip


_EXTRA = ("fastapi", "uvicorn", "prometheus_client", "pydantic", "starlette")


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `serve`.

    Returns:
        0 when the server was told to stop, and has answered what was under way.

    Raises:
        OptionsError: If an option is unknown, of the wrong type, or the options contradict each other.
        ServeError: If it would be reached from elsewhere without a key.
        AddressError: If the port is taken.
        ImportError: If `mmembed[serve]` is not installed.

    Example:
        >>> main([])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name what is served: a model, a pipeline or a reranker
    """
    options = parse_options(ServeOptions, argv, prog="mmembed serve", description=ServeOptions.__doc__ or "")
    _check(options)
    with _extra_of_serving():
        from mmembed.apps.listening import bind, shown_address
        from mmembed.apps.serve.limits import ServeLimits
        from mmembed.apps.serve.running import build_server, check_reach
    # What can be refused is refused before a model is loaded.
    limits = ServeLimits(gather_seconds=options.gather_ms / 1000, **{name: getattr(options, name) for name in _LIMITS})
    key = os.environ.get(options.key_variable) or None
    check_reach(options.host, key, allow_unauthenticated=options.allow_unauthenticated)
    with bind(options.host, options.port) as listening:
        server = build_server(
            load_served(options),
            host=options.host,
            limits=limits,
            key=key,
            allow_unauthenticated=options.allow_unauthenticated,
        )
        sys.stdout.write(f"serving  {shown_address(options.host, listening)}\n")
        sys.stdout.flush()
        server.run(sockets=[listening])
    sys.stdout.write("stopped\n")
    return 0


@contextlib.contextmanager
def _extra_of_serving() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _EXTRA:
            raise ImportError(f"serving needs {error.name}: pip install 'mmembed[serve]'") from error
        raise


def load_served(options: ServeOptions) -> Served:
    """The model, the pipeline and the reranker that the options name.

    Args:
        options: What is served.

    Raises:
        OptionsError: If they contradict each other.
        DataError: If an index or pipeline is of another model.
        ModelError: If a model cannot be loaded.
    """
    from mmembed.apps.serve.served import Served
    from mmembed.jobs.model_choice import load_encoder, resolve_name

    _check(options)
    model = None if options.model is None else load_encoder(options.model, device=options.device)
    reranker = None
    if options.reranker is not None:
        reranker = _load_reranker(resolve_name(options.reranker), options)
    pipeline = _pipeline(options, model, reranker)
    if model is None and pipeline is not None:
        model = pipeline.model
    if reranker is None and pipeline is not None:
        reranker = pipeline.reranker
    named = options.model or options.pipeline or options.reranker or ""
    names = options.served_name or [Path(named.rstrip("/")).name]
    return Served(
        tuple(names),
        model=model,
        pipeline=pipeline,
        reranker=reranker,
        dimensions=tuple(options.dimensions),
        batch_size=options.max_rows_a_pass,
    )


def _check(options: ServeOptions) -> None:
    if options.model is None and options.pipeline is None and options.reranker is None:
        raise OptionsError("--model: name what is served: a model, a pipeline or a reranker")
    if options.index is not None and options.pipeline is not None:
        raise OptionsError("--index and --pipeline both say what is searched; give one")
    if options.index is not None and options.model is None:
        raise OptionsError("--index is searched with a model's vectors; give --model as well")
    if options.items is not None and options.index is None:
        raise OptionsError("--items are those of an index; give --index as well (a pipeline has its own)")


def _pipeline(options: ServeOptions, model: Any, reranker: Any) -> Any:
    from mmembed.search.pipeline import SearchPipeline

    if options.pipeline is not None:
        return SearchPipeline.load(
            options.pipeline, model=model, reranker=reranker, image_root=options.image_root, device=options.device
        )
    if options.index is None:
        return None
    from mmembed.images import ImagePolicy, ImageReader
    from mmembed.jobs.data_options import ItemsOptions
    from mmembed.jobs.search_options import SearchOptions
    from mmembed.jobs.search_parts import read_parts

    columns = {field.name: getattr(options, field.name) for field in dataclasses.fields(ItemsOptions) if field.init}
    parts = read_parts(SearchOptions(**columns, show_progress_bar=False))
    use: Any = "text" if options.reranker_kind == "text" else "fused"
    return SearchPipeline(
        index=_load_index(options.index, model),
        model=model,
        items=parts.items,
        reader=None if parts.root is None else ImageReader(ImagePolicy(root=parts.root)),
        reranker=reranker if parts.items is not None else None,
        rerank_use=use,
    )


def _load_reranker(name: str, options: ServeOptions) -> Any:
    from mmembed.export.onnx_embedder import OnnxReranker, is_export
    from mmembed.search.pipeline_files import load_reranker

    if is_export(name):
        return OnnxReranker(name)
    return load_reranker(name, options.reranker_kind, device=options.device)


def _load_index(folder: str, model: Any) -> Any:
    """The index, once it is sure that its vectors are this model's, or those of the model that was exported."""
    from mmembed.data.schema import DataError
    from mmembed.jobs.model_choice import fingerprints
    from mmembed.search.index import Index

    index = Index.load(folder)
    if index.manifest.get("model_fingerprint") not in fingerprints(model):
        raise DataError(
            "its vectors are of another model than the one that is served, whose weights differ; name the one that encoded them",
            file=folder,
            field="model_fingerprint",
        )
    return index
