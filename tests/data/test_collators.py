"""A batch is a function of rows, seed and epoch: whoever makes it, in whatever order, with whatever was drawn before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from mmembed.data.augment import Augmentation
from mmembed.data.collators import PairCollator, with_activations
from mmembed.data.keys import bytes_key, group_key, text_key
from mmembed.data.training_pairs import TrainingPairs
from mmembed.images import ImageReader
from tests.tiny_models import tiny_dual_encoder
from tests.training.tiny_runs import AUGMENTATION, items, pairs, png, training_pairs

ROWS = [{"row": row} for row in range(6)]


@pytest.fixture(scope="module")
def preprocess():
    return tiny_dual_encoder().preprocess


@pytest.fixture(scope="module")
def data() -> TrainingPairs:
    """Everything that can be drawn is."""
    table = items(8)
    return TrainingPairs(
        table, table, pairs(8, positives=3, negatives=3), "any", "any", num_negatives=2, show_progress_bar=False
    )


def collator(data: TrainingPairs, preprocess: Any, epoch: int = 0, **settings: Any) -> PairCollator:
    clock = torch.full((1,), epoch, dtype=torch.int64).share_memory_()
    settings = {"reader": ImageReader(), "augmentation": Augmentation(**AUGMENTATION), **settings}
    return PairCollator(data, preprocess, epoch=clock, **settings)


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert list(one) == list(two)
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        assert same, name


def test_the_same_rows_and_epoch_give_the_same_batch_whatever_the_global_generators_say(data, preprocess) -> None:
    one = collator(data, preprocess)(ROWS)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert_same(one, collator(data, preprocess)(ROWS))
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_another_epoch_or_seed_gives_another(data, preprocess) -> None:
    one = collator(data, preprocess)(ROWS)
    for other in (collator(data, preprocess, epoch=1), collator(data, preprocess, seed=1)):
        two = other(ROWS)
        assert not torch.equal(one["label"], two["label"])
        assert one["positive_pixel_values"].shape != two["positive_pixel_values"].shape or not torch.equal(
            one["positive_pixel_values"], two["positive_pixel_values"]
        )


def test_a_row_is_made_the_same_in_any_company_and_order(data, preprocess) -> None:
    """Its keys and its pixels; how far its text is padded is the batch's business."""
    collate = collator(data, preprocess)
    together = collate(ROWS[::-1])
    for position, row in enumerate(ROWS[::-1]):
        alone = collate([row])
        assert torch.equal(alone["label"][0], together["label"][position])
        for column in ("query", "positive", "negative_1", "negative_2"):
            mask = together[f"{column}_attention_mask"][position].bool()
            own = alone[f"{column}_attention_mask"][0].bool()
            ids = alone[f"{column}_input_ids"][0][own], together[f"{column}_input_ids"][position][mask]
            assert torch.equal(*ids)
            counts = together.get(f"{column}_num_images_per_sample")
            if f"{column}_pixel_values" in alone:
                at = int(counts[:position].sum())
                assert torch.equal(alone[f"{column}_pixel_values"][0], together[f"{column}_pixel_values"][at])
            else:
                assert counts is None or counts[position] == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_make_the_same_batches_and_see_the_epoch_that_is_told(data, preprocess, workers: int) -> None:
    collate = collator(data, preprocess)
    rows = Dataset.from_dict({"row": list(range(8))})
    batches = [[5, 2, 7], [0, 1], [6, 3, 4]]
    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate, num_workers=workers, persistent_workers=True)
    for epoch in (0, 3, 1):
        collate.epoch.fill_(epoch)
        for batch, numbers in zip(loader, batches):
            assert_same(batch, collator(data, preprocess, epoch=epoch)([{"row": number} for number in numbers]))


def test_labels_are_the_keys_of_what_was_drawn(preprocess) -> None:
    table = items(4)
    data = TrainingPairs(table, table, pairs(4, negatives=1), num_negatives=1, show_progress_bar=False)
    label = collator(data, preprocess)([{"row": 2}])["label"]
    wanted = [
        [group_key(f"g{k}"), text_key(table["text"][k]), bytes_key(png(k))] for k in (2, 2, 3)
    ]  # query, positive, negative
    assert label.dtype == torch.int64 and label.tolist() == [wanted]


def test_scores_are_labels_where_they_are_asked_for(preprocess) -> None:
    data = training_pairs(6, negatives=1, scored=True)
    batch = collator(data, preprocess, labels="score")(ROWS)
    assert batch["label"].dtype == torch.float32 and set(batch["label"].tolist()) <= {
        float(np.float32(0.9)),
        float(np.float32(0.1)),
    }
    assert "label" not in collator(training_pairs(6), preprocess, labels=None)(ROWS)


def test_prompts_stand_before_texts_by_column_and_by_row() -> None:
    seen: list[tuple[str | None, list[str]]] = []

    def tokenise(rows: list[dict], prompt: str | None = None) -> dict:
        seen.append((prompt, [row["text"] for row in rows]))
        return {"input_ids": torch.ones(len(rows), 1)}

    table = items(3, text=["a", "b", "c"])
    given = pairs(3, negatives=1).add_column("prompt", ["find: ", None, ""])
    data = TrainingPairs(table, table, given, document_use="text", num_negatives=1, show_progress_bar=False)
    PairCollator(data, tokenise, prompts={"positive": "document: "})([{"row": 0}, {"row": 1}])
    assert seen == [(None, ["find: a", "b"]), ("document: ", ["a", "b"]), ("document: ", ["b", "c"])]
    with pytest.raises(ValueError, match="'negative_9'"):
        PairCollator(data, tokenise, prompts={"negative_9": "x"})


def test_the_parts_of_a_text_come_as_often_as_they_weigh() -> None:
    table = Dataset.from_dict(
        {
            "id": ["a", "b"],
            "text": ["t", "u"],
            "image": [None, None],
            "group": [None, None],
            "text_parts": [[{"text": "title", "weight": 0.75}, {"text": "body", "weight": 0.25}], []],
        }
    )
    own = Dataset.from_dict({"query_id": ["a", "b"], "positive_ids": [["b"], ["a"]], "negative_ids": [[], []]})
    data = TrainingPairs(table, table, own, document_use="text", show_progress_bar=False)
    seen: list[str] = []

    def tokenise(rows: list[dict], prompt: str | None = None) -> dict:
        seen.extend(row["text"] for row in rows)
        return {"input_ids": torch.ones(len(rows), 1)}

    for epoch in range(400):
        clock = torch.tensor([epoch])
        PairCollator(data, tokenise, epoch=clock)([{"row": 0}])
    assert 260 < seen.count("title") < 340 and seen.count("title") + seen.count("body") == 400
    assert seen.count("u") == 400  # a row without parts is its text


def test_only_training_images_are_augmented(preprocess) -> None:
    data = training_pairs(6)
    plain = collator(data, preprocess, augmentation=None)
    assert torch.equal(plain(ROWS)["positive_pixel_values"], plain(ROWS)["positive_pixel_values"])
    assert not torch.equal(
        plain(ROWS)["positive_pixel_values"], collator(data, preprocess)(ROWS)["positive_pixel_values"]
    )


def test_one_image_in_two_columns_varies_by_column(preprocess) -> None:
    table = items(4)
    own = Dataset.from_dict({"query_id": ["i0", "i1"], "positive_ids": [["i0"], ["i1"]], "negative_ids": [[], []]})
    data = TrainingPairs(table, table, own, "image", "image", show_progress_bar=False)
    batch = collator(data, preprocess)(ROWS[:2])
    assert not torch.equal(batch["query_pixel_values"], batch["positive_pixel_values"])


def test_pixels_are_bytes_and_rows_are_counted(preprocess) -> None:
    batch = collator(training_pairs(6), preprocess)(ROWS)
    assert batch["positive_pixel_values"].dtype == torch.uint8 and batch["positive_pixel_values"].shape == (
        6,
        3,
        32,
        32,
    )
    assert batch["positive_num_images_per_sample"].tolist() == [1] * 6
    assert not batch["positive_attention_mask"].any() and batch["rows"].tolist() == list(range(6))
    assert "query_pixel_values" not in batch


def test_an_image_that_cannot_be_read_is_an_error_with_its_id(preprocess) -> None:
    table = items(2, image=[{"bytes": b"GIF", "path": None}] * 2)
    data = TrainingPairs(table, table, show_progress_bar=False)
    with pytest.raises(Exception, match="i0"):
        collator(data, preprocess)(ROWS[:1])
    with pytest.raises(ValueError, match="item 'i0' has an image, but no reader"):
        collator(data, preprocess, reader=None)(ROWS[:1])


def test_activations_take_the_place_of_pixels_row_by_row(preprocess) -> None:
    rows = [{"image": torch.full((4,), 1.0)}, {"text": "red word1"}, {"text": "blue", "image": torch.full((4,), 2.0)}]
    features = with_activations(rows, preprocess)
    assert features["pixel_values"].tolist() == [[1.0] * 4, [2.0] * 4]
    assert features["num_images_per_sample"].tolist() == [1, 0, 1]
    assert features["attention_mask"].any(dim=1).tolist() == [False, True, True]
    own = preprocess([{"text": "red word1"}])
    assert features["input_ids"][1][features["attention_mask"][1].bool()].tolist() == own["input_ids"][0].tolist()
    texts = with_activations([{"text": "red"}], preprocess)
    assert "pixel_values" not in texts
    images = with_activations([{"image": torch.zeros(4)}], preprocess)
    assert images["input_ids"].shape == (1, 1) and not images["attention_mask"].any()
