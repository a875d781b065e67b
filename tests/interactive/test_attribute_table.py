"""Attributes: of metadata of every shape, as numbers and as probabilities, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.interactive.answer_channel import AnswerChannel, choice_probabilities
from mmembed.interactive.attribute_table import AttributeTable, Slot

ROWS = {
    "id": list("abcdef"),
    "text": ["x"] * 6,
    "group": list("abcdef"),
    "split": ["test"] * 6,
    "colour": ["red", "blue", "red", None, "NA", " red "],
    "size": [1, 2, 1, 2, 1, 2],
    "adult": [True, False, None, True, False, True],
    "tags": [["new", "sale"], [], ["new"], None, ["sale"], ["new", "rare"]],
    "details": [{"sleeve": "long", "neck": "v"}, {"sleeve": "short", "neck": None}] * 3,
    "title": ["one", "two", "three", "four", "five", "six"],
    "shop": ["here"] * 6,
    "price": [9.99, 9.99, 5.0, 5.0, float("nan"), 9.99],
    "stars": [4.0, 5.0, 4.0, 5.0, float("nan"), 4.0],
}


def test_metadata_of_every_shape() -> None:
    table = AttributeTable.from_items(Dataset.from_dict(ROWS))
    found = {slot.name: (slot.values, slot.exclusive) for slot in table.slots}
    assert found["colour"] == (("red",), True)  # blue stands once; " red " is red, NA is nothing
    assert found["size"] == (("1", "2"), True) and found["adult"] == (("yes", "no"), True)
    assert found["tags"] == (("new", "sale"), False)
    assert found["details.sleeve"] == (("long", "short"), True) and found["details.neck"] == (("v",), True)
    assert "title" not in found and "shop" not in found and "split" not in found  # no value shared, none different
    assert "price" not in found and found["stars"] == (("4.0", "5.0"), True)  # nobody tells a price to the cent
    held = table.probabilities(table.rows(["a", "d"]))
    by_name = dict(zip(table.attributes, held.T.tolist(), strict=True))
    assert by_name["tags=new"] == [1.0, 0.0] and by_name["details.sleeve=long"] == [1.0, 0.0]
    assert by_name["colour=red"][0] == 1.0 and np.isnan(by_name["colour=red"][1])


def test_columns_that_are_named() -> None:
    items = Dataset.from_dict(ROWS)
    table = AttributeTable.from_items(items, ["details.sleeve", "title"], min_count=1)
    assert [slot.name for slot in table.slots] == ["details.sleeve", "title"] and len(table.slot("title").values) == 6
    assert AttributeTable.from_items(items, ["title"], min_count=1, max_values=2).slots[0].values == ("five", "four")
    assert AttributeTable.from_items(items, ["price"]).slots[0].values == ("9.99", "5.0")
    with pytest.raises(DataError, match="did you mean 'colour'"):
        AttributeTable.from_items(items, ["color"])
    with pytest.raises(DataError, match="no value stands at 2 items"):
        AttributeTable.from_items(items, ["title"])
    with pytest.raises(DataError, match="no column in which items differ"):
        AttributeTable.from_items(Dataset.from_dict({"id": ["a", "b"], "text": ["x", "y"]}))


def test_numbers_and_probabilities_say_the_same() -> None:
    numbers = np.array([0, 2, 1, -1, 0])
    dense = np.eye(3)[numbers]
    dense[3] = np.nan
    slot = Slot("colour", ("red", "green", "blue"))
    one, other = (AttributeTable(list("abcde"), [slot], [column]) for column in (numbers, dense))
    every = np.arange(5)
    np.testing.assert_array_equal(one.probabilities(every), other.probabilities(every))
    np.testing.assert_array_equal(one.filled(every), other.filled(every))
    assert one.base_rates.tolist() == other.base_rates.tolist() == [0.5, 0.25, 0.25]
    for place in range(3):
        np.testing.assert_allclose(one.column(place, every), one.filled(every)[:, place])
        np.testing.assert_allclose(other.column(place, every), one.filled(every)[:, place])
    np.testing.assert_array_equal(one.filled_slot("colour", every), one.filled(every))


def test_parts_of_a_table() -> None:
    table = AttributeTable.from_items(Dataset.from_dict(ROWS))
    part = table.select(["tags", "size"])
    assert part.attributes == ["tags=new", "tags=sale", "size=1", "size=2"]
    turned = table.of(["f", "a"])
    np.testing.assert_array_equal(turned.probabilities(np.arange(2)), table.probabilities(table.rows(["f", "a"])))
    with pytest.raises(DataError, match="did you mean 'tags'"):
        table.select(["tagz"])
    with pytest.raises(DataError, match="'z' has no attributes"):
        table.rows(("a", "z"))
    same = ("a", "b")
    assert table.rows(same) is table.rows(same)  # asked again and again in a session
    assert table.rows(["a", "b"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("slots", "columns", "message"),
    [
        ([Slot("c", ("r", "g"))], [np.array([0, 2])], "numbers from 0 to 2"),
        ([Slot("c", ("r", "g"))], [np.array([[0.5, 0.7], [0, 0]])], "sum to more than 1"),
        ([Slot("c", ("r", "g"), False)], [np.array([0, 1])], "expected"),
        ([Slot("c", ("r", "g"), False)], [np.array([[0.0, 1.5], [0, 0]])], "not from 0 to 1"),
        ([Slot("c", ("r", "g"))], [np.zeros((3, 2))], "expected"),
        ([Slot("c", ("r", "r"))], [np.array([0, 1])], "stands twice in a slot"),
        ([Slot("c", ()), Slot("d", ("x",))], [np.array([-1, -1]), np.array([0, 0])], "at least one value"),
        ([Slot("a=b", ("x",))], [np.array([0, 0])], "without '='"),
        ([Slot("c", ("r",)), Slot("c", ("g",))], [np.array([0, 0]), np.array([0, 0])], "stands twice"),
        ([Slot("c", ("r",))], [], "0 columns for 1 slots"),
    ],
)
def test_tables_that_are_none(slots: list[Slot], columns: list[np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AttributeTable(["a", "b"], slots, columns)


def test_a_channel_is_learnt_from_answers() -> None:
    """Drawn with known rates, and found again; few answers lean to those of all."""
    generator = np.random.default_rng(0)
    holds = generator.random((4000, 3)) < [0.5, 0.3, 0.001]
    yes_if_true, yes_if_false, silent = (
        np.array([0.9, 0.6, 0.2]),
        np.array([0.02, 0.1, 0.05]),
        np.array([0.1, 0.0, 0.3]),
    )
    answers = (generator.random(holds.shape) < np.where(holds, yes_if_true, yes_if_false)).astype(float)
    answers[generator.random(holds.shape) < silent] = np.nan
    found = AnswerChannel.fit(holds, answers, strength=1.0)
    assert found.yes_if_true[:2] == pytest.approx(yes_if_true[:2], abs=0.03)
    assert found.yes_if_false == pytest.approx(yes_if_false, abs=0.02)
    assert found.unknown == pytest.approx(silent, abs=0.03)
    leant = AnswerChannel.fit(holds, answers, strength=1000.0)
    assert abs(leant.yes_if_true[2] - 0.8) < 0.1  # a handful of answers
    uncertain = AnswerChannel.fit(np.full((4, 1), 0.5), np.array([[1.0], [1.0], [0.0], [0.0]]), strength=1e-9)
    assert uncertain.yes_if_true[0] == pytest.approx(0.5) == uncertain.yes_if_false[0]
    with pytest.raises(DataError, match="no answers"):
        AnswerChannel.fit(holds, np.full(holds.shape, np.nan))
    for arguments in ({"error": 0.5}, {"error": -0.1}, {"unknown": 1.0}):
        with pytest.raises(ValueError):
            AnswerChannel.of_noise(3, **arguments)


def test_what_is_said_of_a_choice_sums_to_one() -> None:
    generator = np.random.default_rng(1)
    values = generator.dirichlet(np.ones(5), size=20)
    channel = AnswerChannel(generator.uniform(0.5, 1, 8), generator.uniform(0, 0.2, 8), np.zeros(8))
    for options in ([0, 1], [4, 2, 0], [0, 1, 2, 3, 4]):
        said = choice_probabilities(values, channel, slice(2, 7), options)
        assert said.shape == (20, len(options) + 1) and said.sum(axis=1) == pytest.approx(1) and (said >= 0).all()
