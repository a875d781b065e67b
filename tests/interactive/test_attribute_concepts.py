"""Concepts: what is grouped, what holds of a group, and that asking about groups finds more than asking about words."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.interactive.attribute_concepts import attribute_vectors, find_concepts, with_concepts
from mmembed.interactive.attribute_learning import learn_probabilities
from mmembed.interactive.attribute_table import AttributeTable, Slot


def words(held: np.ndarray, names: tuple[str, ...]) -> AttributeTable:
    return AttributeTable([str(row) for row in range(len(held))], [Slot("word", names, exclusive=False)], [held])


def test_words_that_stand_together_are_grouped() -> None:
    generator = np.random.default_rng(0)
    kitchen = generator.random((200, 1)) < 0.5
    held = np.concatenate(
        [kitchen & (generator.random((200, 3)) < 0.6), ~kitchen & (generator.random((200, 3)) < 0.6)], axis=1
    )
    table = words(held, ("fork", "plate", "table", "wave", "beach", "surfer"))
    for vectors in (None, attribute_vectors(table, _unit(table, kitchen, generator))):
        concepts = find_concepts(table, vectors, largest=3)
        assert {frozenset(one) for one in concepts if len(one) == 3} == {
            frozenset({"word=fork", "word=plate", "word=table"}), frozenset({"word=wave", "word=beach", "word=surfer"})
        }  # fmt: skip
        assert all(2 <= len(one) <= 3 for one in concepts)
        rates = dict(zip(table.attributes, table.base_rates, strict=True))
        assert all(rates[one[0]] == max(rates[word] for word in one) for one in concepts)


def _unit(table: AttributeTable, kitchen: np.ndarray, generator: np.random.Generator) -> Embeddings:
    vectors = np.concatenate([kitchen, ~kitchen], axis=1) + 0.1 * generator.standard_normal((len(kitchen), 2))
    return Embeddings(table.ids, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


def test_vectors_of_attributes_are_means_of_those_that_have_them() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    table = words(np.array([[1, 0], [0, 0], [1, 0]], dtype=bool), ("x", "y"))
    found = attribute_vectors(table, Embeddings(["0", "1", "2"], vectors))
    assert found[0] == pytest.approx(vectors[[0, 2]].mean(axis=0) - vectors.mean(axis=0), abs=1e-6)
    assert found[1].tolist() == [0, 0]
    assert find_concepts(table, found) == []  # nothing is known of y, so there are no two to join


def test_any_of_a_concept() -> None:
    facts = words(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool), ("a", "b", "c"))
    both = with_concepts(facts, [("word=a", "word=b"), ("word=b", "word=c")])
    assert both.attributes[3:] == ["concept=a, b", "concept=b, c"]
    assert both.probabilities(np.arange(3))[:, 3:].tolist() == [[1, 0], [0, 1], [0, 0]]
    some = words(np.array([[0.5, 0.2, np.nan]]), ("a", "b", "c"))
    found = with_concepts(some, [("word=a", "word=b"), ("word=b", "word=c")]).probabilities(np.arange(1))[0, 3:]
    assert found[0] == pytest.approx(0.6) and np.isnan(found[1])
    colour = AttributeTable(["a"], [Slot("colour", ("red", "pink", "blue"))], [np.array([[0.5, 0.3, 0.2]])])
    warm = with_concepts(colour, [("colour=red", "colour=pink")])
    assert warm.probabilities(np.arange(1))[0, 3] == pytest.approx(0.8)  # they exclude each other
    assert with_concepts(facts, []) is facts
    with pytest.raises(DataError, match="no attribute 'word=z'"):
        with_concepts(facts, [("word=a", "word=z")])
    with pytest.raises(DataError, match="shape"):
        find_concepts(facts, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="at least two"):
        find_concepts(facts, largest=1)


def test_probabilities_are_learnt_from_evidence_and_features() -> None:
    """Answers that depend on how often a thing was told, and on where a candidate lies; both are found again."""
    generator = np.random.default_rng(3)
    n, attributes = 3000, 4
    evidence = generator.integers(0, 4, size=(n, attributes))
    features = generator.standard_normal((n, 3))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 0]])
    logits = -2 + 1.2 * evidence + features @ weights
    answers = (generator.random((n, attributes)) < 1 / (1 + np.exp(-logits))).astype(float)
    rows = np.arange(0, n, 2)
    truth = 1 / (1 + np.exp(-logits[1::2]))
    found = learn_probabilities(evidence, rows, answers[rows], features=features, evidence_penalty=1, feature_penalty=1)
    assert np.abs(found[1::2] - truth).mean() < 0.03
    without = learn_probabilities(evidence, rows, answers[rows])
    assert np.abs(without[1::2] - truth).mean() > 0.06
    assert np.array_equal(found, learn_probabilities(
        evidence, rows, answers[rows], features=features, evidence_penalty=1, feature_penalty=1
    ))  # fmt: skip


def test_an_attribute_with_few_answers_behaves_as_all_do() -> None:
    generator = np.random.default_rng(4)
    evidence = generator.integers(0, 2, size=(2000, 6))
    answers = (generator.random((2000, 6)) < np.where(evidence > 0, 0.8, 0.1)).astype(float)
    answers[:, 5] = np.nan
    answers[:2, 5] = [0, 0]
    evidence[0, 5] = 1
    found = learn_probabilities(evidence, np.arange(2000), answers)
    told = found[evidence[:, 5] > 0, 5].mean()
    assert told > 5 * found[evidence[:, 5] == 0, 5].mean()  # two answers, both no: the step is that of the others


@pytest.mark.parametrize(
    ("evidence", "rows", "answers", "message"),
    [
        (np.zeros((3, 2)), [0], np.zeros((1, 3)), "evidence"),
        (np.zeros((3, 2)), [3], np.zeros((1, 2)), "rows 3 to 3"),
        (np.full((3, 2), -1), [0], np.zeros((1, 2)), "counts from 0"),
        (np.zeros((3, 2)), [0], np.full((1, 2), 0.5), "1, 0 or NaN"),
        (np.zeros((3, 2)), [0], np.full((1, 2), np.nan), "at least one"),
        (np.full((3, 2), np.nan), [0], np.zeros((1, 2)), "counts"),
    ],
)
def test_answers_that_cannot_be_learnt_from(evidence, rows, answers, message: str) -> None:
    with pytest.raises(DataError, match=message):
        learn_probabilities(evidence, rows, answers)
    with pytest.raises(DataError, match="features"):
        learn_probabilities(np.zeros((3, 2)), [0], np.zeros((1, 2)), features=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="penalties"):
        learn_probabilities(np.zeros((3, 2)), [0], np.zeros((1, 2)), evidence_penalty=0)
