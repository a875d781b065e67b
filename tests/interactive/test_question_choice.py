"""Which question is asked: gains against those of attributes and by brute force, PlugIR's measure by hand, and what falls out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest

from mmembed.interactive.answer_channel import AnswerChannel
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.belief import posterior
from mmembed.interactive.question_attribute import AttributeReader
from mmembed.interactive.question_choice import QuestionChoice, answer_probabilities, divergences, information_gain
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn

IDS = [f"{number}" for number in range(40)]
SLOTS = [Slot("colour", ("red", "blue", "green")), Slot("kind", ("mug", "lamp")), Slot("size", ("S", "M"))]


@pytest.fixture(scope="module")
def table() -> AttributeTable:
    draw = np.random.default_rng(0)
    columns = [draw.integers(0, 3, 40), draw.integers(0, 2, 40), np.zeros(40, dtype=np.int64)]
    return AttributeTable(IDS, SLOTS, columns)


@pytest.fixture(scope="module")
def questioner(table: AttributeTable) -> AttributeQuestioner:
    return AttributeQuestioner(table, AnswerChannel.of_noise(7, error=0.1, unknown=0.0), min_gain=0.0)


def state(turns: Sequence[Turn] = (), seed: int = 1) -> DialogueState:
    weights = np.random.default_rng(seed).random(40)
    order = np.argsort(-weights)
    return DialogueState("x", tuple(turns), [IDS[at] for at in order], weights[order] / weights.sum())


def test_gains_are_those_of_attributes(questioner: AttributeQuestioner) -> None:
    made = questioner.gains(state())
    assert len(made) > 4
    for question in made:
        said = answer_probabilities(question, state().ids, questioner)
        assert said is not None and information_gain(state().probabilities, said) == pytest.approx(question.score)
        assert np.allclose(said.sum(axis=0), 1)


def test_gains_by_brute_force(questioner: AttributeQuestioner) -> None:
    """The entropy of the belief less its mean after each answer."""
    question = questioner.gains(state())[0]
    said = answer_probabilities(question, state().ids, questioner)
    assert said is not None
    before = state().probabilities

    def entropy(belief: np.ndarray) -> float:
        return float(-(belief[belief > 0] * np.log(belief[belief > 0])).sum())

    after = sum(float(row @ before) * entropy(posterior(before, [row])) for row in said)
    assert information_gain(before, said) == pytest.approx(entropy(before) - after)


def test_the_question_of_most_gain_is_asked(table: AttributeTable, questioner: AttributeQuestioner) -> None:
    made = questioner.gains(state())
    bare = [dataclasses.replace(question, attribute=None, score=None, provenance={}) for question in made[::-1]]
    choice = QuestionChoice(likelihood=questioner, reader=AttributeReader(table))
    chosen = choice.choose(state(), bare)
    assert chosen.question is not None and chosen.question.text == made[0].text
    assert chosen.question.score == pytest.approx(made[0].score) and chosen.question.attribute == made[0].attribute
    told = chosen.told({"questioner": "me", "by": "nobody"})
    assert told is not None and told.provenance["questioner"] == "me" and told.provenance["by"] == "gain"
    assert told.provenance.get("values") == made[0].provenance.get("values")
    assert json.loads(json.dumps(told.provenance)) == told.provenance


def test_what_cannot_be_weighed_comes_last(table: AttributeTable, questioner: AttributeQuestioner) -> None:
    choice = QuestionChoice(likelihood=questioner, reader=AttributeReader(table))
    unknown, red = Question("Is it shiny?", ("yes", "no")), Question("Is it red?", ("yes", "no"))
    assert choice.choose(state(), [unknown, red]).question.text == "Is it red?"  # type: ignore[union-attr]
    only = choice.choose(state(), [unknown, Question("What is around it?")])
    assert only.question is not None and only.question.text == "Is it shiny?" and only.question.score is None
    assert QuestionChoice().choose(state(), [unknown, red]).question.text == "Is it shiny?"  # type: ignore[union-attr]


def test_what_falls_out_and_why(table: AttributeTable) -> None:
    certain = AttributeQuestioner(table, AnswerChannel.of_noise(7, error=0.01, unknown=0.0))
    asked = Turn(Question("Is it red?", ("yes", "no"), attribute="colour=red"), Answer("no", "no", "x"))
    texts = {
        "Is it a lamp?": None,
        "Is the colour red?": "repeated",
        "Is its size S?": "settled",
        "Is it a picture?": "true_of_all",
        "is it a LAMP?": "duplicate",
        "What is it? Is it big?": "no_question",
        "Does it have a handle?": "answerable",
    }
    seen: list[str] = []

    def answerable(state: DialogueState, questions: Sequence[Question]) -> list[bool]:
        seen.extend(question.text for question in questions)
        return ["handle" in question.text for question in questions]

    choice = QuestionChoice(likelihood=certain, reader=AttributeReader(table))
    chosen = choice.choose(state([asked]), [Question(text, ("yes", "no")) for text in texts], answerable=answerable)
    assert chosen.question is not None and chosen.question.text == "Is it a lamp?"
    assert dict(chosen.record["dropped_texts"]) == {text: reason for text, reason in texts.items() if reason}
    assert seen == ["Is it a lamp?", "Does it have a handle?"] and chosen.record["asked"] == 7
    assert chosen.record["kept"] == [["Is it a lamp?", chosen.question.score]]
    none = choice.choose(state(), [Question("Is it a picture?"), Question("")], answerable=answerable)
    assert none.question is None and none.told({}) is None and sum(none.record["dropped"].values()) == 2
    assert choice.choose(state(), []).question is None
    less = QuestionChoice(likelihood=certain, reader=AttributeReader(table), min_gain=0.69, settled=1.0)
    record = less.choose(
        state(), [Question("Is it red?", ("yes", "no")), Question("Is its size S?", ("yes", "no"))]
    ).record
    assert record["dropped"] == {"no_gain": 2}


class Scores:
    """Texts that name a number score the candidates of that residue."""

    def similarities(self, texts: Sequence[str], ids: Sequence[str]) -> np.ndarray:
        self.texts = list(texts)
        rows = [
            [0.1 * (int(id) % 5) + (0.5 if text.endswith(f"{int(id) % 3}?") else 0) for id in ids] for text in texts
        ]
        return np.array(rows)


def test_plugirs_measure_by_hand() -> None:
    scores, asked = Scores(), [Question("is it 0?"), Question("is it 1?"), Question("is it big?")]
    turn = Turn(Question("is it old?"), Answer("yes", "yes", "x"))
    now = state([turn])
    found = divergences(asked, now, scores, skip_top=10, temperature=0.5)
    assert scores.texts == ["x, is it old? yes", *(f"x, is it old? yes, {one.text}" for one in asked)]
    pool = now.ids[10:]
    before = np.exp(np.array([0.1 * (int(id) % 5) for id in pool]) / 0.5)
    for number in (0, 1):
        after = before * np.exp(np.array([0.5 * (int(id) % 3 == number) for id in pool]) / 0.5)
        p, q = before / before.sum(), after / after.sum()
        assert found[number] == pytest.approx((p * np.log(p / q)).sum()) and found[number] > 0.01
    assert found[2] == pytest.approx(0, abs=1e-12)
    chosen = QuestionChoice(by="kl", scores=scores, temperature=0.5).choose(now, asked)
    assert chosen.question is not None and chosen.question.text == "is it big?" and chosen.question.score is None
    assert [measure for _, measure in chosen.record["kept"]] == pytest.approx(found.tolist())
    few = dataclasses.replace(now, ids=now.ids[:5], probabilities=np.full(5, 0.2))
    assert np.isfinite(divergences(asked, few, scores)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "gain"}, "needs a likelihood"), ({"by": "kl"}, "needs scores"), ({"by": "best"}, "choose 'gain'"), ({"skip_top": -1}, "skip_top=-1"),
        ({"temperature": 0.0}, "temperature=0.0"), ({"settled": 0.0}, "settled=0.0"), ({"min_gain": float("nan")}, "min_gain=nan"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuestionChoice(**options)


def test_options_that_say_nothing(questioner: AttributeQuestioner) -> None:
    for options in ((), ("yes",), ("not sure", "unknown"), ("yes", "not sure")):
        assert answer_probabilities(Question("Is it red?", options, "colour=red"), IDS, questioner) is None
    told = answer_probabilities(Question("Is it red?", ("yes", "no", "not sure"), "colour=red"), IDS, questioner)
    assert told is not None and told.shape == (2, 40)
