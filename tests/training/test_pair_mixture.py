"""Shares of an epoch against counting, and a mixture in the trainer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmembed.data.samplers import DistinctBatchSampler
from mmembed.data.schema import DataError
from mmembed.data.training_pairs import TrainingPairs
from mmembed.training.pair_mixture import PairMixture, pairs_with_prefix, replay_rows, with_prefix
from tests.training.tiny_runs import items, make_trainer, pairs


def source(name: str, rows: int, **arguments) -> TrainingPairs:
    table = with_prefix(items(rows, text=[f"{name} word{row}" for row in range(rows)]), name)
    return TrainingPairs(table, table, pairs_with_prefix(pairs(rows), name), show_progress_bar=False, **arguments)


def drawn(mixture: PairMixture, epoch: int, seed: int = 0) -> list[str]:
    rows = (mixture.draw(row, seed=seed, epoch=epoch) for row in range(len(mixture)))
    found = []
    for query, documents, _ in rows:
        id = mixture.queries[query]["id"]
        assert mixture.documents[documents[0]]["id"] == id  # row i finds item i, in its own source
        found.append(id)
    return found


def test_an_epoch_has_the_shares_that_were_asked_for() -> None:
    mixture = PairMixture({"a": source("a", 10), "b": source("b", 30)}, {"a": 3, "b": 1})
    assert len(mixture) == 40 and mixture.counts == {"a": 30, "b": 10}
    for epoch in range(3):
        assert Counter(id[0] for id in drawn(mixture, epoch)) == {"a": 30, "b": 10}
    # every row of the small source comes three times an epoch, each of the large one once in three epochs
    assert set(Counter(id for id in drawn(mixture, 1) if id[0] == "a").values()) == {3}
    large = Counter(id for epoch in range(3) for id in drawn(mixture, epoch) if id[0] == "b")
    assert len(large) == 30 and set(large.values()) == {1}


def test_draws_are_a_function_of_seed_and_epoch() -> None:
    one, two = (PairMixture({"a": source("a", 7), "b": source("b", 5)}, {"a": 1, "b": 1}) for _ in range(2))
    drawn(one, 4)
    assert drawn(one, 2) == drawn(two, 2)
    assert drawn(one, 2) != drawn(one, 3) and drawn(one, 2) != drawn(one, 2, seed=1)
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != PairMixture({"a": source("a", 7), "b": source("b", 5)}, {"a": 2, "b": 1}).fingerprint()
    assert one.fingerprint() != PairMixture({"a": source("a", 8), "b": source("b", 4)}, {"a": 1, "b": 1}).fingerprint()


def test_keys_and_ids_are_those_of_the_rows_drawn() -> None:
    mixture = PairMixture({"a": source("a", 6), "b": source("b", 4)}, {"a": 1, "b": 2})
    for epoch in (0, 3):
        keys = mixture.pair_keys(seed=5, epoch=epoch)
        assert mixture.ids == drawn(mixture, epoch, seed=5)
        for row in range(len(mixture)):
            assert np.array_equal(keys[row].reshape(2, 3), mixture.row_keys(row, seed=5, epoch=epoch))


def test_batches_keep_a_repeated_row_from_itself() -> None:
    mixture = PairMixture({"a": source("a", 3), "b": source("b", 9)}, {"a": 1, "b": 1})
    sampler = DistinctBatchSampler(mixture, batch_size=4)
    for batch in sampler:
        ids = [mixture.queries[mixture.draw(row, seed=0, epoch=0)[0]]["id"] for row in batch]
        assert len(set(ids)) == len(ids)


def test_replay_leaves_the_share_it_says() -> None:
    own, earlier = source("new", 30), source("old", 100)
    mixture = PairMixture({"new": own, "old": earlier}, {"new": 0.75, "old": 0.25}, replay_rows(30, 0.25))
    assert mixture.counts == {"new": 30, "old": 10}
    with pytest.raises(ValueError, match="replay=1"):
        replay_rows(30, 1.0)


def test_sources_may_have_other_columns() -> None:
    table = items(3).remove_columns("group").add_column("price", [1, 2, 3])
    shop = with_prefix(table, "a")
    assert shop.column_names == ["id", "text", "image", "group"] and shop["group"][:] == [None] * 3
    mixture = PairMixture(
        {"a": TrainingPairs(shop, shop, None, show_progress_bar=False), "b": source("b", 3)}, {"a": 1, "b": 1}
    )
    assert [id[0] for id in mixture.queries["id"][:]] == ["a"] * 3 + ["b"] * 3


def test_it_trains(tmp_path: Path) -> None:
    mixture = PairMixture({"a": source("a", 8), "b": source("b", 8)}, {"a": 1, "b": 3})
    result = make_trainer(tmp_path, mixture, num_train_epochs=2).train()
    assert result.global_step == 8
    workers = make_trainer(tmp_path / "workers", mixture, num_train_epochs=1, dataloader_num_workers=2).train()
    assert workers.global_step == 4


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="document_use is 'text' in 'b'"):
        PairMixture({"a": source("a", 3), "b": source("b", 3, document_use="text")}, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="share of 'a' is 0"):
        PairMixture({"a": source("a", 3)}, {"a": 0})
    with pytest.raises(ValueError, match="give each source its share"):
        PairMixture({"a": source("a", 3)}, {"b": 1})
    with pytest.raises(DataError, match="less than one row"):
        PairMixture({"a": source("a", 3), "b": source("b", 3)}, {"a": 1, "b": 1000})
    table = with_prefix(items(2), "a")
    prompted = Dataset.from_dict(
        {"query_id": ["a/i0"], "positive_ids": [["a/i1"]], "negative_ids": [[]], "prompt": ["find: "]}
    )
    with pytest.raises(DataError, match="cannot carry prompts"):
        PairMixture({"a": TrainingPairs(table, table, prompted, show_progress_bar=False)}, {"a": 1})
