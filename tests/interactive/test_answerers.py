"""Who answers: oracles with and without mistakes, replays, and words read as answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmembed.data.formats import dialogue
from mmembed.data.schema import DataError
from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.answerers import AttributeAnswerer, ReplayAnswerer, ReplayQuestioner
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.questions import Answer, DialogueState, Question

DIALOGUES = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "dialogues" / "chatir_VisDial_v1.0_queries_val.json"
)
SLOTS = [Slot("colour", ("red", "blue", "green")), Slot("tag", ("new", "old"), exclusive=False)]


def table() -> AttributeTable:
    return AttributeTable(["a", "b", "c"], SLOTS, [np.array([0, 1, -1]), np.array([[1, 0], [0, 0], [0.9, np.nan]])])


def test_an_oracle_says_what_it_knows() -> None:
    answerer = AttributeAnswerer(table())

    def said(id: str, attribute: str | None, options: tuple[str, ...] = ("yes", "no")) -> tuple[str, str]:
        found = answerer.answer(id, Question("?", options, attribute))
        return found.text, found.label

    assert said("a", "colour=red") == ("yes", "yes") and said("b", "colour=red") == ("no", "no")
    assert said("c", "colour=red") == ("", "unknown") and said("c", "tag=old") == ("", "unknown")
    assert said("c", "tag=new") == ("yes", "yes")
    assert said("a", "colour", ("blue", "red", "else")) == ("red", "value")
    assert said("a", "colour", ("blue", "green", "else")) == ("else", "value")
    assert said("c", "colour", ("blue", "red", "else")) == ("", "unknown")
    # a question that names no attribute of its, or none at all, is not guessed at
    assert said("a", None) == said("a", "size=M") == said("a", "size", ("S", "M")) == ("", "unknown")
    with pytest.raises(DataError):
        answerer.answer("z", Question("?", attribute="colour=red"))


def test_answers_are_in_the_words_of_the_question() -> None:
    questioner = AttributeQuestioner(table(), wording=Wording("zh"))
    answerer = AttributeAnswerer(table())
    state = DialogueState("q", (), ["a", "b", "c"], np.array([0.5, 0.3, 0.2]))
    for question in questioner.gains(state):
        answer = answerer.answer("a", question)
        assert answer.text in question.options
        assert questioner.likelihood(question, answer, ["a"])[0] > 0.5


def test_mistakes_and_silence_have_their_shares_and_stay() -> None:
    many = AttributeTable([str(n) for n in range(4000)], [Slot("c", ("x", "y", "z"))], [np.zeros(4000, dtype=int)])
    answerer = AttributeAnswerer(many, error=0.2, unknown=0.1, seed=3)
    for question in (Question("?", ("yes", "no"), "c=x"), Question("?", ("x", "y", "else"), "c")):
        answers = [answerer.answer(id, question) for id in many.ids]
        silent = np.mean([answer.label == "unknown" for answer in answers])
        right = np.mean([answer.text in ("yes", "x") for answer in answers if answer.label != "unknown"])
        assert silent == pytest.approx(0.1, abs=0.02) and right == pytest.approx(0.8, abs=0.03)
        assert answers == [answerer.answer(id, question) for id in many.ids]
        other = AttributeAnswerer(many, error=0.2, unknown=0.1, seed=4)
        assert answers != [other.answer(id, question) for id in many.ids]
    assert {answerer.answer(id, question).text for id in many.ids} == {"", "x", "y", "else"}
    with pytest.raises(ValueError):
        AttributeAnswerer(many, error=1.5)


def test_replays_know_the_released_answers_alone() -> None:
    replay = ReplayAnswerer(
        {"a.jpg": ["is the dog red? no, brown", "how big? big", "the desk well no"], "b.jpg": ["is it a cat? yes"]}
    )
    assert replay.answer("a.jpg", Question("Is the  dog RED?")).label == "no"
    assert replay.answer("a.jpg", Question("how big?")).text == "big"
    for target, asked in (
        ("a.jpg", "is the dog brown?"),
        ("b.jpg", "is the dog red?"),
        ("c.jpg", "how big?"),
        ("a.jpg", ""),
    ):
        assert replay.answer(target, Question(asked)).label == "unknown"
    assert replay.questions("a.jpg") == ["is the dog red?", "how big?"] and replay.questions("z") == []
    asks = ReplayQuestioner(replay.questions("a.jpg"))
    first = asks.ask(DialogueState("q", (), ["a"], np.ones(1)))
    assert first is not None and first.text == "is the dog red?"


def test_released_dialogues_are_replayed_whole() -> None:
    if not DIALOGUES.exists():
        pytest.skip("needs ../shared")
    queries = dialogue.read(DIALOGUES).queries
    replay = ReplayAnswerer.from_queries(queries)
    rows = json.loads(DIALOGUES.read_text())
    known = unknown = 0
    for row, other in zip(rows[:300], rows[1:301], strict=True):
        for number, turn in enumerate(row["dialog"][1:]):
            question, said = dialogue.split_turn(turn)
            answer = replay.answer(row["img"], Question(question, provenance={"round": number}))
            assert answer.text == said  # also where a person said "can't tell"
            known += 1
            unknown += replay.answer(other["img"], Question(question)) == Answer("", "unknown", "replay")
    assert known == 3000 and unknown > 2500
    with pytest.raises(DataError, match="dialog"):
        ReplayAnswerer.from_queries(Dataset.from_dict({"id": ["a"], "group": ["a"]}))


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("yes", ("yes", "no"), ("yes", "yes")),
        ("  No. ", ("yes", "no"), ("no", "no")),
        ("no, it is blue", ("yes", "no"), ("no, it is blue", "no")),
        ("да", ("да", "нет"), ("да", "yes")),
        ("不是", ("是", "不是"), ("不是", "no")),
        ("y", ("да", "нет"), ("да", "yes")),
        ("RED", ("red", "blue", "something else"), ("red", "value")),
        ("crimson", ("red", "blue", "something else"), ("crimson", "value")),
        ("no", ("red", "blue", "something else"), ("no", "no")),
        ("I don’t know", ("red", "blue"), ("I don’t know", "unknown")),
        ("", (), ("", "unknown")),
        ("a small red mug", (), ("a small red mug", "value")),
        ("yes, two of them", (), ("yes, two of them", "yes")),
        ("x" * 10_000, (), ("x" * 500, "value")),
        ("No idea!", ("yes", "no"), ("No idea!", "unknown")),
        ("no idea what that is", ("yes", "no"), ("no idea what that is", "unknown")),
        ("Not sure, perhaps red", ("yes", "no"), ("Not sure, perhaps red", "unknown")),
        ("dunno", ("yes", "no"), ("dunno", "unknown")),
        ("IDK", ("red", "blue"), ("IDK", "unknown")),
        ("I dunno, sorry", (), ("I dunno, sorry", "unknown")),
        ("I don’t know?", (), ("I don’t know?", "unknown")),
        ("Not at all", ("yes", "no"), ("no", "no")),
        ("unknown brand", (), ("unknown brand", "value")),
    ],
)
def test_words_are_read(text: str, options: tuple[str, ...], expected: tuple[str, str]) -> None:
    found = read_answer(text, Question("?", options), source="person")
    assert (found.text, found.label) == expected
