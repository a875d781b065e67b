"""Which rankings an evaluation makes, and what is kept of each query for a later comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.evaluation.ranking import Ranking
    from mmembed.jobs.measurement import Measurement


def ranked_tables(measurement: Measurement) -> tuple[Dataset, Dataset]:
    """The tables of queries and documents; of one table only rows that ask, where a row is asked for another way."""
    options, part = measurement.options, measurement.data.measured
    queries, documents = part.queries, part.documents
    if measurement.data.is_one_table and (options.directions == "every" or options.query_use != options.document_use):
        wanted = set(part.pairs["query_id"][:])
        rows = [row for row, id in enumerate(queries["id"][:]) if id in wanted]
        queries = documents = queries if len(rows) == len(queries) else queries.select(rows)
    return queries, documents


def measured_rankings(measurement: Measurement, queries: Dataset, documents: Dataset) -> dict[str, Ranking]:
    """Rank by the directions that are asked for.

    Args:
        measurement: The options, the relations and the vectors.
        queries: From `ranked_tables`.
        documents: From `ranked_tables`.

    Returns:
        A ranking by way ("forward", "backward"), or by direction (``text_to_image``, …) for `directions` "every".
    """
    from mmembed.evaluation.directions import rank_directions
    from mmembed.evaluation.ranking import rank_retrieval

    options, vectors, pairs = measurement.options, measurement.vectors, measurement.data.measured.pairs
    if options.directions == "every":
        uses: list[list[Any]] = [vectors.uses(table) for table in (queries, documents)]
        of_itself = measurement.data.is_one_table and _are_of_themselves(pairs)
        arrays = [{use: vectors.array(table, use) for use in own} for table, own in zip((queries, documents), uses)]
        return rank_directions(
            (arrays[0], arrays[1]),
            queries,
            documents,
            None if of_itself else pairs,
            query_uses=uses[0],
            document_uses=uses[1],
            exclude_same_id=options.exclude_same_id,
        )
    use, other = options.query_use, options.document_use
    return dict(
        rank_retrieval(
            (vectors.array(queries, use), vectors.array(documents, other)),
            queries,
            documents,
            pairs,
            query_use=use,  # type: ignore[arg-type]  # "any" was refused
            document_use=other,  # type: ignore[arg-type]
            directions=options.directions,
            k=10,
            exclude_same_id=options.exclude_same_id,
        )
    )


def query_clusters(measurement: Measurement) -> dict[str, list[str]] | None:
    """By way, the group of each query, where there are groups of several queries."""
    part = measurement.data.measured
    if not measurement.options.cluster_by_group:
        return None
    group_of = {}
    for name, table in (("forward", part.queries), ("backward", part.documents)):
        groups = table["group"][:] if "group" in table.column_names else [None] * len(table)
        # the prefixes keep a group from meeting an id of the same name
        named = (f"id {id}" if group is None else f"group {group}" for id, group in zip(table["id"][:], groups))
        group_of[name] = dict(zip(table["id"][:], named))
    return {
        way: [group_of["backward" if way == "backward" else "forward"][id] for id in ranking.query_ids]
        for way, ranking in measurement.rankings.items()
    }


def keep_query_results(measurement: Measurement, path: Path) -> None:
    """Write where each query's documents stand, for `mmembed compare`."""
    from mmembed.evaluation.query_results import query_results, write_query_results

    queries, documents = ranked_tables(measurement)
    results = []
    for way, ranking in measurement.rankings.items():
        asked = documents if way == "backward" else queries
        labels = [name for name in measurement.labels if name in asked.column_names]
        results.append(query_results(ranking, asked, labels=labels))
    write_query_results(path, results)


def _are_of_themselves(pairs: Dataset) -> bool:
    return all(found == [id] for id, found in zip(pairs["query_id"][:], pairs["positive_ids"][:]))
