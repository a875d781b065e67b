"""The plain ways to ask, by hand, and that reckoning with answers finds more than they do."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.interactive.answer_channel import AnswerChannel
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.plain_questioners import PlainQuestioner
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn
from mmembed.interactive.session import InteractiveSession
from mmembed.interactive.simulation import Task, play_dialogues


def test_each_rule_by_hand() -> None:
    held = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
    table = AttributeTable(list("abcd"), [Slot("has", ("w", "x", "y", "z"), exclusive=False)], [held])
    own = AttributeQuestioner(table)

    def ask(rule: str, turns: tuple[Turn, ...] = (), seed: int = 0) -> str | None:
        state = DialogueState("q", turns, list("abcd"), np.array([0.4, 0.3, 0.1, 0.2]), seed=seed)
        question = PlainQuestioner(own, rule).ask(state)  # type: ignore[arg-type]
        return None if question is None else question.attribute

    assert ask("frequent") == "has=w"  # .8 of the belief
    assert ask("half") == "has=x"  # .5
    asked = tuple(Turn(Question("?", attribute=f"has={value}"), Answer("no", "no", "t")) for value in "wx")
    assert ask("frequent", asked) == "has=z" and ask("half", asked) == "has=z"
    drawn = [ask("random", seed=seed) for seed in range(400)]
    assert {drawn.count(attribute) > 60 for attribute in table.attributes} == {True}
    assert ask("random", seed=5) == ask("random", seed=5)
    every = (*asked, *(Turn(Question("?", attribute=f"has={value}"), Answer("no", "no", "t")) for value in "yz"))
    assert ask("half", every) is None
    with pytest.raises(ValueError, match="criterion"):
        PlainQuestioner(own, "best")  # type: ignore[arg-type]


def test_gain_finds_more_than_the_plain_ways_with_people_who_err() -> None:
    """Attributes that people confirm, and others that they leave unsaid: only the gain knows which are worth asking."""
    generator = np.random.default_rng(0)
    held = generator.random((400, 30)) < np.linspace(0.05, 0.5, 30)
    held[:, 1::2] = held[:, ::2]  # every other attribute is as common, but hardly ever confirmed
    reliable = np.where(np.arange(30) % 2 == 1, 0.9, 0.15)
    ids = [str(row) for row in range(400)]
    slot = Slot("has", tuple(f"w{number:02}" for number in range(30)), exclusive=False)
    said = held & (generator.random(held.shape) < reliable)
    channel = AnswerChannel(reliable, np.full(30, 0.01), np.zeros(30))
    own = AttributeQuestioner(AttributeTable(ids, [slot], [held]), channel)
    answerer = AttributeAnswerer(AttributeTable(ids, [slot], [said]), source="held out")

    class Even:
        def __init__(self) -> None:
            self.ids = ids

        def scores(self, query, turns):
            return np.zeros(400)

    ranks = {}
    for name, asks in (("gain", own), *((rule, PlainQuestioner(own, rule)) for rule in ("random", "frequent", "half"))):  # type: ignore[arg-type]
        session = InteractiveSession(Even(), asks, max_rounds=8, min_gain=0)
        tasks = [Task(id, id, "a thing") for id in ids[::4]]
        played = play_dialogues(session, tasks, answerer, show_progress_bar=False)
        ranks[name] = np.mean([np.log(one.ranks[-1]) for one in played])
    assert ranks["gain"] < min(ranks["random"], ranks["frequent"], ranks["half"]) - 0.2
