"""States of played dialogues, and keys of targets that are the same image."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mmembed.data.schema import IMAGE_FEATURE
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.preference_states import dialogue_states, image_keys
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session import InteractiveSession
from mmembed.interactive.simulation import Task
from mmembed.search.lexical import LexicalIndex

IDS = [f"c{number}" for number in range(8)]


def session(rounds):
    table = AttributeTable(
        IDS, [Slot("colour", ("red", "blue", "green")), Slot("size", ("s", "m"))],
        [np.array([0, 0, 1, 1, 2, 2, 0, 1]), np.array([0, 1, 0, 1, 0, 1, 1, 0])],
    )  # fmt: skip
    index = LexicalIndex.build(IDS, ["mug"] * 8, show_progress_bar=False)
    asks = AttributeQuestioner(table, kinds=("yes_no",))
    return InteractiveSession(TextRanker(index), asks, max_rounds=rounds), AttributeAnswerer(table)


def test_states_at_their_rounds():
    playing, answers = session(2)
    tasks = [Task("a", "c5", "mug"), Task("b", "c0", "mug")]
    found = dialogue_states(playing, tasks, answers, after_rounds=[2, 0], show_progress_bar=False)
    assert [one.key for one in found] == ["a#0", "a#2", "b#0", "b#2"]
    assert [one.state.round for one in found] == [0, 2, 0, 2]
    assert all(len(one.state.shown) == 5 for one in found)  # also where the budget is spent
    assert found[1].target_id == "c5" and found[1].state.turns[0].answer.label in ("yes", "no")
    belief = dict(zip(found[1].state.ids, found[1].state.probabilities))
    assert belief["c5"] > 1.5 / 8 and sum(belief.values()) == pytest.approx(1)


def test_a_dialogue_that_stops_before_has_no_later_state():
    playing, answers = session(9)
    found = dialogue_states(playing, [Task("a", "c5", "mug")], answers, after_rounds=[0, 9], show_progress_bar=False)
    assert [one.key for one in found] == ["a#0"]
    with pytest.raises(ValueError, match="after_rounds"):
        dialogue_states(playing, [], answers, after_rounds=[])


def test_the_same_image_or_group_has_one_key():
    def image(data):
        return {"bytes": data, "path": None}

    items = Dataset.from_dict(
        {
            "id": list("abcdef"),
            "text": ["x"] * 6,
            "group": ["1", "1", "2", None, None, None],
            "image": [image(b"p"), image(b"q"), image(b"q"), image(b"r"), image(b"r"), None],
        }
    ).cast_column("image", IMAGE_FEATURE)
    keys = image_keys(items, show_progress_bar=False)
    assert keys["a"] == keys["b"] == keys["c"]  # a and b by group, b and c by image
    assert keys["d"] == keys["e"] != keys["a"] and keys["f"] == "f"
    grown = Dataset.from_list([*items, {**items[5], "id": "g"}], features=items.features)
    assert {id: key for id, key in image_keys(grown, show_progress_bar=False).items() if id != "g"} == keys
    assert image_keys(items.select([]), show_progress_bar=False) == {}
