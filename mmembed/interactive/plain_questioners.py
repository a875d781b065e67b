"""What would be asked by somebody who does not reckon with answers: at random, about what is frequent, or in halves."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.questions import Answer, DialogueState, Question

Criterion = Literal["random", "frequent", "half"]


class PlainQuestioner:
    """Asks yes-or-no questions by a simple rule, to compare an `AttributeQuestioner` with.

    Answers are weighed as the other questioner weighs them, so that only the choice of questions differs.

    Args:
        questioner: whose attributes, words and likelihoods are used.
        criterion: "random", each attribute as likely, by the state's seed; "frequent", the attribute that most of the
            belief has; "half", the one that nearest to half of it has.

    Raises:
        ValueError: an unknown criterion.

    Example:
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> table = AttributeTable(["a", "b", "c"], [Slot("has", ("x", "y"), False)], [np.array([[1, 0], [1, 1], [1, 0]], bool)])
        >>> state = DialogueState("q", (), ["a", "b", "c"], np.full(3, 1 / 3))
        >>> [PlainQuestioner(AttributeQuestioner(table), rule).ask(state).attribute for rule in ("frequent", "half")]
        ['has=x', 'has=y']
    """

    def __init__(self, questioner: AttributeQuestioner, criterion: Criterion) -> None:
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion={criterion!r}; choose one of {get_args(Criterion)}")
        self.questioner, self.criterion = questioner, criterion

    def ask(self, state: DialogueState) -> Question | None:
        """The question, or None where every attribute was asked about."""
        attributes = self.questioner.table.attributes
        asked = {turn.question.attribute for turn in state.turns}
        free = [place for place, attribute in enumerate(attributes) if attribute not in asked]
        if not free:
            return None
        if self.criterion == "random":
            place = free[int(np.random.default_rng(state.seed).integers(len(free)))]
        else:
            held = self.questioner.table.filled(self.questioner.table.rows(state.ids)).astype(np.float64)
            mass = np.asarray(state.probabilities) @ held
            wanted = -mass if self.criterion == "frequent" else np.abs(mass - 0.5)
            place = min(free, key=lambda one: (round(float(wanted[one]), 9), attributes[one]))
        return self.questioner.yes_no_question(attributes[place], None, {"questioner": self.criterion})

    def likelihood(self, question: Question, answer: Answer, ids: list[str]) -> NDArray[np.float64]:
        """As of `Likelihood`."""
        return self.questioner.likelihood(question, answer, ids)
