"""What is drawn for a row, and what is refused before training starts."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset

from mmembed.data.keys import group_key, text_key
from mmembed.data.schema import DataError
from mmembed.data.training_pairs import TrainingPairs


def items(n: int, prefix: str = "i", **columns: list) -> Dataset:
    base = {
        "id": [f"{prefix}{k}" for k in range(n)],
        "text": [f"text {k}" for k in range(n)],
        "image": [None] * n,
        "group": [f"g{k}" for k in range(n)],
    }
    return Dataset.from_dict({**base, **columns})


def pairs(**columns: list) -> Dataset:
    return Dataset.from_dict(
        {"query_id": ["i0"], "positive_ids": [["i1", "i2"]], "negative_ids": [["i3", "i4"]], **columns}
    )


def build(**arguments) -> TrainingPairs:
    table = items(6)
    arguments = {"pairs": pairs(), "document_use": "text", **arguments}
    return TrainingPairs(table, table, **arguments)


def test_one_positive_an_epoch_each_as_often() -> None:
    data = build()
    drawn = Counter(data.draw(0, seed=0, epoch=epoch)[1][0] for epoch in range(400))
    assert set(drawn) == {1, 2} and 150 < drawn[1] < 250
    assert data.draw(0, seed=0, epoch=7) == data.draw(0, seed=0, epoch=7)
    assert any(data.draw(0, seed=0, epoch=e) != data.draw(0, seed=1, epoch=e) for e in range(20))


def test_negatives_are_distinct_until_there_are_no_more() -> None:
    two = build(num_negatives=2)
    assert {tuple(sorted(two.draw(0, seed=0, epoch=e)[1][1:])) for e in range(20)} == {(3, 4)}
    assert len({tuple(two.draw(0, seed=0, epoch=e)[1][1:]) for e in range(20)}) == 2  # both orders come
    three = build(num_negatives=3).draw(0, seed=0, epoch=0)[1][1:]
    assert set(three) == {3, 4} and len(three) == 3


def test_teacher_scores_stand_with_the_documents_drawn() -> None:
    given = {"positive_scores": [[0.9, 0.8]], "negative_scores": [[0.2, 0.1]]}
    data = build(pairs=pairs(**given), teacher_scores=True, num_negatives=2)
    bare = build(num_negatives=2)
    score_of = {1: 0.9, 2: 0.8, 3: 0.2, 4: 0.1}
    seen = set()
    for epoch in range(20):
        query, documents, scores = data.draw(0, seed=0, epoch=epoch)
        assert (query, documents, None) == bare.draw(0, seed=0, epoch=epoch)
        assert scores == [score_of[document] for document in documents]
        seen.add(tuple(documents))
    assert len(seen) > 2
    with pytest.raises(ValueError, match="choose one"):
        build(pairs=pairs(**given), scored=True, teacher_scores=True)


def test_scored_rows_carry_the_score_of_the_document_drawn() -> None:
    data = build(pairs=pairs(positive_scores=[[0.9, 0.8]], negative_scores=[[0.2, 0.1]]), scored=True)
    of = {1: 0.9, 2: 0.8, 3: 0.2, 4: 0.1}
    for epoch in range(20):
        _, documents, score = data.draw(0, seed=0, epoch=epoch)
        assert score == of[documents[0]]


def test_keys_are_those_of_the_drawn_rows() -> None:
    data = build(num_negatives=1)
    for epoch in range(5):
        query, documents, _ = data.draw(0, seed=3, epoch=epoch)
        keys = data.row_keys(0, seed=3, epoch=epoch)
        assert keys.shape == (3, 3)
        assert keys[:, 0].tolist() == [group_key(f"g{row}") for row in [query, *documents]]
        assert keys[1, 1] == text_key(f"text {documents[0]}") and keys[:, 2].tolist() == [0, 0, 0]
        assert data.pair_keys(seed=3, epoch=epoch)[0].tolist() == keys[:2].flatten().tolist()


def test_any_use_is_drawn_by_item_and_epoch() -> None:
    table = items(3, image=[{"bytes": b"x", "path": None}] * 3)
    data = TrainingPairs(table, table, query_use="any", document_use="image", show_progress_bar=False)
    uses = {data.draw_use("query", 0, seed=0, epoch=epoch) for epoch in range(30)}
    assert uses == {"text", "image", "fused"} and data.draw_use("positive", 0, seed=0, epoch=0) == "image"


def test_without_pairs_items_with_both_go_with_themselves() -> None:
    table = items(3, image=[{"bytes": b"x", "path": None}, None, {"bytes": b"y", "path": None}])
    data = TrainingPairs(table, table, show_progress_bar=False)
    assert data.ids == ["i0", "i2"] and data.draw(1, seed=0, epoch=0)[:2] == (2, [2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"document_use": "image"}, "row 1: field 'image': 4 items have none, first 'i1'"),
        ({"num_negatives": 1, "pairs": pairs(negative_ids=[[]])}, "no negative_ids, first 'i0'"),
        ({"scored": True}, "field 'positive_scores'"),
        ({"pairs": pairs(positive_ids=[["i9"]])}, "i9"),
        ({"query_use": "picture"}, "query_use='picture'"),
    ],
)
def test_what_cannot_train_is_refused_with_its_place(arguments: dict, message: str) -> None:
    with pytest.raises((DataError, ValueError)) as error:
        build(**arguments)
    assert message in str(error.value)
