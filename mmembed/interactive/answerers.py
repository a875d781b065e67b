"""Who answers in place of a person: what is known of the target, or what a person once said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from datasets import Dataset

from mmembed.data.formats.dialogue import split_turn
from mmembed.data.keys import normalise_text, pick, uniform
from mmembed.data.schema import DataError
from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.attribute_table import AttributeTable
from mmembed.interactive.questions import Answer, AnswerLabel, DialogueState, Question


class AttributeAnswerer:
    """Answers by the target's attributes, as a person would who sees it and now and then errs.

    With the table that the questioner has this is an oracle, whose figures are a bound. Honest figures come from a table
    made of other annotations than the index and the questioner's table ("held out").

    Whether one question about one target gets a wrong answer, or none, is drawn once: asked again, it gets the same.

    Args:
        table: what is true of the targets.
        source: what its answers say they are from, such as "oracle" or "held out".
        error: the share of answers that are wrong, from 0 to 1.
        unknown: the share of questions that get no answer, from 0 to 1.
        seed: of these draws.

    Raises:
        ValueError: a share out of range.

    Example:
        >>> from mmembed.interactive.attribute_table import Slot
        >>> table = AttributeTable(["a", "b"], [Slot("colour", ("red", "blue"))], [np.array([0, -1])])
        >>> answerer = AttributeAnswerer(table)
        >>> [answerer.answer(id, Question("Is it red?", attribute="colour=red")).label for id in ("a", "b")]
        ['yes', 'unknown']
    """

    def __init__(
        self,
        table: AttributeTable,
        *,
        source: str = "oracle",
        error: float = 0.0,
        unknown: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not (0 <= error <= 1 and 0 <= unknown <= 1):
            raise ValueError(f"error={error}, unknown={unknown}; shares lie from 0 to 1")
        self.table, self.source, self.error, self.unknown, self.seed = table, source, error, unknown, seed

    def answer(self, target_id: str, question: Question) -> Answer:
        """As of `Answerer`."""
        silent = Answer("", "unknown", self.source)
        about = question.attribute
        if about is None or uniform(self.seed, 0, target_id, f"silent {about}") < self.unknown:
            return silent
        wrong = uniform(self.seed, 0, target_id, f"wrong {about}") < self.error
        row = self.table.rows([target_id])
        place = self.table.place(about)
        if place is not None:
            held = float(self.table.probabilities(row)[0, place])
            if np.isnan(held):
                return silent
            label: AnswerLabel = "yes" if (held >= 0.5) != wrong else "no"
            return Answer(_option(question, label), label, self.source)
        slot = self.table.slot(about)
        if slot is None or not question.options:
            return silent
        held_each = self.table.probabilities(row)[0, self.table.slices[slot.name]]
        if np.isnan(held_each).any() or (slot.exclusive and not (held_each >= 0.5).any()):
            return silent
        values = question.provenance.get("values", question.options)
        right = next(
            (
                at
                for at, value in enumerate(values)
                if value in slot.values and held_each[slot.values.index(value)] >= 0.5
            ),
            len(question.options) - 1,  # "something else"
        )
        if wrong and len(question.options) > 1:
            step = 1 + pick(len(question.options) - 1, seed=self.seed, epoch=0, id=target_id, salt=f"wrong {about}")
            right = (right + step) % len(question.options)
        return Answer(question.options[right], "value", self.source)


class ReplayAnswerer:
    """Answers with what was once said about the target, word for word; to any other question it knows no answer.

    What is replayed tests how dialogues are read, joined and searched with; it cannot say how good a new question is.

    Args:
        dialogues: by target id, the rounds "question? answer"; a round without "?" holds no answer.

    Example:
        >>> replay = ReplayAnswerer({"a.jpg": ["is it red? no, blue"]})
        >>> replay.answer("a.jpg", Question("Is it red?")).text, replay.answer("a.jpg", Question("Is it big?")).label
        ('no, blue', 'unknown')
    """

    def __init__(self, dialogues: Mapping[str, Sequence[str]]) -> None:
        self._said: dict[str, list[tuple[str, str]]] = {}
        for target, rounds in dialogues.items():
            split = [split_turn(turn) for turn in rounds]
            self._said[target] = [(asked, said) for asked, said in split if said]

    @classmethod
    def from_queries(cls, queries: Dataset) -> ReplayAnswerer:
        """Of what `mmembed.data.formats.dialogue` reads.

        Args:
            queries: with the columns `group` (the target's id) and `dialog`, whose first entry is the caption.

        Raises:
            DataError: a column that is not there.
        """
        for name in ("group", "dialog"):
            if name not in queries.column_names:
                raise DataError("no such column; read dialogues with the format 'dialogue'", file="queries", field=name)
        return cls({target: rounds[1:] for target, rounds in zip(queries["group"][:], queries["dialog"][:])})

    def questions(self, target_id: str) -> list[str]:
        """The questions that were answered about a target, in their order; none for another target."""
        return [asked for asked, _ in self._said.get(target_id, ())]

    def answer(self, target_id: str, question: Question) -> Answer:
        """As of `Answerer`."""
        wanted, number = normalise_text(question.text), question.provenance.get("round")
        said = [
            (at, text)
            for at, (asked, text) in enumerate(self._said.get(target_id, ()))
            if normalise_text(asked) == wanted
        ]
        if not said:
            return Answer("", "unknown", "replay")
        # A question that was asked twice was answered twice; the one of its round is meant, else the first.
        text = dict(said).get(number, said[0][1]) if isinstance(number, int) else said[0][1]
        return Answer(text, read_answer(text, question, source="replay").label, "replay")


class ReplayQuestioner:
    """Asks what was once asked about a target, in that order, for a `ReplayAnswerer`.

    Args:
        questions: in order.

    Example:
        >>> ReplayQuestioner(["Is it red?"]).ask(DialogueState("a mug", (), ("a",), np.ones(1))).text
        'Is it red?'
    """

    def __init__(self, questions: Iterable[str]) -> None:
        self._texts = list(questions)

    def ask(self, state: DialogueState) -> Question | None:
        """The question of this round, or None after the last."""
        if state.round >= len(self._texts):
            return None
        return Question(self._texts[state.round], provenance={"questioner": "replay", "round": state.round})


def _option(question: Question, label: AnswerLabel) -> str:
    """The option that says so, where a question has two; else the label."""
    return question.options[("yes", "no").index(label)] if len(question.options) == 2 else label
