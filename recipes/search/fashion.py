"""A catalogue of photos, searched by words over titles and by a dual encoder over photos: what each stage adds.

    python recipes/fashion/prepare.py --source DIR --output_dir fashion          # and train a model, see recipes/README.md
    python recipes/search/fashion.py --items fashion/products.jsonl --image_root DIR --model runs/fashion/model --output_dir runs/search

Documents are the held-out products: their titles for BM25, their photos for the model. Queries are what a shopper types, made of
attributes ("women red kurtas"): every combination of gender, base colour and article type that a held-out product has; relevant are
all products that have it. The attributes are not searched, but titles often spell them. By the hash of their text 30 % of the queries
choose the fusion's weights, the others are measured, once. The second table drops the gender from the query and makes a filter of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmembed import SearchPipeline, encode_dataset, load_model, read_items
from mmembed.data.splits import split_bucket
from mmembed.images import ImagePolicy, ImageReader
from mmembed.jobs.model_choice import resolve_name
from mmembed.ranking_metrics import ranking_metrics
from mmembed.search.fusion import Fusion
from mmembed.search.fusion_fit import fit_pipeline_fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.statistics import bootstrap_interval, paired_bootstrap

METRICS = ["ndcg@10", "success@1", "recall@10"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", required=True, help="products.jsonl that recipes/fashion/prepare.py wrote")
    parser.add_argument("--image_root", required=True, help="folder of the data set")
    parser.add_argument("--model", required=True, help="dual encoder trained on the training part")
    parser.add_argument("--output_dir", type=Path, required=True, help="vectors and metrics.json go here")
    words = parser.parse_args()
    items = read_items(words.items, image_root=words.image_root)
    items = items.select([row for row, split in enumerate(items["split"]) if split == "test"])
    model = load_model(resolve_name(words.model), device="cpu")
    reader = ImageReader(ImagePolicy(root=words.image_root))
    vectors = encode_dataset(
        model, items, words.output_dir / "photos", use="image", reader=reader, show_progress_bar=False
    )
    pipeline = SearchPipeline(
        lexical=LexicalIndex.build(items["id"][:], items["text"][:], stemmer="english"),
        vectors=vectors,
        model=model,
        items=items,
    )

    queries, qrels, genders = shoppers(items)
    parts: dict[str, dict[str, list[str]]] = {"validation": {}, "test": {}}
    for id, text in queries.items():
        parts["validation" if split_bucket(text) < 30 else "test"][id] = qrels[id]
    print(f"{len(items)} products; queries: { ({name: len(part) for name, part in parts.items()}) }", flush=True)
    fit = fit_pipeline_fusion(pipeline, queries, parts["validation"])
    print(f"chosen on validation, of {len(fit.values)}: {fit.fusion.as_dict() | {'fitted_on': fit.n}}, {fit.value:.4f}")
    print(
        {name: round(value, 4) for name, value in fit.alone.items()}
        | {"rrf, equal weights": round(fit.values[0][1], 4)}
    )
    found = {}
    for name, fusion in (("reciprocal ranks, equal weights", Fusion()), ("learned fusion", fit.fusion)):
        pipeline.fusion = fusion
        report = pipeline.measure(queries, parts["test"], metrics=METRICS)
        print(f"\n{name}\n\n{report.markdown()}", flush=True)
        found[name] = report.as_dict()

    # the same queries, the gender as a filter
    plain = runs(pipeline, queries, parts["test"])
    short = {id: text.split(" ", 1)[1] for id, text in queries.items()}
    filtered: dict[str, dict[str, dict[str, float]]] = {}
    for gender in sorted(set(genders.values())):
        own = {id: judged for id, judged in parts["test"].items() if genders[id] == gender}
        for stage, run in (runs(pipeline, short, own, filters={"gender": gender}) if own else {}).items():
            filtered.setdefault(stage, {}).update(run)
    print("\ngender as a filter instead of a word, learned fusion\n")
    for stage, run in filtered.items():
        values = [ranking_metrics(one, parts["test"], ["ndcg@10"])["ndcg@10"] for one in (plain[stage], run)]
        mean, gain = bootstrap_interval(values[1]), paired_bootstrap(values[1], values[0])
        print(
            f"{stage}: NDCG@10 {mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}], against the word "
            f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], n = {mean.n}"
        )
        found[f"filter, {stage}"] = vars(mean) | {"against_the_word": vars(gain)}
    (words.output_dir / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


def shoppers(items) -> tuple[dict[str, str], dict[str, list[str]], dict[str, str]]:
    """Queries, their products, and their gender."""
    queries: dict[str, str] = {}
    qrels: dict[str, list[str]] = {}
    genders: dict[str, str] = {}
    for row in items.select_columns(["id", "gender", "baseColour", "articleType"]):
        parts = [row[name] for name in ("gender", "baseColour", "articleType")]
        if None in parts or "NA" in parts:
            continue
        id = "|".join(parts)
        queries[id] = " ".join(parts).lower()
        genders[id] = parts[0]
        qrels.setdefault(id, []).append(row["id"])
    return queries, qrels, genders


def runs(pipeline, queries: dict, qrels: dict, **options) -> dict[str, dict[str, dict[str, float]]]:
    """For each stage the rankings of the judged queries."""
    stages = pipeline.stages([queries[id] for id in qrels], **options)
    return {stage.name: dict(zip(qrels, stage.rankings)) for stage in stages}


if __name__ == "__main__":
    sys.exit(main())
