"""What a search is made of: tables, indexes and models that options and manifests name → a pipeline."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.images import ImagePolicy, ImageReader
from mmembed.jobs.data_options import DataOptions, ItemsOptions
from mmembed.jobs.model_choice import fingerprints, load_encoder, resolve_name
from mmembed.jobs.options import OptionsError
from mmembed.jobs.search_options import SearchOptions
from mmembed.search.chunks import ChunkedIndex
from mmembed.search.fusion import Fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.lexical_tokens import tokeniser_for
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.pipeline_files import load_reranker
from mmembed.search.query_expansion import Rocchio, TermExpansion
from mmembed.search.rewriting import ChatRewrites, FileRewrites
from mmembed.search.vector_stage import ExactVectors

_SAMPLE = 200  # texts by which a tokeniser is chosen


@dataclass
class SearchParts:
    """The tables of a search.

    Args:
        items: What is searched; None where nothing says.
        queries: Of a named format.
        pairs: Of a named format.
        root: The folder below which images lie.
    """

    items: Dataset | None = None
    queries: Dataset | None = None
    pairs: Dataset | None = None
    root: str | None = None


def read_parts(options: SearchOptions) -> SearchParts:
    """Read the tables that the options name; bad images come to light where they are looked at.

    Raises:
        DataError: A file with a fault.
    """
    if options.items is None and options.data is None:
        return SearchParts(root=options.image_root)
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
    tables, _, _ = read_tables(
        plain,
        record_to=Path(os.devnull),
        tables=given,
        decode_all=False,
        show_progress_bar=options.show_progress_bar,
    )
    if given is None:
        return SearchParts(tables.queries, root=tables.root)
    documents = tables.queries if tables.documents is None else tables.documents
    return SearchParts(documents, tables.queries, tables.pairs, tables.root)


def search_pipeline(options: SearchOptions, parts: SearchParts) -> SearchPipeline:
    """The pipeline that is saved, or one of the parts that are named.

    Raises:
        OptionsError: A part without the one that it needs.
        DataError: A part that is damaged, or of another model.
    """
    rewriter = _rewriter(options)
    model = None if options.model is None else _model(options, options.model)
    if options.pipeline is not None:
        return SearchPipeline.load(
            options.pipeline, model=model, rewriter=rewriter, image_root=options.image_root, device=options.device
        )
    index: Any = None
    made_by: list[tuple[str, dict[str, Any]]] = []
    if options.index is not None:
        from mmembed.search.index import Index

        index = Index.load(options.index)
        made_by.append((options.index, index.manifest))
    vectors = None
    if options.vectors is not None:
        vectors = Embeddings.load(options.vectors)
        made_by.append((options.vectors, vectors.manifest))
    if made_by and model is None:
        model = _model(options, _named(made_by))
    for folder, manifest in made_by:
        known = manifest.get("model_fingerprint")
        if known is not None and known not in fingerprints(model):
            message = f"its vectors are of another model than {options.model or _named(made_by)}: its weights differ"
            raise DataError(f"{message}; name the one that encoded them by --model", file=folder)
    if options.chunked:
        index = ChunkedIndex(index, index.ids) if vectors is None else ChunkedIndex(ExactVectors(vectors), vectors.ids)
        vectors = None
    needs_items = [name for name in ("reranker", "filter") if getattr(options, name)]
    if options.expansion_documents:
        needs_items.append("expansion_documents")
    if needs_items and parts.items is None:
        raise OptionsError(f"--{needs_items[0]} reads the items; name them by --items or --data")
    return SearchPipeline(
        lexical=_lexical(options, parts),
        index=index,
        vectors=vectors,
        model=model,
        reranker=_reranker(options),
        items=parts.items,
        reader=None if parts.root is None else ImageReader(ImagePolicy(root=parts.root)),
        fusion=Fusion(options.fusion, options.fusion_weights, options.fusion_k),
        depth=options.depth,
        rerank_depth=options.rerank_depth,
        rerank_use=options.rerank_use,
        rerank_query_use=options.rerank_query_use,
        rerank_fusion=Fusion() if options.fuse_reranker else None,
        query_prompt=options.query_prompt,
        text_weight=options.text_weight,
        rewriter=rewriter,
        keep_query=options.keep_query,
        combine_rewrites=options.combine_rewrites,
        rocchio=Rocchio(documents=options.rocchio_documents) if options.rocchio_documents else None,
        term_expansion=TermExpansion(options.expansion_documents, options.expansion_terms)
        if options.expansion_documents
        else None,
        batch_size=options.batch_size,
    )


def _named(made_by: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The model that the manifests name."""
    names = {manifest["model"]: folder for folder, manifest in made_by if manifest.get("model")}
    if len(names) != 1:
        found = f"{' and '.join(names)} are named" if names else "none is named there"
        raise OptionsError(f"--model: name the model that encoded {' and '.join(f for f, _ in made_by)}; {found}")
    return next(iter(names))


def _model(options: SearchOptions, name: str) -> Any:
    return load_encoder(name, device=options.device)


def _reranker(options: SearchOptions) -> Any:
    if options.reranker is None:
        return None
    return load_reranker(resolve_name(options.reranker), options.reranker_kind, device=options.device)


def _lexical(options: SearchOptions, parts: SearchParts) -> LexicalIndex | None:
    if options.lexical is None:
        return None
    if options.lexical != "items":
        return LexicalIndex.load(options.lexical)
    assert parts.items is not None  # checked with the options
    plain = parts.items.with_format(None)
    rows = [(id, text) for id, text in zip(plain["id"][:], plain["text"][:]) if text is not None]
    tokeniser = options.tokeniser or tokeniser_for(" ".join(text for _, text in rows[:_SAMPLE]))
    sys.stdout.write(f"lexical         {len(rows):,} texts, cut by {tokeniser}\n")
    return LexicalIndex.build(
        [id for id, _ in rows],
        [text for _, text in rows],
        tokeniser=tokeniser,
        stemmer=options.stemmer,
        show_progress_bar=options.show_progress_bar,
    )


def _rewriter(options: SearchOptions) -> Callable[[str], Sequence[str]] | None:
    if options.rewrites is not None:
        return FileRewrites(options.rewrites)
    if options.rewrite_url is None:
        return None
    from mmembed.chat_endpoint import ChatEndpoint

    if options.rewrite_key_env is not None and options.rewrite_key_env not in os.environ:
        raise OptionsError(f"--rewrite_key_env: there is no environment variable {options.rewrite_key_env}")
    endpoint = ChatEndpoint(
        options.rewrite_url,
        options.rewrite_model or "",
        max_calls=options.rewrite_calls or 0,
        cache_dir=options.rewrite_cache,
        api_key=None if options.rewrite_key_env is None else os.environ[options.rewrite_key_env],
    )
    return ChatRewrites(endpoint.reply, options.rewrite_task, num_texts=options.rewrite_texts)
