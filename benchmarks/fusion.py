"""Does the fused vector of a product find it better than its text or its photo alone?

    python benchmarks/fusion.py

The drawn catalogue's products are matched across two listings of the same product, as two sellers write them: each has a
title of its own, which leaves out what it likes, and a photo of its own. A small dual encoder is trained on the products
of the training families, drawing anew in each epoch which of text, image or both stands for a listing. On the products of
held-out families, text → text, image → image and fused → fused answer the same queries over the same documents; the
differences are paired by query and resampled by family.

Prints one table with the intervals of each way and one with the paired differences; exits with 1 if an interval of a
difference touches 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

METRICS = ("mrr", "recall@1")
USES = ("text", "image", "fused")


@dataclass
class Listings:
    """Two listings of each product of a split, row by row: queries, documents, which belongs to which, families."""

    queries: Any
    documents: Any
    pairs: Any
    families: list[str]


def listings(catalogue: Any, split: str, views: tuple[int, ...], *, seed: int = 0) -> Listings:
    """Queries (title, photo 0) and one document a view (another seller's title, that photo).

    Args:
        catalogue: A `DemoCatalogue` with English titles.
        split: "train", "validation" or "test"; a family of siblings lies in one of them.
        views: Which photos the documents show.
        seed: The catalogue's own.
    """
    from datasets import Dataset

    from mmembed.data.catalogue.products import generate_products
    from mmembed.data.catalogue.words import title

    other_seed = seed + 1  # other words for the same product, and other things left unsaid
    other_title = {
        product.id: title(replace(product, seed=other_seed))
        for product in generate_products(len(catalogue.products), seed=seed)
    }
    rows = [row for row in catalogue.products if row["split"] == split]
    photo = dict(zip(catalogue.photos["id"][:], catalogue.photos["image"][:]))
    features = catalogue.photos.features
    queries = [{"id": row["id"], "text": row["title_en"], "image": photo[f"{row['id']}-0"]} for row in rows]
    documents = [
        {"id": f"{row['id']}-{view}", "text": other_title[row["id"]], "image": photo[f"{row['id']}-{view}"]}
        for row in rows
        for view in views
    ]
    schema = {name: features[name] for name in ("id", "text", "image", "group")}
    tables = [
        Dataset.from_list(
            [{**item, "group": item["id"].split("-")[0]} for item in items], features=type(features)(schema)
        )
        for items in (queries, documents)
    ]
    pairs = {
        "query_id": [row["id"] for row in rows],
        "positive_ids": [[f"{row['id']}-{view}" for view in views] for row in rows],
        "negative_ids": [[] for _ in rows],
    }
    return Listings(*tables, Dataset.from_dict(pairs), [row["family"] for row in rows])


def trained(train: Listings, *, fusion: str, epochs: float, seed: int, use: str = "any", **training: Any) -> Any:
    """A dual encoder of the catalogue's default sizes, trained to match queries with documents."""
    from mmembed import EmbeddingTrainer, EmbeddingTrainingArguments
    from mmembed.data.augment import Augmentation
    from mmembed.data.training_pairs import TrainingPairs
    from mmembed.images import ImageReader
    from mmembed.jobs.catalogue_defaults import AUGMENTATION, MODEL, TRAINING
    from mmembed.models.dual_encoder.building import build_dual_encoder

    texts = [*train.queries["text"][:], *train.documents["text"][:]]
    model = build_dual_encoder(texts, **MODEL, fusion=fusion, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = {**TRAINING, "num_train_epochs": epochs, "seed": seed, **training}
        args = EmbeddingTrainingArguments(
            output_dir=folder,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            **without(settings, "logging_steps"),
        )
        data = TrainingPairs(train.queries, train.documents, train.pairs, query_use=use, document_use=use)
        augmentation = Augmentation(**AUGMENTATION)
        EmbeddingTrainer(model, args, data, reader=ImageReader(), augmentation=augmentation).train()
    return model.eval()


def without(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def measure(model: Any, held_out: Listings) -> dict[str, dict[str, Any]]:
    """use → metric → one value a query, all uses over the same queries and documents."""
    from mmembed.evaluation.retrieval import rank_retrieval
    from mmembed.images import ImageReader

    values = {}
    for use in USES:
        ranking = rank_retrieval(
            model,
            held_out.queries,
            held_out.documents,
            held_out.pairs,
            query_use=use,
            document_use=use,
            directions="forward",
            reader=ImageReader(),
        )["forward"]
        values[use] = ranking.per_query(METRICS)
    return values


def differences(values: dict[str, dict[str, Any]], families: list[str]) -> dict[tuple[str, str], Any]:
    """(single modality, metric) → fused minus it, paired by query, resampled by family."""
    from mmembed.statistics import paired_bootstrap

    return {
        (use, metric): paired_bootstrap(values["fused"][metric], values[use][metric], clusters=families)
        for use in ("text", "image")
        for metric in METRICS
    }


def run(
    *, products: int, epochs: float, fusion: str, seed: int, split: str = "test", **training: Any
) -> dict[str, Any]:
    """Draw, train, measure.

    Returns:
        "values" (of `measure`), "differences" (of `differences`), "families", and "seconds" of drawing, training and
        measuring.
    """
    from mmembed.data.catalogue import demo_catalogue

    marks = [time.perf_counter()]
    catalogue = demo_catalogue(products=products, photos=3, seed=seed, show_progress_bar=False)
    # The third photo of the held-out products is what the model has to find; of the others it has seen both.
    train = listings(catalogue, "train", (1, 2), seed=seed)
    held_out = listings(catalogue, split, (2,), seed=seed)
    marks.append(time.perf_counter())
    model = trained(train, fusion=fusion, epochs=epochs, seed=seed, **training)
    marks.append(time.perf_counter())
    values = measure(model, held_out)
    marks.append(time.perf_counter())
    seconds = dict(zip(("draw", "train", "measure"), (b - a for a, b in zip(marks, marks[1:]))))
    return {
        "values": values,
        "differences": differences(values, held_out.families),
        "families": held_out.families,
        "seconds": seconds,
        "train_products": len(train.pairs),
    }


def report(result: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    from mmembed.statistics import bootstrap_interval

    lines = ["| way | MRR | recall@1 |", "|---|---|---|"]
    for use in USES:
        cells = []
        for metric in METRICS:
            interval = bootstrap_interval(result["values"][use][metric], clusters=result["families"])
            cells.append(f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]")
        lines.append(f"| {use} → {use} | {' | '.join(cells)} |")
    lines += ["", "| fused minus | MRR | recall@1 | p |", "|---|---|---|---|"]
    for use in ("text", "image"):
        found = [result["differences"][use, metric] for metric in METRICS]
        cells = [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in found]
        lines.append(f"| {use} | {' | '.join(cells)} | {max(d.p_value for d in found):.4f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=2400, help="how many products to draw")
    parser.add_argument("--epochs", type=float, default=15, help="epochs of training")
    parser.add_argument("--fusion", default="gated", help="weighted_sum, concat, mlp or gated")
    parser.add_argument("--seed", type=int, default=0, help="of the catalogue, the weights and the batches")
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="what is measured")
    options = parser.parse_args()
    result = run(**vars(options))
    families = len(set(result["families"]))
    print(
        f"{options.fusion}, {options.epochs:g} epochs on {result['train_products']} products; {options.split}: "
        f"{len(result['families'])} queries of {families} families over as many documents\n"
    )
    print(report(result))
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items())
    print(f"\n{seconds}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return int(any(difference.low <= 0 for difference in result["differences"].values()))


if __name__ == "__main__":
    sys.exit(main())
