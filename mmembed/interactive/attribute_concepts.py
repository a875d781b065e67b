"""Which attributes belong together, so that one question can ask about all of them?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.interactive.attribute_table import AttributeTable, Slot

_DIMENSIONS = 60  # of the vectors of co-occurrence

#: Attributes of one table; a question about a concept asks whether any of them holds.
Concept = tuple[str, ...]


def find_concepts(
    table: AttributeTable, vectors: ArrayLike | None = None, *, smallest: int = 2, largest: int = 40
) -> list[Concept]:
    """Group attributes by how alike they are: every node of a tree that joins the two likest groups first.

    One word says little of a picture, since people call one thing by many names and leave much unsaid. That any of
    "couch, sofa, living, room, television" is said is more certain, and nearer to half of all pictures.

    Args:
        table: the attributes.
        vectors: (attributes, dim), one for each in the table's order, such as `attribute_vectors` gives; None: by which
            attributes they stand with, the singular vectors of their positive pointwise mutual information.
        smallest: attributes of a concept at least.
        largest: attributes of a concept at most.

    Returns:
        The concepts, small ones first, the commonest attribute of each first.

    Raises:
        DataError: vectors that are not those of the attributes.

    Example:
        >>> slot = Slot("word", ("cat", "dog", "fork", "plate"), exclusive=False)
        >>> table = AttributeTable(["a", "b", "c"], [slot], [np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1]], bool)])
        >>> find_concepts(table, [[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]], largest=2)
        [('word=fork', 'word=plate'), ('word=cat', 'word=dog')]
    """
    from scipy.cluster.hierarchy import linkage

    if not 2 <= smallest <= largest:
        raise ValueError(f"smallest={smallest}, largest={largest}; a concept has at least two attributes")
    points = _co_occurrence_vectors(table) if vectors is None else np.asarray(vectors, dtype=np.float64)
    count = len(table.attributes)
    if points.ndim != 2 or len(points) != count or not np.isfinite(points).all():
        raise DataError(f"vectors of shape {points.shape} for {count} attributes", file="attributes")
    lengths = np.linalg.norm(points, axis=1)
    placed = np.flatnonzero(lengths > 0)  # an attribute that stands with no other belongs to no concept
    if len(placed) < 2:
        return []
    tree = linkage(points[placed] / lengths[placed, None], method="average", metric="cosine")
    members: list[list[int]] = [[place] for place in placed.tolist()]
    for left, right, *_ in tree:
        members.append(members[int(left)] + members[int(right)])
    rates = table.base_rates
    return [
        tuple(table.attributes[place] for place in sorted(node, key=lambda at: (-rates[at], table.attributes[at])))
        for node in members[len(placed) :]
        if smallest <= len(node) <= largest
    ]


def attribute_vectors(table: AttributeTable, embeddings: Embeddings) -> NDArray[np.float32]:
    """Where each attribute lies among the candidates: the mean vector of those that have it, less the mean of all.

    Args:
        table: the attributes.
        embeddings: of the table's candidates.

    Returns:
        float32 (attributes, dim); zeros where no candidate has it.

    Raises:
        DataError: a candidate without a vector.
    """
    vectors = np.asarray(embeddings.vectors[embeddings.rows(table.ids)], dtype=np.float32)
    held = table.filled(np.arange(len(table)))
    total = held.sum(axis=0)[:, None]
    found = held.T @ vectors / np.maximum(total, 1e-9) - vectors.mean(axis=0)
    return np.where(total > 0, found, 0).astype(np.float32)


def with_concepts(table: AttributeTable, concepts: Sequence[Concept], *, slot: str = "concept") -> AttributeTable:
    """The table and a further slot, whose values say whether any attribute of a concept holds.

    Args:
        table: the attributes; facts or probabilities.
        concepts: from `find_concepts`, of this table or of another with the same attributes.
        slot: the name of the new slot.

    Returns:
        The table. Of probabilities any = 1 − Π (1 − p) is taken, as if the attributes were independent, and their sum
        within a slot whose values exclude each other. Where one of them is not known, the concept is not known.

    Raises:
        DataError: an attribute that the table lacks, or a slot of that name.

    Example:
        >>> words = Slot("word", ("cat", "dog", "fork"), exclusive=False)
        >>> table = AttributeTable(["a", "b"], [words], [np.array([[0.5, 0.5, 0], [0, 0, 1]])])
        >>> both = with_concepts(table, [("word=cat", "word=dog")])
        >>> both.attributes[-1], both.probabilities(np.array([0, 1]))[:, -1].tolist()
        ('concept=cat, dog', [0.75, 0.0])
    """
    if not concepts:
        return table
    columns = np.ones((len(table), len(concepts)), dtype=np.float32)
    held = table.probabilities(np.arange(len(table)))
    exclusive = {one.name for one in table.slots if one.exclusive}
    slots = [one.name for one in table.slots for _ in one.values]
    names = []
    for number, concept in enumerate(concepts):
        places = [_place(table, attribute) for attribute in concept]
        together: dict[str, list[int]] = {}
        for place in places:
            alone = slots[place] not in exclusive
            together.setdefault(f"{place}" if alone else f"={slots[place]}", []).append(place)
        for group in together.values():
            columns[:, number] *= 1 - np.clip(held[:, group].sum(axis=1), 0, 1)
        names.append(", ".join(table.attributes[place].partition("=")[2] for place in places))
    if len(set(names)) < len(names):
        names = [", ".join(concept) for concept in concepts]  # of several slots
    every = [*table.slots, Slot(slot, tuple(names), exclusive=False)]
    return AttributeTable(table.ids, every, [*table.columns, 1 - columns])


def _place(table: AttributeTable, attribute: str) -> int:
    place = table.place(attribute)
    if place is None:
        raise DataError(
            f"no attribute {attribute!r}; concepts are of a table with the same attributes", file="attributes"
        )
    return place


def _co_occurrence_vectors(table: AttributeTable) -> NDArray[np.float64]:
    held = table.filled(np.arange(len(table))).astype(np.float64)
    counts = held.T @ held
    np.fill_diagonal(counts, 0)
    total = counts.sum()
    if total == 0:
        return np.zeros((len(counts), 1))
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(counts > 0, np.maximum(np.log(counts / expected), 0), 0)
    left, values, _ = np.linalg.svd(information)
    kept = min(_DIMENSIONS, len(values))
    return left[:, :kept] * np.sqrt(values[:kept])
