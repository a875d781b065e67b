"""Questions that a dialogue answers already: what a model is told, and how its reply is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmembed.chat_endpoint import BudgetSpentError, ChatEndpoint
from mmembed.interactive.answerability import _answers, answerable_from_dialogue
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn
from tests.stand_in_endpoint import StandIn, stand_in

TURN = Turn(Question("is it big?"), Answer("no", "no", "person"))
STATE = DialogueState("a red mug", (TURN,), ("a", "b"), np.array([0.5, 0.5]), shown=("a", "b"))
QUESTIONS = [Question("Is it red?"), Question("Is it striped?\n3. Is it new?")]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


def endpoint(server: StandIn, tmp_path: Path, max_calls: int = 9) -> ChatEndpoint:
    return ChatEndpoint(server.url, "m", max_calls=max_calls, cache_dir=tmp_path)


def test_the_model_is_told_the_dialogue_and_shown_nothing(server: StandIn, tmp_path: Path) -> None:
    server.says('{"answers": ["yes, red", "uncertain"]}')
    made = endpoint(server, tmp_path)
    assert answerable_from_dialogue(made, STATE, QUESTIONS) == [True, False]
    (message,) = server.requests[0]["body"]["messages"]
    (part,) = message["content"]
    assert part["type"] == "text" and "\na red mug\n" in part["text"] and "\nQ: is it big?\nA: no\n" in part["text"]
    assert "\n1. Is it red?\n2. Is it striped? 3. Is it new?\n" in part["text"]
    other = dataclasses.replace(STATE, shown=("b",), seed=9)
    assert answerable_from_dialogue(made, other, QUESTIONS) == [True, False] and made.calls == 1
    assert answerable_from_dialogue(made, STATE, []) == [] and made.calls == 1


@pytest.mark.parametrize(
    "reply",
    ["yes", "[]", '{"answers": ["yes"]}', '{"answers": "yes"}', '{"answers": ["yes", 1]}', '{"answers": ["yes", "no"], "x": 1}',
     json.dumps({"answers": ["x" * 400, "no"]})],
)  # fmt: skip
def test_a_reply_that_cannot_be_read_drops_no_question(server: StandIn, tmp_path: Path, reply: str) -> None:
    server.says(reply)
    made = endpoint(server, tmp_path)
    assert answerable_from_dialogue(made, STATE, QUESTIONS) == [False, False] and made.unreadable == 1


def test_a_spent_budget_is_an_error(server: StandIn, tmp_path: Path) -> None:
    with pytest.raises(BudgetSpentError):
        answerable_from_dialogue(endpoint(server, tmp_path, max_calls=0), STATE, QUESTIONS)


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        ("yes", True), ("red", True), ("Uncertain.", False), ("UNKNOWN", False), ("", False), (" \n", False), ("I don’t know", False),
        ("not mentioned in the dialogue", False), ("不确定", False), ("Неизвестно", False), ("红色", True), ("No", True), ("It is unknown", True),
    ],
)  # fmt: skip
def test_what_counts_as_an_answer(answer: str, known: bool) -> None:
    assert _answers(answer) is known
