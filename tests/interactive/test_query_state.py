"""What is searched with: ChatIR's joins, a rewrite, SLERP and Rocchio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmembed.data.formats import dialogue
from mmembed.interactive.query_state import (
    caption_text,
    joined_text,
    rewritten_text,
    rocchio_turns,
    slerp,
    slerp_turns,
)
from mmembed.interactive.questions import Answer, AnswerLabel, Question, Turn

DIALOGUES = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "dialogues" / "chatir_VisDial_v1.0_queries_val.json"
)


def turn(question: str, answer: str, label: AnswerLabel = "value") -> Turn:
    return Turn(Question(question), Answer(answer, label, "test"))


def test_a_dialogue_is_joined_as_the_released_files_are() -> None:
    if not DIALOGUES.exists():
        pytest.skip("needs ../shared")
    every = ("yes", "no", "value", "unknown")
    for row in json.loads(DIALOGUES.read_text())[:200]:
        caption, *rounds = row["dialog"]
        turns = []
        for text in rounds:
            question, answer = dialogue.split_turn(text)
            turns.append(turn(question, answer or ""))
        wanted = ", ".join(row["dialog"])
        assert joined_text(caption, turns, labels=every).replace(" value", "") == wanted.replace(" value", "")


def test_a_no_is_left_out_unless_asked_for() -> None:
    turns = [
        turn("red?", "no", "no"),
        turn("big?", "yes", "yes"),
        turn("where?", "", "unknown"),
        turn("what?", "a mug"),
    ]
    assert joined_text("a thing", turns) == "a thing, big? yes, what? a mug"
    assert joined_text("a thing", turns, labels=("no",)) == "a thing, red? no"
    assert caption_text("a thing", turns) == "a thing"


def test_a_rewrite_is_asked_once_and_checked() -> None:
    asked = []

    def rewrite(rounds: list[str]) -> str:
        asked.append(rounds)
        return " ".join(rounds).upper()

    text = rewritten_text(rewrite)
    turns = [turn("big?", "yes", "yes"), turn("red?", "no", "no")]
    assert text("a mug", []) == "a mug" and asked == []
    assert text("a mug", turns) == text("a mug", turns[:1]) == "A MUG BIG? YES"
    assert asked == [["a mug", "big? yes"]]
    for bad in ("", "  ", None, 3):
        with pytest.raises(ValueError, match="must be a text"):
            rewritten_text(lambda rounds, bad=bad: bad)("a mug", turns)


def test_slerp_keeps_the_length_and_the_angle() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = (vector / np.linalg.norm(vector) for vector in generator.standard_normal((2, 16)))
        weight, angle = generator.random(), np.arccos(a @ b)
        found = slerp(a, b, weight)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
        assert np.arccos(np.clip(found @ a, -1, 1)) == pytest.approx(weight * angle, abs=2e-3)
        assert np.arccos(np.clip(found @ b, -1, 1)) == pytest.approx((1 - weight) * angle, abs=2e-3)
    assert slerp(a, a, 0.3) == pytest.approx(a, abs=1e-6) and slerp(a, -a, 0.3) == pytest.approx(a, abs=1e-6)
    turned = slerp_turns(1.0)(a.astype(np.float32), np.stack([a, b]).astype(np.float32))
    assert turned == pytest.approx(b, abs=1e-6)
    with pytest.raises(ValueError):
        slerp_turns(1.5)


def test_rocchio_is_the_formula() -> None:
    generator = np.random.default_rng(1)
    query, turns = generator.standard_normal(8), generator.standard_normal((3, 8))
    query /= np.linalg.norm(query)
    wanted = query + 0.5 * turns.mean(axis=0)
    assert rocchio_turns(1.0, 0.5)(query, turns) == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-6)
    assert rocchio_turns()(query, turns[:0]) == pytest.approx(query, abs=1e-6)
