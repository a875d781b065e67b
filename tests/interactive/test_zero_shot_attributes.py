"""Attributes told from vectors: the formula, its calibration, rates without one, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.zero_shot_attributes import zero_shot_attributes
from mmembed.models.dual_encoder.building import build_dual_encoder

COLOURS, TAGS = Slot("colour", ("red", "blue", "green")), Slot("tag", ("new", "old"), exclusive=False)


@pytest.fixture(scope="module")
def model():
    return build_dual_encoder(
        ["a photo of red blue green new old things"], text_hidden_size=16, text_layers=1, image_size=32,
        image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=16,
    )  # fmt: skip


def pictures(model, n: int = 600, seed: int = 0) -> tuple[Embeddings, np.ndarray, np.ndarray]:
    """Vectors that lean to the words of their colour and tags, weakly."""
    generator = np.random.default_rng(seed)
    words = model.encode([*COLOURS.values, *TAGS.values], normalize_embeddings=True)
    colour, tags = generator.choice(3, n, p=[0.6, 0.3, 0.1]), generator.random((n, 2)) < [0.5, 0.1]
    vectors = words[colour] + tags @ words[3:] + 0.5 * generator.standard_normal((n, 16)) / 4
    ids = [str(row) for row in range(n)]
    return Embeddings(ids, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)), colour, tags


def test_without_anything_known_the_rates_are_kept(model) -> None:
    embeddings, _, _ = pictures(model)
    table = zero_shot_attributes(model, embeddings, [TAGS], temperature=0.05, rates={"tag=new": 0.4})
    found = table.probabilities(np.arange(600)).astype(np.float64)
    assert found.mean(axis=0) == pytest.approx([0.4, 0.1], abs=1e-4)
    cosines = np.asarray(embeddings.vectors) @ model.encode(list(TAGS.values), normalize_embeddings=True).T
    logits = np.log(found / (1 - found))
    slopes = [np.polyfit(cosines[:, at], logits[:, at], 1)[0] for at in range(2)]
    assert slopes == pytest.approx([20, 20], rel=1e-2)  # 1 / T


def test_known_attributes_calibrate(model) -> None:
    embeddings, colour, tags = pictures(model)
    known = AttributeTable(embeddings.ids[:300], [COLOURS, TAGS], [colour[:300], tags[:300]])
    table = zero_shot_attributes(model, embeddings, [COLOURS, TAGS], known=known)
    told = table.probabilities(np.arange(300, 600)).astype(np.float64)
    truth = np.concatenate([np.eye(3)[colour[300:]], tags[300:]], axis=1)
    rate = np.concatenate([np.eye(3)[colour[:300]], tags[:300]], axis=1).mean(axis=0)

    def loss(guess: np.ndarray) -> np.ndarray:
        guess = np.clip(guess, 1e-6, 1 - 1e-6)
        return -(truth * np.log(guess) + (1 - truth) * np.log(1 - guess)).mean(axis=0)

    assert (
        loss(told) < loss(np.broadcast_to(rate, told.shape))
    ).all()  # better than the shares alone, on the other half
    assert told.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=0.08)
    assert (told[:, :3].sum(axis=1) <= 1 + 1e-3).all()
    sure = told > 0.5
    assert truth[sure].mean() == pytest.approx(told[sure].mean(), abs=0.1)


def test_a_slot_that_nobody_knows_is_as_without(model) -> None:
    embeddings, colour, _ = pictures(model, 50)
    known = AttributeTable(embeddings.ids, [COLOURS], [colour])
    with_known = zero_shot_attributes(model, embeddings, [TAGS], known=known)
    without = zero_shot_attributes(model, embeddings, [TAGS])
    every = np.arange(50)
    assert np.array_equal(with_known.probabilities(every), without.probabilities(every))


def test_templates_put_values_into_words(model) -> None:
    embeddings, _, _ = pictures(model, 30)
    every = np.arange(30)
    plain = zero_shot_attributes(model, embeddings, [TAGS]).probabilities(every)
    same = zero_shot_attributes(model, embeddings, [TAGS], templates={"tag": ["{value}", "{value}"]}).probabilities(
        every
    )
    other = zero_shot_attributes(model, embeddings, [TAGS], templates={"": "a photo of {value} things"}).probabilities(
        every
    )
    assert same == pytest.approx(plain, abs=1e-5) and np.abs(other - plain).max() > 1e-3


def test_what_cannot_be_told(model) -> None:
    embeddings, colour, _ = pictures(model, 20)
    with pytest.raises(ValueError, match="where {value} goes"):
        zero_shot_attributes(model, embeddings, [TAGS], templates={"tag": "a photo"})
    with pytest.raises(ValueError, match="temperature"):
        zero_shot_attributes(model, embeddings, [TAGS], temperature=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        zero_shot_attributes(model, embeddings, [TAGS], rates={"tag=new": 1.0})
    with pytest.raises(DataError, match="no vector"):
        zero_shot_attributes(model, embeddings, [COLOURS], known=AttributeTable(["z"], [COLOURS], [np.array([0])]))
