"""The same dialogues with several questioners: what is told, and that nothing but the questions differs."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.interactive.answer_channel import AnswerChannel
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.questions import Answer, DialogueState, Turn
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session import InteractiveSession
from mmembed.interactive.simulation import Task
from mmembed.interactive.vision_language_model import VisionLanguageModel
from mmembed.jobs.questioner_loop import ShownAttributes, loop_over_items, play_loop
from mmembed.search.lexical import LexicalIndex
from tests.interactive.tiny_questioner import tiny_model, tiny_processor

IDS = [f"c{number:02d}" for number in range(48)]
rng = np.random.default_rng(0)
TABLE = AttributeTable(
    IDS,
    [Slot("half", ("x", "y")), Slot("third", ("p", "q", "r")), Slot("rare", tuple("abcdefgh"))],
    [np.arange(48) % 2, np.arange(48) // 2 % 3, np.arange(48) // 6],
)
ASKS = AttributeQuestioner(TABLE, AnswerChannel.of_noise(13, error=0.0, unknown=0.0), kinds=("yes_no",))
INDEX = LexicalIndex.build(IDS, ["mug"] * 48, show_progress_bar=False)


def session(questioner, rounds=3):
    return InteractiveSession(TextRanker(INDEX), questioner, likelihood=ASKS, max_rounds=rounds, temperature=1.0)


class Worst:
    """Asks the question that tells least."""

    def ask(self, state):
        return ASKS.gains(state)[-1]


def test_a_better_questioner_is_seen_to_be_better():
    tasks = [Task(id, id, "mug") for id in IDS[::4]]
    found = play_loop(session, tasks, AttributeAnswerer(TABLE), {"trained": ASKS, "base": Worst(), "same": ASKS},
                      first="trained", rounds=3, samples=500, show_progress_bar=False)  # fmt: skip
    assert found["compared"]["base"]["mean"] < 0 and found["compared"]["base"]["high"] < 0
    assert found["compared"]["same"]["mean"] == 0 and found["compared"]["same"]["n"] == 12
    assert found["metrics"]["trained"]["bri"] < found["metrics"]["base"]["bri"]
    assert found["metrics"]["trained"]["median_rank[round=0]"] == found["metrics"]["base"]["median_rank[round=0]"]
    assert set(found["questions"]) == {"trained", "base", "same"} and found["questions"]["trained"] > 1
    assert "noise control" in found["table"] and "trained" in found["table"]


def test_questions_about_what_is_shown():
    shown = ShownAttributes(ASKS)
    state = DialogueState("mug", (), IDS, np.full(48, 1 / 48), shown=("c00", "c02"), seed=1)
    assert [one.attribute for one in shown.questions(state)] == ["half=x", "third=p", "third=q", "rare=a"]
    asked = shown.questions(state)[0]
    later = DialogueState(
        "mug", (Turn(asked, Answer("yes", "yes", "test")),), IDS, np.full(48, 1 / 48), ("c00", "c02"), 1
    )
    assert [one.attribute for one in shown.questions(later)] == ["third=p", "third=q", "rare=a"]
    assert shown.ask(state) == shown.ask(state) and shown.ask(state) in shown.questions(state)
    assert shown.ask(DialogueState("mug", (), ["c00"], np.ones(1), ("c00",))) is not None
    np.testing.assert_allclose(
        shown.likelihood(asked, Answer("yes", "yes", "t"), ["c00", "c01"]),
        ASKS.likelihood(asked, Answer("yes", "yes", "t"), ["c00", "c01"]),
    )


def test_models_over_items_of_ones_own(tmp_path):
    models = {name: VisionLanguageModel(tiny_model(), tiny_processor(), name=name) for name in ("base", "trained")}
    given = {"catalogue": {"products": 60, "photos": 1, "size": 32}, "part": "train", "attributes": ["colour", "pattern"],
             "query_column": "subcategory", "num_shown": 2}  # fmt: skip
    found = loop_over_items(given, tmp_path, models, dialogues=2, rounds=1, samples=50, quiet=True)
    assert set(found["metrics"]) == {"base", "trained", "any of the shown", "attributes"}
    assert found["compared"]["base"]["mean"] == 0  # the same weights ask the same
    assert found["metrics"]["trained"]["n"] == 2


def test_unknown_options_of_the_loop(tmp_path):
    with pytest.raises(ValueError, match="did you mean --query_column"):
        loop_over_items({"query_colum": "text"}, tmp_path, {}, dialogues=1, rounds=1, samples=10, quiet=True)
