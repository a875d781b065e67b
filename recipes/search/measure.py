"""Measure a search pipeline stage by stage, and its hooks: rewrites, feedback, late chunks.

    python recipes/search/measure.py --config recipes/search/cranfield.yaml --source DIR --output_dir runs/cranfield
    python recipes/search/measure.py --config recipes/search/percent4_zh.yaml --source DIR --output_dir runs/percent4

Queries are split by the hash of their text. What is learned or chosen (the fusion's weights) is learned on the validation part; test
queries are looked at once, by the tables. Every figure has its interval (95 %, bootstrap over queries) and its n; every difference is
paired. Times are of one query at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from mmembed import SearchPipeline, encode_dataset, load_model
from mmembed.data.collection import Collection
from mmembed.data.named_formats import read_collection
from mmembed.data.splits import split_bucket
from mmembed.jobs.model_choice import resolve_name
from mmembed.pages import markdown_table
from mmembed.ranking_metrics import ranking_metrics
from mmembed.rerankers.text_pairs import load_text_reranker
from mmembed.search.fusion import Fusion
from mmembed.search.fusion_fit import fit_pipeline_fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import Rocchio, TermExpansion
from mmembed.search.rewriting import FileRewrites
from mmembed.statistics import bootstrap_interval, paired_bootstrap


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the settings below `options`")
    parser.add_argument("--source", type=Path, required=True, help="file or folder of the data set")
    parser.add_argument("--reranker", help="a trained pair scorer, for the last stage")
    parser.add_argument("--output_dir", type=Path, required=True, help="vectors and metrics.json go here")
    words = parser.parse_args()
    options = yaml.safe_load(words.config.read_text(encoding="utf-8"))
    words.output_dir.mkdir(parents=True, exist_ok=True)
    if "files" in options:
        parts = {
            name: read_collection(words.source / file, options["format"]) for name, file in options["files"].items()
        }
        parts = {name: (queries_of(part), qrels_of(part), part) for name, part in parts.items()}
    else:
        whole = read_collection(words.source, options["format"])
        parts = {name: (queries_of(whole), qrels, whole) for name, qrels in split(whole, options).items()}
    for name, (_, qrels, part) in parts.items():
        print(f"{name}: {len(qrels)} queries, {len(part.documents)} documents", flush=True)
    found: dict[str, Any] = {}

    queries, qrels, test = parts["test"]
    pipeline = pipeline_of(test, options, words.output_dir / "test_vectors")
    plain = pipeline.measure(queries, qrels, metrics=options["metrics"])
    show("words, vectors, reciprocal ranks", plain, found)

    if pipeline.lexical is not None and pipeline.vectors is not None:
        validation_queries, validation_qrels, validation = parts["validation"]
        same = validation.documents is test.documents
        other = pipeline if same else pipeline_of(validation, options, words.output_dir / "validation_vectors")
        fit = fit_pipeline_fusion(other, validation_queries, validation_qrels, metric=options["metrics"][0])
        print(
            f"\nchosen on validation, of {len(fit.values)}: {fit.fusion.as_dict() | {'fitted_on': fit.n}}, {fit.metric} {fit.value:.4f}"
        )
        print(
            {name: round(value, 4) for name, value in fit.alone.items()}
            | {"rrf, equal weights": round(fit.values[0][1], 4)}
        )
        pipeline.fusion = fit.fusion
        show("learned fusion", pipeline.measure(queries, qrels, metrics=options["metrics"]), found)
        pipeline.fusion = Fusion()

    if words.reranker:
        pipeline.reranker = load_text_reranker(resolve_name(words.reranker), max_length=options.get("max_length"))
        pipeline.rerank_depth = options["rerank_depth"]
        show("with a reranker", pipeline.measure(queries, qrels, metrics=options["metrics"]), found)
        pipeline.rerank_fusion = Fusion()
        show(
            "with a reranker, fused with the order before",
            pipeline.measure(queries, qrels, metrics=options["metrics"]),
            found,
        )
        pipeline.reranker = pipeline.rerank_fusion = None

    if "rewrites" in options:
        hooks(
            pipeline,
            queries,
            qrels,
            FileRewrites(words.source / options["rewrites"], when_missing="error"),
            options,
            found,
        )
    if options.get("feedback"):
        feedback(pipeline, parts, options, found)
        judged_feedback(pipeline, queries, qrels, options, found)
    (words.output_dir / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


def split(collection: Collection, options: dict) -> dict[str, dict[str, dict[str, int]]]:
    """The judgements of validation and test, by the bucket (0 to 99) of a query's text; the rest is for training a reranker."""
    texts = queries_of(collection)
    bounds = {"test": (0, options["test"]), "validation": (options["test"], options["test"] + options["validation"])}
    buckets = {id: split_bucket(text) for id, text in texts.items()}
    judged = qrels_of(collection)
    return {
        name: {id: grades for id, grades in judged.items() if low <= buckets[id] < high}
        for name, (low, high) in bounds.items()
    }


def queries_of(collection: Collection) -> dict[str, str]:
    return dict(zip(collection.queries["id"], collection.queries["text"]))


def qrels_of(collection: Collection) -> dict[str, dict[str, int]]:
    """Judgements with their grades, where there are any."""
    pairs = collection.pairs
    scores = pairs["positive_scores"][:] if "positive_scores" in pairs.column_names else [None] * len(pairs)
    return {
        query: {id: 1 if grades is None else int(grades[place]) for place, id in enumerate(ids)}
        for query, ids, grades in zip(pairs["query_id"], pairs["positive_ids"], scores)
    }


def pipeline_of(part: Collection, options: dict, folder: Path) -> SearchPipeline:
    ids, texts = part.documents["id"][:], part.documents["text"][:]
    lexical = LexicalIndex.build(ids, texts, **options["bm25"]) if options.get("bm25") else None
    model, vectors = None, None
    if options.get("dense_model"):
        model = load_model(resolve_name(options["dense_model"]))
        vectors = encode_dataset(model, part.documents, folder, show_progress_bar=False)
    return SearchPipeline(lexical=lexical, vectors=vectors, model=model, items=part.documents, depth=options["depth"])


def show(title: str, report, found: dict) -> None:
    print(f"\n{title}\n\n{report.markdown()}", flush=True)
    found[title] = report.as_dict()


def compare(
    title: str, base: dict[str, Any], systems: dict[str, dict[str, Any]], qrels: dict, options: dict, found: dict
) -> None:
    """Each system's metrics beside the first one's, with the paired difference of every metric."""
    metrics = options["metrics"]
    scored = {name: ranking_metrics(run, qrels, metrics) for name, run in ({"without": base} | systems).items()}
    rows, found[title] = [], {}
    for name, values in scored.items():
        cells = []
        for metric in metrics:
            own = bootstrap_interval(values[metric])
            cells.append(f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]")
            gain = paired_bootstrap(values[metric], scored["without"][metric])
            cells.append("" if name == "without" else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            found[title].setdefault(name, {})[metric] = vars(own) | {"against_without": vars(gain)}
        rows.append([name, *cells, len(qrels)])
    header = ["", *(cell for metric in metrics for cell in (metric, f"{metric} − without")), "n"]
    print(f"\n{title}\n\n{markdown_table(rows, header)}", flush=True)


def runs_of(pipeline: SearchPipeline, queries: dict, qrels: dict, stage: str) -> dict[str, Any]:
    """The judged queries' rankings after a stage."""
    stages = pipeline.stages([queries[id] for id in qrels])
    return dict(zip(qrels, next(one for one in stages if one.name == stage).rankings))


def hooks(
    pipeline: SearchPipeline, queries: dict, qrels: dict, rewrites: FileRewrites, options: dict, found: dict
) -> None:
    """With the query's own text and without; no setting is chosen, all are shown."""
    stages = ["lexical", *(["dense", "fused"] if pipeline.vectors is not None else [])]
    for stage in stages:
        base = runs_of(pipeline, queries, qrels, stage)
        systems = {}
        for keep, label in ((True, "the query and its rewrites"), (False, "the rewrites alone")):
            for combine in ("mean", "rrf"):
                pipeline.rewriter, pipeline.keep_query, pipeline.combine_rewrites = rewrites, keep, combine
                how = {"mean": ", mean", "rrf": ", fused rankings"}[combine]
                systems[label + how] = runs_of(pipeline, queries, qrels, stage)
        pipeline.rewriter, pipeline.keep_query, pipeline.combine_rewrites = None, True, "mean"
        compare(f"rewrites: {stage}", base, systems, qrels, options, found)


def feedback(pipeline: SearchPipeline, parts: dict, options: dict, found: dict) -> None:
    """Words and vectors of first results: the settings are chosen on validation, test is looked at with those alone."""
    metric, grid = options["metrics"][0], options["feedback"]
    for stage, name, tried in (
        ("lexical", "term_expansion", [TermExpansion(*numbers) for numbers in grid["term_expansion"]]),
        ("dense", "rocchio", [Rocchio(documents, beta=beta) for documents, beta in grid["rocchio"]]),
    ):
        queries, qrels, _ = parts["validation"]
        values = {}
        for setting in (None, *tried):
            setattr(pipeline, name, setting)
            run = runs_of(pipeline, queries, qrels, stage)
            values[setting] = float(ranking_metrics(run, qrels, [metric])[metric].mean())
        print(f"\n{stage}, {metric} on {len(qrels)} validation queries:")
        print("\n".join(f"  {value:.4f}  {setting}" for setting, value in values.items()), flush=True)
        best = max(tried, key=lambda setting: values[setting])
        queries, qrels, _ = parts["test"]
        setattr(pipeline, name, None)
        base = runs_of(pipeline, queries, qrels, stage)
        setattr(pipeline, name, best)
        fed = runs_of(pipeline, queries, qrels, stage)
        setattr(pipeline, name, None)
        compare(f"first results as feedback: {stage}", base, {str(best): fed}, qrels, options, found)


def judged_feedback(pipeline: SearchPipeline, queries: dict, qrels: dict, options: dict, found: dict) -> None:
    """A person says of the first five which are right. They are taken out of both rankings and of the judgements, so that
    only what is found anew counts (residual collection); queries that have nothing left are left out."""
    first = runs_of(pipeline, queries, qrels, "dense")
    seen = {id: list(run)[:5] for id, run in first.items()}
    good = {id: [one for one in seen[id] if one in qrels[id]] for id in seen}
    bad = {id: [one for one in seen[id] if one not in qrels[id]] for id in seen}
    left = {id: {one: grade for one, grade in qrels[id].items() if one not in seen[id]} for id in seen}
    left = {id: grades for id, grades in left.items() if grades}
    systems = {}
    for label, given in (
        ("positives", {"positives": good}),
        ("positives and negatives", {"positives": good, "negatives": bad}),
    ):
        lists = {name: [ids[id] for id in left] for name, ids in given.items()}
        stages = pipeline.stages([queries[id] for id in left], **lists)
        dense = next(stage for stage in stages if stage.name == "dense")
        systems[label] = dict(zip(left, dense.rankings))
    systems = {
        label: {id: {one: score for one, score in run[id].items() if one not in seen[id]} for id in left}
        for label, run in ({"without": first} | systems).items()
    }
    compare("judged feedback: dense, residual", systems.pop("without"), systems, left, options, found)


if __name__ == "__main__":
    sys.exit(main())
