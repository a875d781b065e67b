"""A dialogue is played by choosing, saying, skipping and picking, and ends for one reason that is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmembed.apps.dialogue.play import Play
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session import InteractiveSession
from mmembed.search.lexical import LexicalIndex

pytest.importorskip("bm25s")

GRID = list(itertools.product(range(4), range(4)))  # colour, size


@pytest.fixture(scope="module")
def session() -> InteractiveSession:
    index = LexicalIndex.build([f"m{n:02}" for n in range(16)], ["a mug"] * 16)
    slots = [Slot("colour", ("red", "blue", "green", "grey")), Slot("size", ("S", "M", "L", "XL"))]
    table = AttributeTable(index.ids, slots, [np.array(column) for column in zip(*GRID)])
    return InteractiveSession(TextRanker(index), AttributeQuestioner(table), max_rounds=3)


def truth(play: Play, id: str) -> int:
    slot = ("colour", "size").index(play.question.text.removeprefix("What is its ").removesuffix("?"))
    values = (("red", "blue", "green", "grey"), ("S", "M", "L", "XL"))[slot]
    return play.question.options.index(values[GRID[int(id[1:])][slot]])


def test_right_answers_leave_a_quarter_each(session) -> None:
    play = Play(session, "mug", "1", "m06")
    assert play.ranks == [8.5] and all(one.moved is None and not one.is_new for one in play.top(16))
    play.choose(truth(play, "m06"))
    assert play.ranks == [8.5, 2.5] and play.outcome is None
    before = {one.id: one.rank for one in play.top(16)}
    play.choose(truth(play, "m06"))
    assert play.ranks == [8.5, 2.5, 1.0] and play.outcome == "first" and play.question is None
    assert all(one.moved == before[one.id] - one.rank for one in play.top(16))
    assert sum(one.belief for one in play.top(16)) == pytest.approx(1)
    play.choose(0), play.say("red"), play.skip(), play.leave()  # nothing happens after the end
    assert len(play.turns) == 2 and play.outcome == "first" and not play.pick("m06")


def test_what_is_no_answer_changes_nothing(session) -> None:
    play = Play(session, "mug", "1", "m06")
    play.choose(99), play.choose(-1), play.say("  ")
    assert play.turns == [] and play.ranks == [8.5]
    play.skip()
    assert play.ranks == [8.5, 8.5] and play.turns[0].answer.label == "unknown"
    assert not play.pick("m07") and not play.pick("nothing") and play.outcome is None
    play.skip()
    assert play.outcome == "uninformative"  # both were asked
    short = Play(InteractiveSession(session.ranker, session.questioner, max_rounds=1), "mug", "1", "m06")
    short.skip()
    assert short.outcome == "budget"


def test_a_secret_is_known_once_it_is_picked(session) -> None:
    play = Play(session, "mug", "1")
    play.choose(truth(play, "m06"))
    play.choose(truth(play, "m06"))
    assert play.ranks == [] and play.outcome == "uninformative" and play.top(1)[0].id == "m06"
    assert play.can_pick and not play.pick("nothing")  # it has ended, and nobody knows yet what was looked for
    assert play.pick("m06") and play.outcome == "picked" and play.ranks == [8.5, 2.5, 1.0]
    assert not play.can_pick and not play.pick("m07")


def test_first_words_that_say_nothing_are_refused(session) -> None:
    with pytest.raises(ValueError, match="say what is looked for"):
        Play(session, "  ", "1")
