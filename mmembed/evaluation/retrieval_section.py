"""What a report shows of a retrieval: its numbers, those of each language or category, and the queries that went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmembed.evaluation.breakdown import breakdown, labels_of
from mmembed.evaluation.hit_sheets import worst_first
from mmembed.evaluation.page_figures import ladder_png
from mmembed.evaluation.page_images import thumbnail_bytes
from mmembed.evaluation.ranking import Ranking, headline
from mmembed.evaluation.retrieval import retrieval_metrics
from mmembed.evaluation.sections import Figure, Hit, HitList, Section, Table
from mmembed.images import ImageReader
from mmembed.ranking_metrics import UNRANKED
from mmembed.statistics import PairedDifference, paired_bootstrap

_VALUES = 40  # of a label that a table shows


def retrieval_section(
    rankings: Mapping[str, Ranking],
    queries: Any,
    documents: Any,
    *,
    reader: ImageReader | None = None,
    label_columns: Sequence[str] = (),
    before: Mapping[str, Ranking] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    max_hit_lists: int = 60,
    bootstrap_samples: int = 2000,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Section:
    """Turn rankings into a section of a report.

    Args:
        rankings: By way, from `rank_retrieval` with k of at least 10, or by direction, from `rank_directions`.
        queries: ITEMS of the queries.
        documents: ITEMS of the documents.
        reader: Reads the images of both; None shows none.
        label_columns: Columns of the queries to break the numbers down by, and to filter hit lists by.
        before: Rankings of another model of the same queries: each hit list then says whether its rank got better.
        ks: Cut-offs.
        max_hit_lists: Queries to show, of the first way.
        bootstrap_samples: Resamples for the intervals; 0 gives none.
        groups: By way, the group of each query; groups are resampled whole.
        seed: Seed of the resampling.

    Returns:
        The section "retrieval"; its primary metric is the first direction's recall at the smallest k, or success where
        queries have several right documents, see `headline`.

    Raises:
        ImportError: Without matplotlib, which draws the figure.

    Example:
        >>> import numpy as np
        >>> from mmembed.evaluation.ranking import rank_retrieval
        >>> items = {"id": ["a", "b"], "text": ["hat", "mug"], "language": ["en", "ru"]}
        >>> rankings = rank_retrieval((np.eye(2), np.eye(2)[[0, 0]]), items, items)
        >>> section = retrieval_section(rankings, items, items, label_columns=["language"])
        >>> section.primary, section.metrics[section.primary], section.metrics["text_to_image_n"]
        ('text_to_image_recall@1', 0.0, 2.0)
        >>> [table.name for table in section.tables], [one.query_id for one in section.hits]
        (['by-language'], ['a', 'b'])
    """
    metrics = retrieval_metrics(rankings, ks=ks, bootstrap_samples=bootstrap_samples, groups=groups, seed=seed)
    way, first = next(iter(rankings.items()))
    asked, found = (documents, queries) if way == "backward" else (queries, documents)
    columns = [name for name in label_columns if name in _columns(asked)]
    kind = headline(rankings)
    hits = _hit_lists(first, asked, found, reader, columns, None if before is None else before[way], max_hit_lists)
    notes = ["A right document that scores the same as a wrong one stands behind it: ties never help."]
    if kind == "success":
        notes.append(
            "Some queries have several right documents: success@k says that one of them is among the first k (papers on "
            "images and texts call it R@k), recall@k which share of them."
        )
    if len(hits) < len(first.query_ids):
        notes.append(
            f"The hit sheets show {len(hits):,} of {len(first.query_ids):,} queries, two thirds of them the worst."
        )
    return Section(
        "retrieval",
        "Retrieval",
        metrics,
        f"{first.direction}_{kind}@{min(ks)}",
        [
            _by_label(
                first, asked, column, name, kind, ks, None if groups is None else groups[way], bootstrap_samples, seed
            )
            for column, name in _names(columns)
        ],
        [_recall_figure(rankings, metrics, ks)],
        hits,
        notes,
    )


def retrieval_differences(
    before: Mapping[str, Ranking],
    after: Mapping[str, Ranking],
    *,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap_samples: int = 2000,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """How much a second model finds more than a first one, over the same queries.

    Args:
        before: Rankings of the first, by way.
        after: Rankings of the second, of the same ways and queries.
        ks: Cut-offs.
        bootstrap_samples: Resamples.
        groups: By way, the group of each query.
        seed: Seed of the resampling.

    Returns:
        Metric → the paired difference, second minus first, for recall at each k and MRR of each direction; for success
        too, where queries have several right documents.

    Raises:
        ValueError: The two are not of the same queries.

    Example:
        >>> import numpy as np
        >>> from mmembed.evaluation.ranking import rank_retrieval
        >>> worse, better = (rank_retrieval((np.eye(2), vectors), ["a", "b"], ["a", "b"], directions="forward")
        ...     for vectors in (np.eye(2)[[0, 0]], np.eye(2)))
        >>> retrieval_differences(worse, better)["text_to_image_recall@1"].mean
        1.0
    """
    differences = {}
    for way, ranking in after.items():
        if way not in before or before[way].query_ids != ranking.query_ids:
            raise ValueError(
                f"{way}: the two rankings are not of the same queries, so they cannot be compared in pairs"
            )
        names = [f"{kind}@{k}" for kind in _kinds(after) for k in ks] + ["mrr"]
        old, new = before[way].per_query(names), ranking.per_query(names)
        for name in names:
            differences[f"{ranking.direction}_{name}"] = paired_bootstrap(
                new[name],
                old[name],
                samples=max(1, bootstrap_samples),
                seed=seed,
                clusters=None if groups is None else groups[way],
            )
    return differences


def _by_label(
    ranking: Ranking,
    asked: Any,
    column: str,
    name: str,
    kind: str,
    ks: Sequence[int],
    clusters: Sequence[str] | None,
    bootstrap_samples: int,
    seed: int,
) -> Table:
    smallest = f"{kind}@{min(ks)}"
    shown = [smallest, *([f"{kind}@{max(ks)}"] if len(ks) > 1 else []), "mrr"]
    labels = labels_of(asked, column, ranking.query_ids)
    parts = breakdown(ranking.per_query(shown), labels, clusters=clusters, samples=bootstrap_samples, seed=seed)
    rows: list[list[str | float | int | None]] = []
    for part in parts[:_VALUES]:
        first = part.figures[smallest]
        ends = (first.low, first.high) if bootstrap_samples else (None, None)
        others = [part.figures[metric].mean for metric in shown[1:]]
        rows.append([part.label or "(none)", first.mean, *ends, *others, part.n])
    said = f"{ranking.direction.replace('_', ' ')}, {len(labels):,} queries"
    if len(parts) > len(rows):
        said += f", the {len(rows)} most frequent of {len(parts)} values"
    header = [column, smallest, "95 % from", "to", *shown[1:], "n"]
    return Table(name, f"By {column}", header, rows, said + ".")


def _names(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Each column with the name of its table's file, which has no other signs than a file's name may have."""
    named: dict[str, str] = {}
    for at, column in enumerate(columns, start=1):
        plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_") else "-" for sign in column)
        name = f"by-{plain.strip('-')[:60] or at}"
        named[column] = name if name not in named.values() else f"{name}-{at}"
    return list(named.items())


def _kinds(rankings: Mapping[str, Ranking]) -> list[str]:
    return ["recall"] if headline(rankings) == "recall" else ["success", "recall"]


def _recall_figure(rankings: Mapping[str, Ranking], metrics: Mapping[str, float], ks: Sequence[int]) -> Figure:
    steps, rows = [], []
    for ranking in rankings.values():
        for name in [f"{kind}@{k}" for kind in _kinds(rankings) for k in ks] + ["mrr"]:
            key = f"{ranking.direction}_{name}"
            ends = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
            steps.append((f"{ranking.direction.replace('_', ' ')}, {name}", metrics[key], *ends))
            rows.append([ranking.direction, name, metrics[key], *ends, int(metrics[f"{ranking.direction}_n"])])
    counts = ", ".join(
        f"{ranking.direction.replace('_', ' ')} {len(ranking.query_ids):,} queries × {len(ranking.document_ids):,} documents"
        for ranking in rankings.values()
    )
    table = Table("recall", "Recall and MRR", ["direction", "metric", "value", "95 % from", "to", "n"], rows)
    png = ladder_png("", steps, label="share, with its 95 % interval")
    return Figure("recall", "Recall and MRR", png, table, f"Intervals by bootstrap over queries; {counts}.")


def _hit_lists(
    ranking: Ranking,
    asked: Any,
    found: Any,
    reader: ImageReader | None,
    columns: Sequence[str],
    before: Ranking | None,
    limit: int,
) -> list[HitList]:
    query_row = {id: row for row, id in enumerate(asked["id"])}
    document_row = {id: row for row, id in enumerate(found["id"])}
    # a query that is asked by its picture alone shows no words that the model never saw, and the other way round
    sides = ranking.direction.removesuffix("_backward").split("_to_")
    first = [None if rank == UNRANKED else int(rank) for rank in ranking.first_ranks()]
    rows = {id: row for row, id in enumerate(ranking.query_ids)}
    old_ranks = {} if before is None else dict(zip(before.query_ids, before.first_ranks().tolist()))
    drawn: dict[str, bytes | None] = {}
    lists = []
    for light in worst_first([HitList(id, (), rank) for id, rank in zip(ranking.query_ids, first)], limit):
        row = rows[light.query_id]
        item = _row(asked, query_row[light.query_id])
        hits = []
        for id, score, relevant in zip(ranking.top_ids(row)[:10], ranking.top_scores[row], ranking.hits(row)):
            document = _row(found, document_row[id])
            if id not in drawn:
                drawn[id] = _thumbnail(document, reader)
            hits.append(Hit(id, float(score), bool(relevant), document.get("text"), drawn[id]))
        labels = {column: str(item[column]) for column in columns if item[column] is not None}
        if before is not None:
            labels["change"] = _change(old_ranks[light.query_id], light.first_rank)
        text = None if sides[0] == "image" else item.get("text")
        image = None if sides[0] == "text" else _thumbnail(item, reader)
        lists.append(HitList(light.query_id, hits, light.first_rank, text, image, labels))
    return lists


def _change(old: int, rank: int | None) -> str:
    new = UNRANKED if rank is None else rank
    return "better than before" if new < old else "worse than before" if new > old else "as before"


def _row(table: Any, row: int) -> dict[str, Any]:
    if hasattr(table, "column_names"):
        return dict(table[row])
    return {name: table[name][row] for name in table}


def _columns(table: Any) -> list[str]:
    return list(getattr(table, "column_names", table))


def _thumbnail(item: Mapping[str, Any], reader: ImageReader | None) -> bytes | None:
    if reader is None or item.get("image") is None:
        return None
    picture = reader.read(item["image"], id=item["id"])
    return None if picture is None else thumbnail_bytes(picture)
