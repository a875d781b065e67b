"""What a training run shows for itself: figures before and after, a table, a contact sheet."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from mmembed.evaluation.ranking import Ranking, headline
from mmembed.export.card import CardFacts, write_card
from mmembed.export.hub_results import EvaluationData
from mmembed.images import ImageReader
from mmembed.jobs.told_command import data_hashes, told_command
from mmembed.jobs.train_options import TrainOptions
from mmembed.pages import SheetHit, SheetRow, contact_sheet, text_table
from mmembed.ranking_metrics import UNRANKED
from mmembed.statistics import bootstrap_interval, paired_bootstrap


def summarise(rankings: Mapping[str, Ranking], *, ks: Sequence[int], samples: int, seed: int) -> dict[str, Any]:
    """Recall at each k and MRR of each direction, each with its 95 % bootstrap interval over queries.

    Recall@k is the share of a query's relevant documents among the top k. Where some query has several, success@k stands
    beside it: whether there is at least one, which image-text papers call R@k.

    Args:
        rankings: By way ("forward", "backward"), from `rank_retrieval`.
        ks: Cut-offs.
        samples: Resamples.
        seed: Seed of the resampling.

    Returns:
        Direction → {"n", "documents", metric → {"mean", "low", "high"}}, and "mean_recall" over ks and directions; where
        some query has several relevant documents also "mean_success".
    """
    summary: dict[str, Any] = {}
    kinds = ("recall", "success") if headline(rankings) == "success" else ("recall",)
    means: dict[str, list[float]] = {kind: [] for kind in kinds}
    for ranking in rankings.values():
        names = [f"{kind}@{k}" for kind in kinds for k in ks] + ["mrr"]
        figures: dict[str, Any] = {"n": len(ranking.query_ids), "documents": len(ranking.document_ids)}
        for name, values in ranking.per_query(names).items():
            interval = bootstrap_interval(values, samples=samples, seed=seed)
            figures[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            if name != "mrr":
                means[name.partition("@")[0]].append(interval.mean)
        summary[ranking.direction] = figures
    return summary | {f"mean_{kind}": float(np.mean(found)) for kind, found in means.items()}


def gains(before: Mapping[str, Ranking], after: Mapping[str, Ranking], *, samples: int, seed: int) -> dict[str, Any]:
    """The paired difference in the `headline` metric at 1 of each direction, after minus before, over the same queries.

    Args:
        before: Rankings by way.
        after: The same ways and queries.
        samples: Resamples.
        seed: Seed.

    Returns:
        Direction → {"mean", "low", "high", "p_value", "n"}.
    """
    found = {}
    metric = f"{headline(after)}@1"
    for way, ranking in after.items():
        one, two = (which[way].per_query([metric])[metric] for which in (after, before))
        difference = paired_bootstrap(one, two, samples=samples, seed=seed)
        found[ranking.direction] = {
            key: float(getattr(difference, key)) for key in ("mean", "low", "high", "p_value", "n")
        }
    return found


def write_queries(path: Path, rankings: Mapping[str, Ranking], queries: Dataset, documents: Dataset) -> None:
    """Keep where each query's documents stand, for `mmembed compare`.

    Args:
        path: The file of JSON lines.
        rankings: By way.
        queries: ITEMS of the queries.
        documents: ITEMS of the documents.
    """
    from mmembed.evaluation.query_results import query_results, write_query_results

    tables = {"forward": queries, "backward": documents}
    write_query_results(path, [query_results(ranking, tables[way]) for way, ranking in rankings.items()])


def results_table(rows: Mapping[str, Mapping[str, Any]], ks: Sequence[int]) -> str:
    """A terminal's table: one line for each direction and stage, each figure with its interval where it has one.

    Args:
        rows: Stage ("before", "after", a baseline) → direction → metric → {"mean", "low", "high"} or a number.
        ks: Cut-offs of recall; success@k has columns where a figure of it is there.

    Returns:
        The table.

    Example:
        >>> print(results_table({"after": {"text_to_image": {"n": 4, "recall@1": 0.5, "mrr": 0.625}}}, [1]))
        direction     model  recall@1  mrr   n
        ------------  -----  --------  ----  -
        text → image  after  .500      .625  4
    """
    figured = {
        name for stages in rows.values() for found in stages.values() if isinstance(found, Mapping) for name in found
    }
    success = [f"success@{k}" for k in ks if f"success@{k}" in figured]
    names = [f"recall@{k}" for k in ks] + success + ["mrr"]
    directions = list(dict.fromkeys(d for stages in rows.values() for d in stages if isinstance(stages[d], Mapping)))
    lines = []
    for direction in directions:
        for stage, figures in rows.items():
            if direction not in figures:
                continue
            cells = [_shown(figures[direction].get(name)) for name in names]
            lines.append([direction.replace("_to_", " → "), stage, *cells, str(figures[direction].get("n", ""))])
    return text_table(lines, ["direction", "model", *names, "n"])


def draw_sheet(
    path: str | os.PathLike[str],
    ranking: Ranking,
    queries: Dataset,
    documents: Dataset,
    reader: ImageReader,
    *,
    number: int,
    title: str,
    subtitle: str,
) -> Path:
    """A contact sheet of queries over the whole range of success: evenly spaced by the rank of what they look for.

    Args:
        path: The PNG.
        ranking: The direction to show, with its top documents.
        queries: ITEMS of the queries.
        documents: ITEMS of the documents.
        reader: Reads images.
        number: Queries to show.
        title: First line.
        subtitle: Second line.

    Returns:
        The path.
    """
    query_row = {id: row for row, id in enumerate(queries["id"][:])}
    document_row = {id: row for row, id in enumerate(documents["id"][:])}
    first = ranking.first_ranks()
    order = np.lexsort((np.arange(len(first)), np.where(first == UNRANKED, 1 << 30, first)))
    picked = order[np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(int)]
    by_image = ranking.direction.startswith("image")
    rows = []
    for row in picked:
        item = queries[query_row[ranking.query_ids[row]]]
        hits = []
        for id, score, correct in zip(ranking.top_ids(row), ranking.top_scores[row], ranking.hits(row)):
            document = documents[document_row[id]]
            image = reader.read(document["image"], id=id) if document["image"] else None
            hits.append(SheetHit(image, document["text"] if image is None else None, float(score), correct))
        shown = reader.read(item["image"], id=item["id"]) if by_image and item["image"] else None
        rows.append(SheetRow(None if shown is not None else item["text"], shown, hits))
    return contact_sheet(rows, path, title=title, subtitle=subtitle, columns=8)


def save_model(model: SentenceTransformer, folder: Path) -> None:
    """Save a model beside its place and move it there whole; a folder of the same name is replaced at the end.

    Args:
        model: The model.
        folder: Where it goes.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        whole = Path(scratch) / "model"
        model.save_pretrained(str(whole), create_model_card=False)
        if folder.exists():
            os.replace(folder, Path(scratch) / "old")
        os.replace(whole, folder)


def write_run_card(
    folder: Path, model: SentenceTransformer, measured: Mapping[str, Any], options: TrainOptions, args: Any
) -> Path:
    """Write the model card of a run: what it was trained on and how, and what it gained.

    Args:
        folder: The saved model, with its contact sheet.
        model: The model.
        measured: What stands in `metrics.json`.
        options: The run's options.
        args: The training arguments.

    Returns:
        The path of the card.
    """
    uses = {use for use in (options.query_use, options.document_use)} - {"any"}
    shown = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps",
             "weight_decay", "seed", "bf16")  # fmt: skip
    towers = [name for name in (options.text_tower, options.image_tower) if name]
    source = Path(options.items).name if options.items else "drawn catalogue"
    facts = CardFacts(
        name=Path(args.output_dir).name,
        inputs=[use for use in ("text", "image", "fused") if use in uses] or ["text", "image", "fused"],
        dimensions=model.get_embedding_dimension(),
        base_model=options.model or towers or None,
        languages=options.language,
        license=options.license,
        training_data={**measured["data"], "source": source},
        losses=[f"{args.loss} {json.dumps(args.loss_arguments, sort_keys=True)}"],
        hyper_parameters={**{name: str(getattr(args, name)) for name in shown}, "world size": args.world_size},
        results={"before": measured["before"], "after": measured["after"], **measured.get("references", {})},
        evaluated_on=EvaluationData(source, "test"),
        gains=measured["gain"],
        gain_metric=measured["gain_metric"],
        contact_sheet="contact_sheet.png",
        command=told_command("train", options),
        data_hashes=data_hashes([options.items, options.documents, options.pairs]),
        limitations=_limits(source, measured, options),
    )
    return write_card(folder, facts)


def _limits(source: str, measured: Mapping[str, Any], options: TrainOptions) -> str:
    """What the figures do not say."""
    counts = {figures["n"] for figures in measured["after"].values() if isinstance(figures, Mapping)}
    queries = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"
    languages = (
        f" Its texts are in {', '.join(options.language)}; others were not looked at." if options.language else ""
    )
    return (
        f"The figures are of {queries} held-out queries of {source}, the same source that it was trained on. Nothing was "
        f"measured on other products, photographs or shops.{languages}"
    )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON aside and move it into place."""
    temporary = f"{os.fspath(path)}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.replace(temporary, path)


def _shown(figure: Any) -> str:
    if figure is None:
        return ""
    if not isinstance(figure, Mapping):
        return f"{figure:.3f}".lstrip("0")
    values = [f"{figure[key]:.3f}".lstrip("0") for key in ("mean", "low", "high")]
    return f"{values[0]} [{values[1]}, {values[2]}]"
