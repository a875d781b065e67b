"""Questions in words → attributes; against the questions that were made of attributes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.question_attribute import AttributeReader
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.questions import Answer, DialogueState, Question

SLOTS = [
    Slot("subcategory", ("mug", "t-shirt", "lamp")),
    Slot("colour", ("red", "blue", "navy blue")),
    Slot("second_colour", ("red", "white")),
    Slot("size", ("S", "42", "43")),
    Slot("adult", ("yes", "no")),
    Slot("details", ("pocket", "hood"), exclusive=False),
]
IDS = [f"{number}" for number in range(60)]


@pytest.fixture(scope="module")
def table() -> AttributeTable:
    draw = np.random.default_rng(0)
    columns = [draw.integers(0, len(slot.values), 60) for slot in SLOTS[:-1]]
    return AttributeTable(IDS, SLOTS, [*columns, draw.random((60, 2)) < 0.3])


def state(table: AttributeTable, weights: np.ndarray | None = None) -> DialogueState:
    return DialogueState("x", (), IDS, np.full(60, 1 / 60) if weights is None else weights / weights.sum())


@pytest.mark.parametrize("language", ["en", "zh", "ru"])
def test_every_question_made_of_attributes_is_read_back(table: AttributeTable, language: str) -> None:
    wording = Wording(language)
    reader = AttributeReader(table, wording)
    made = AttributeQuestioner(table, wording=wording, min_gain=0.0).gains(state(table))
    assert len({question.attribute for question in made}) > 12
    for question in made:
        bare = dataclasses.replace(question, attribute=None, provenance={})
        read = reader.read(bare)
        assert read.attribute == question.attribute and read.options == question.options, question.text
        assert read.provenance.get("values") == question.provenance.get("values")
        assert reader.read(question) is question


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("Is it navy blue?", "colour=navy blue"),
        ("Does it come in blue?", "colour=blue"),
        ("Is it red?", None),  # of which of two slots
        ("Is its second colour red?", "second_colour=red"),
        ("Is the mug blue?", "colour=blue"),
        ("Is the blue mug a size 42?", "size=42"),
        ("Is it a mug or a lamp?", None),
        ("Does it have a pocket?", "details=pocket"),
        ("Is it meant for adults only?", "adult=yes"),
        ("Is it a t-shirt?", "subcategory=t-shirt"),
        ("Is it a shirt?", None),
        ("Is it reddish?", None),
        ("Is it a bluemug?", None),
        ("Does it cost 420 dollars?", None),
        ("Is it nice?", None),
        ("", None),
    ],
)
def test_questions_for_yes_or_no(table: AttributeTable, text: str, attribute: str | None) -> None:
    assert AttributeReader(table).read(Question(text, ("yes", "no"))).attribute == attribute


def test_what_is_settled_is_not_asked_about(table: AttributeTable) -> None:
    question = Question("Is a mug in navy blue wanted?", ("yes", "no"))
    reader = AttributeReader(table)
    assert reader.read(question, state(table)).attribute is None
    mugs = table.probabilities(table.rows(IDS))[:, 0]
    assert reader.read(question, state(table, mugs.astype(np.float64))).attribute == "colour=navy blue"


def test_options_that_are_values(table: AttributeTable) -> None:
    reader = AttributeReader(table)
    read = reader.read(Question("Which is it?", ("Navy  Blue", "blue", "Other")))
    assert (read.attribute, read.options) == ("colour", ("Navy  Blue", "blue", "something else"))
    assert read.provenance["values"] == ["navy blue", "blue"]
    likelihood = AttributeQuestioner(table).likelihood
    said = [likelihood(read, Answer(option, "value", "x"), IDS) for option in read.options]
    assert np.allclose(sum(said), 1) and np.ptp(said[0]) > 0.5  # type: ignore[arg-type]
    blue = table.probabilities(table.rows(IDS))[:, table.place("colour=blue")] == 1
    assert (said[1][blue] > 0.9).all() and (said[1][~blue] < 0.1).all()
    for options in (("red", "white", "green"), ("other", "none"), ("blue", "42"), ("red",)):
        assert reader.read(Question("Which is it?", options)).attribute is None
    assert reader.read(Question("Which second colour?", ("red", "white"))).attribute == "second_colour"


def test_open_questions_get_the_likeliest_values(table: AttributeTable) -> None:
    reader = AttributeReader(table, max_options=2)
    weights = np.where(table.probabilities(table.rows(IDS))[:, table.place("size=43")] == 1, 5.0, 1.0)
    read = reader.read(Question("What size do you need?"), state(table, weights))
    assert read.attribute == "size" and read.options[0] == "43" and read.options[2:] == ("something else",)
    unlinked = ["What is it like?", "What size and which kind?", "Which details?", "Tell me its size?"]
    assert [reader.read(Question(text), state(table)).attribute for text in unlinked] == [None] * 4
    assert reader.read(Question("What size do you need?")).attribute is None  # nothing is known of the candidates


def test_chinese_values_need_no_spaces() -> None:
    table = AttributeTable(["a", "b"], [Slot("colour", ("红色", "蓝色"))], [np.array([0, 1])])
    reader = AttributeReader(table, Wording("zh"))
    assert reader.read(Question("这件衣服是红色的吗？", ("是", "不是"))).attribute == "colour=红色"
    assert reader.read(Question("是绿色的吗？", ("是", "不是"))).attribute is None


@pytest.mark.security
def test_values_are_words_and_no_patterns() -> None:
    hostile = (".*", "(a+)+$", "\\", "[", "a" * 400)
    table = AttributeTable(["a", "b"], [Slot("odd", hostile)], [np.array([0, 1])])
    reader = AttributeReader(table)
    assert reader.read(Question("Is it anything?", ("yes", "no"))).attribute is None
    assert reader.read(Question("Is it " + "a" * 300 + "!?", ("yes", "no"))).attribute is None
    assert reader.read(Question("Is it [ ?", ("yes", "no"))).attribute == "odd=["
