"""The loop: ranks, ties, stops, what answers change, and dialogues that go on where they were."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.interactive.answer_channel import AnswerChannel
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.belief import posterior, prior
from mmembed.interactive.candidates import top_candidates
from mmembed.interactive.query_state import joined_text
from mmembed.interactive.questions import Answer, Question
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session import InteractiveSession


class Fixed:
    """Scores that no words change."""

    def __init__(self, scores: list[float]) -> None:
        self.ids = [f"c{number}" for number in range(len(scores))]
        self._scores = np.array(scores)

    def scores(self, query, turns):
        return self._scores


def colours(n: int) -> AttributeTable:
    return AttributeTable(
        [f"c{number}" for number in range(n)],
        [Slot("colour", ("red", "green", "blue")), Slot("size", ("S", "M", "L"))],
        [np.arange(n) % 3, np.arange(n) // 3 % 3],
    )


def session(n: int = 9, scores: list[float] | None = None, **arguments) -> InteractiveSession:
    table = colours(n)
    questioner = AttributeQuestioner(table, AnswerChannel.of_noise(6, error=0.01, unknown=0.0), kinds=("yes_no",))
    arguments = {"temperature": 1.0, **arguments}
    return InteractiveSession(Fixed(scores or [0.0] * n), questioner, **arguments)


def test_the_belief_is_bayes_over_the_pool() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    dialogue = session(6, scores, depth=4, temperature=0.2).start("q", key="k")
    assert dialogue.belief == pytest.approx(prior(scores[:4], 0.2))
    question = dialogue.question
    assert question is not None
    dialogue.answer(Answer("no", "no", "test"))
    said = dialogue.session.likelihood.likelihood(question, Answer("no", "no", "test"), ["c0", "c1", "c2", "c3"])
    after = posterior(prior(scores[:4], 0.2), [said])
    assert sorted(dialogue.belief) == pytest.approx(sorted(after))
    assert dialogue.ids(4) == [f"c{at}" for at in np.argsort(-after, kind="stable")]
    assert dialogue.ids(6)[4:] == ["c4", "c5"] and dialogue.ids(99) == dialogue.ids(6)
    assert [dialogue.rank_of(id) for id in dialogue.ids(6)] == [1, 2, 3, 4, 5, 6]


def test_a_question_is_chosen_for_the_pool_that_the_belief_has_then() -> None:
    seen = []

    class Asks:
        def ask(self, state):
            seen.append((list(state.ids), state.probabilities))
            return Question("?", ("yes", "no"), f"colour={['red', 'blue'][state.round % 2]}")

    table = colours(9)
    own = AttributeQuestioner(table, AnswerChannel.of_noise(6, error=0.1))
    loop = InteractiveSession(Fixed([-n / 10 for n in range(9)]), Asks(), likelihood=own, pool=3, temperature=1.0)
    dialogue = loop.start("q")
    dialogue.answer("no")  # not c0, c3 and c6
    dialogue.answer("yes")  # c2, c5 or c8
    assert [ids for ids, _ in seen] == [["c0", "c1", "c2"], ["c1", "c2", "c4"], ["c2", "c5", "c8"]]
    assert all(probabilities.sum() == pytest.approx(1) for _, probabilities in seen)
    assert dialogue.belief.sum() == pytest.approx(1) and len(dialogue.belief) == 9


def test_ranks_of_ties_are_in_the_middle() -> None:
    dialogue = session(9).start("q")
    assert {dialogue.rank_of(f"c{number}") for number in range(9)} == {5.0}
    dialogue = session(6, [1.0, 1.0, 0.5, 0.5, 0.5, 0.1], depth=3).start("q")
    assert [dialogue.rank_of(f"c{number}") for number in range(6)] == [1.5, 1.5, 3.0, 4.5, 4.5, 6.0]
    assert dialogue.ids(3) == ["c0", "c1", "c2"]  # of equal ones the lowest id is in the pool


def test_what_was_not_retrieved_stands_behind_all_that_was() -> None:
    away = -np.inf
    dialogue = session(6, [0.3, away, 0.2, away, 0.1, away], depth=2).start("q")
    assert [dialogue.rank_of(f"c{number}") for number in range(6)] == [1, 5, 2, 5, 3, 5]
    assert dialogue.ids(6) == ["c0", "c2", "c4"]
    with pytest.raises(DataError, match="retrieved no candidate"):
        session(2, [away, away]).start("q")


def test_a_dialogue_finds_its_target_and_says_why_it_stops() -> None:
    answerer = AttributeAnswerer(colours(9))

    def play(**arguments) -> tuple[str | None, int]:
        own = {name: arguments.pop(name) for name in ("target_id", "success_at") if name in arguments}
        dialogue = session(9, **arguments).start("q", **own)
        while dialogue.question is not None:
            dialogue.answer(answerer.answer("c7", dialogue.question))
        assert dialogue.ids(1) == ["c7"] or len(dialogue.turns) < 3
        with pytest.raises(ValueError, match="has stopped"):
            dialogue.answer("yes")
        return dialogue.stopped, len(dialogue.turns)

    stopped, asked = play(min_gain=0.05)
    assert stopped == "uninformative" and asked <= 4
    assert play(max_rounds=2) == ("budget", 2)
    assert play(max_rounds=0) == ("budget", 0)
    assert play(confidence=0.9)[0] == "confident"
    assert play(target_id="c7", success_at=1)[0] == "success"
    assert play(target_id="c7", success_at=9) == ("success", 0)


def test_a_dialogue_goes_on_from_its_turns() -> None:
    answerer = AttributeAnswerer(colours(9))
    whole = session(9).start("q", key="k")
    while whole.question is not None:
        whole.answer(answerer.answer("c5", whole.question))
    for cut in range(len(whole.turns)):
        again = session(9).start("q", key="k", turns=whole.turns[:cut])
        while again.question is not None:
            again.answer(answerer.answer("c5", again.question))
        assert again.turns == whole.turns and again.ids(9) == whole.ids(9)


def test_words_are_read_as_answers() -> None:
    dialogue = session(9).start("q")
    first = dialogue.question
    assert first is not None and first.options == ("yes", "no")
    dialogue.answer("  YES! ")
    assert dialogue.turns[0].answer == Answer("yes", "yes", "person")
    dialogue.answer("I don't know")
    assert dialogue.turns[1].answer.label == "unknown"


def test_a_no_changes_the_belief_and_not_the_text() -> None:
    heard: list[str] = []

    class Words:
        ids = [f"c{number}" for number in range(9)]

        def scores(self, query: str) -> np.ndarray:
            heard.append(query)
            return np.zeros(9)

    table = colours(9)
    questioner = AttributeQuestioner(table, AnswerChannel.of_noise(6), kinds=("yes_no",))
    for believed, changes in (("all", [True, True]), ("no", [True, False]), ("none", [False, False])):
        heard.clear()
        loop = InteractiveSession(TextRanker(Words(), joined_text), questioner, believed=believed)  # type: ignore[arg-type]
        dialogue = loop.start("a thing")
        before = dialogue.belief.max()
        dialogue.answer("no")
        assert (dialogue.belief.max() > before + 1e-9) == changes[0]
        assert heard == ["a thing"]  # the same text is not scored twice
        before = dialogue.belief.max()
        dialogue.answer("yes")
        assert (dialogue.belief.max() > before + 1e-9) == changes[1]
        assert heard[-1] == f"a thing, {dialogue.turns[1].question.text} yes"


def test_a_question_without_likelihood_only_joins_the_text() -> None:
    class Asks:
        def ask(self, state):
            return Question("What else?") if state.round < 2 else None

    dialogue = InteractiveSession(Fixed([0.2, 0.1]), Asks()).start("q")
    dialogue.answer("a hat")
    dialogue.answer("nothing")
    assert dialogue.stopped == "uninformative" and dialogue.ids(2) == ["c0", "c1"]


def test_what_is_shown_is_told_to_the_questioner_and_seeded() -> None:
    states = []

    class Asks:
        def ask(self, state):
            states.append(state)
            return Question("What else?")

    loop = InteractiveSession(Fixed([0.3, 0.2, 0.1]), Asks(), sampler=top_candidates(1, start=1), seed=4)
    dialogue = loop.start("q", key="a")
    dialogue.answer("x")
    assert [state.shown for state in states] == [("c1",), ("c1",)] and dialogue.shown == ["c1"]
    assert states[0].seed != states[1].seed
    loop.start("q", key="b")
    loop.start("q", key="a")
    assert states[2].seed != states[0].seed and states[3].seed == states[0].seed


def test_what_cannot_be_meant_is_refused() -> None:
    loop = session(9)
    with pytest.raises(ValueError, match="say what is looked for"):
        loop.start("  ")
    with pytest.raises(DataError, match="none of the 9 candidates"):
        loop.start("q", target_id="z")
    with pytest.raises(ValueError, match="needs a target_id"):
        loop.start("q", success_at=3)
    with pytest.raises(DataError, match="none of the"):
        loop.start("q").rank_of("z")
    for arguments in (
        {"pool": 0},
        {"depth": 0},
        {"temperature": 0},
        {"believed": "yes"},
        {"confidence": 0},
        {"max_rounds": -1},
    ):
        with pytest.raises(ValueError):
            session(9, **arguments)
    with pytest.raises(ValueError, match="no candidates"):
        InteractiveSession(Fixed([]), loop.questioner)
    with pytest.raises(DataError, match="scores of shape"):
        session(9, [0.0, float("nan"), *[0.0] * 7]).start("q")


def test_one_candidate_is_found_without_a_question() -> None:
    dialogue = session(1).start("q")
    assert dialogue.ids(5) == ["c0"] and dialogue.stopped == "uninformative" and dialogue.rank_of("c0") == 1
