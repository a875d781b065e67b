"""`mmembed search`: queries → hits, as a table or a run file; with judgements, what each stage adds and costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options
from mmembed.jobs.search_options import SearchOptions

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.search.hits import Hit
    from mmembed.search.pipeline import SearchPipeline

_TREC = (".trec", ".run", ".txt")


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `search`.

    Returns:
        0 when the hits are printed or written.

    Raises:
        OptionsError: If an option is unknown, of the wrong type, or contradicts another.
        DataError: If a file has a fault, or an index is of another model.

    Example:
        >>> main(["--query", "red dress"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: nothing to search: name --pipeline, or --index, --vectors or --lexical
    """
    run(parse_options(SearchOptions, argv, prog="mmembed search", description=SearchOptions.__doc__ or ""))
    return 0


def run(options: SearchOptions) -> dict[str, list[Hit]]:
    """Search, and tell what was found.

    Args:
        options: What is searched, what is asked, and where the hits go.

    Returns:
        For each query its hits; none where judgements were measured and no run was asked for.
    """
    _check(options)
    from mmembed.jobs.search_parts import read_parts, search_pipeline
    from mmembed.jobs.search_queries import asked_queries, judged_queries

    with as_option_errors():
        parts = read_parts(options)
        pipeline = search_pipeline(options, parts)
        queries = asked_queries(options, parts)
        filters = _filters(options, pipeline.items)
        if options.fit_pairs is not None:
            _fit(options, pipeline, queries)
        if options.save_pipeline is not None:
            _save(options, pipeline, parts.root)
        qrels = judged_queries(options, parts, queries)
        if qrels is not None:
            _measure(options, pipeline, queries, qrels, filters)
        if not queries or (qrels is not None and options.output is None):
            return {}
        results = _search(options, pipeline, queries, filters)
    if options.output is None:
        _print(options, queries, results, pipeline.items)
    else:
        _write(options, queries, results)
    return results


def _check(options: SearchOptions) -> None:
    """That the options can be meant, before anything heavy is imported or read."""
    parts = [name for name in ("index", "vectors", "lexical") if getattr(options, name) is not None]
    if options.pipeline is None and not parts:
        raise OptionsError("nothing to search: name --pipeline, or --index, --vectors or --lexical")
    if options.pipeline is not None and (parts or options.items or options.data or options.reranker):
        raise OptionsError(
            "--pipeline has its own parts; leave --index, --vectors, --lexical, --items and --reranker out"
        )
    if options.chunked and (options.index is None) == (options.vectors is None):
        raise OptionsError("--chunked is of --index or of --vectors; give one of the two")
    if options.data is not None and (options.items or options.queries or options.pairs):
        raise OptionsError("--data holds items, queries and pairs; give it, or --items, --queries and --pairs")
    if options.format is not None and options.data is None:
        raise OptionsError("--format is of --data, which is not given")
    if options.lexical == "items" and options.items is None and options.data is None:
        raise OptionsError("--lexical items: name the items, by --items or --data")
    asked = [bool(options.query or options.image), bool(options.dialogue), options.queries is not None]
    if sum(asked) > 1:
        raise OptionsError("--query and --image, --dialogue, and --queries each say what is asked; give one")
    if not any(asked) and options.data is None and options.save_pipeline is None:
        raise OptionsError("nothing is asked: give --query, --image, --dialogue or --queries")
    if options.query and options.image and len(options.query) != len(options.image):
        raise OptionsError(
            f"{len(options.query)} --query and {len(options.image)} --image: with both, one text an image"
        )
    for name in ("pairs", "fit_queries"):
        if getattr(options, name) is not None and options.queries is None:
            raise OptionsError(f"--{name} goes with --queries")
    if options.fit_pairs is not None and options.queries is None and options.fit_queries is None:
        raise OptionsError("--fit_pairs: name the queries that they judge, by --fit_queries")
    if options.report is not None and options.pairs is None and options.data is None:
        raise OptionsError("--report is of the stages' table, which needs judgements: give --pairs")
    if options.rewrite_url is not None and (options.rewrite_model is None or options.rewrite_calls is None):
        raise OptionsError("--rewrite_url needs --rewrite_model and --rewrite_calls, how many requests may be made")
    if options.rewrites is not None and options.rewrite_url is not None:
        raise OptionsError("--rewrites and --rewrite_url both say where further texts come from; give one")
    for name in ("k", "depth", "rerank_depth", "batch_size", "expansion_terms", "rewrite_texts", "text_width"):
        if getattr(options, name) < 1:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least 1")
    for name in ("rocchio_documents", "expansion_documents"):
        if getattr(options, name) < 0:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least 0")


def _filters(options: SearchOptions, items: Dataset | None) -> dict[str, Any] | None:
    if not options.filter:
        return None
    if items is None:
        raise OptionsError("--filter: conditions are on attributes of items; name them by --items")
    from mmembed.search.filters import parse_filters

    return parse_filters(options.filter, items)


def _fit(options: SearchOptions, pipeline: SearchPipeline, queries: Mapping[str, Any]) -> None:
    from mmembed.jobs.search_queries import grades_of, queries_of_file
    from mmembed.search.fusion_fit import fit_pipeline_fusion

    known = queries if options.fit_queries is None else queries_of_file(options, options.fit_queries)
    fit = fit_pipeline_fusion(
        pipeline,
        known,
        grades_of(options.fit_pairs or ""),
        metric=options.metrics[0],
        show_progress_bar=options.show_progress_bar,
    )
    pipeline.fusion = fit.fusion
    alone = ", ".join(f"{name} {value:.4f}" for name, value in fit.alone.items())
    weights = ", ".join(f"{name} {weight:g}" for name, weight in fit.fusion.weights.items())
    sys.stdout.write(
        f"fusion          {fit.fusion.method}, {weights}: the best of {len(fit.values)} on {fit.n} validation queries, "
        f"{fit.metric} {fit.value:.4f} there (alone: {alone})\n"
    )


def _save(options: SearchOptions, pipeline: SearchPipeline, root: str | None) -> None:
    from mmembed.jobs.model_choice import resolve_name

    names = {
        f"{part}_name": resolve_name(name) if Path(name).is_dir() else name
        for part, name in (("model", options.model), ("reranker", options.reranker))
        if name is not None and not name.startswith("package:")
    }
    folder = options.save_pipeline or ""
    pipeline.save(folder, reranker_kind=options.reranker_kind, image_root=options.image_root or root, **names)
    sys.stdout.write(f"pipeline        {folder}\n")


def _measure(
    options: SearchOptions,
    pipeline: SearchPipeline,
    queries: Mapping[str, Any],
    qrels: Mapping[str, Any],
    filters: dict[str, Any] | None,
) -> None:
    report = pipeline.measure(
        queries, qrels, metrics=options.metrics, filters=filters, show_progress_bar=options.show_progress_bar
    )
    sys.stdout.write(f"\n{report}\n")
    if options.report is not None:
        from mmembed.whole_files import write_whole

        text = json.dumps(report.as_dict(), ensure_ascii=False, indent=1)
        write_whole(options.report, lambda new: Path(new).write_text(text, encoding="utf-8"))
        sys.stdout.write(f"report          {options.report}\n")


def _search(
    options: SearchOptions, pipeline: SearchPipeline, queries: Mapping[str, Any], filters: dict[str, Any] | None
) -> dict[str, list[Hit]]:
    from tqdm.auto import tqdm

    given: dict[str, list[str]] = {
        name: ids for name, ids in (("positives", options.like), ("negatives", options.unlike)) if ids
    }
    ids = list(queries)
    results: dict[str, list[Hit]] = {}
    bar = tqdm(total=len(ids), desc="search", unit="query", disable=not options.show_progress_bar or len(ids) < 100)
    with bar:
        for start in range(0, len(ids), 64):
            some = ids[start : start + 64]
            asked = [queries[id] for id in some]
            feedback: Any = {name: [own] * len(some) for name, own in given.items()}
            hits = pipeline.search(asked, options.k, filters=filters, **feedback)
            results.update(zip(some, hits, strict=True))
            bar.update(len(some))
    return results


def _write(options: SearchOptions, queries: Mapping[str, Any], results: Mapping[str, Sequence[Hit]]) -> None:
    from mmembed.search.run_files import write_run

    path = Path(options.output or "")
    kind = options.run_format or ("trec" if path.suffix.lower() in _TREC else "jsonl")
    texts = {id: query.text for id, query in queries.items()}
    write_run(path, results, format=kind, tag=options.run_tag, queries=texts)  # type: ignore[arg-type]
    sys.stdout.write(f"run             {path}: {len(results):,} queries, {sum(map(len, results.values())):,} hits\n")


def _print(
    options: SearchOptions, queries: Mapping[str, Any], results: Mapping[str, Sequence[Hit]], items: Dataset | None
) -> None:
    from mmembed.pages import text_table

    rows_of = {} if items is None else {id: row for row, id in enumerate(items.with_format(None)["id"][:])}
    for id, hits in results.items():
        texts: dict[str, str] = {}
        known = [hit.id for hit in hits if hit.id in rows_of]
        if items is not None and known:
            found = items.select([rows_of[one] for one in known]).with_format(None)["text"][:]
            texts = {one: " ".join((text or "").split())[: options.text_width] for one, text in zip(known, found)}
        stages = list(dict.fromkeys(stage for hit in hits for stage in hit.ranks))
        rows = [
            [rank, hit.id, f"{hit.score:.4f}", *(hit.ranks.get(stage) for stage in stages), texts.get(hit.id)]
            for rank, hit in enumerate(hits, 1)
        ]
        query = queries[id]
        title = " ".join([*([query.text] if query.text else []), *(["[image]"] if query.image is not None else [])])
        header = ["", "id", "score", *(f"in {stage}" for stage in stages), "text"]
        shown = text_table([[f"{id}: {title}" if len(results) > 1 else title]], ["query"]).splitlines()[-1]
        sys.stdout.write(f"\n{shown}\n")
        sys.stdout.write(f"{text_table(rows, header)}\n" if rows else "nothing found\n")
