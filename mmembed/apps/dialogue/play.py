"""One dialogue that a person plays: what is asked, who stands where and moved how, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmembed.interactive.questions import Answer, Question, Turn
from mmembed.interactive.session import Dialogue, InteractiveSession

#: How a dialogue ended: the target came first; the person picked it; the person had enough; or why the session stopped.
Outcome = Literal["first", "picked", "left", "uninformative", "budget", "confident"]

_REMEMBERED = 200  # places before an answer, against which moves are told


@dataclass(frozen=True)
class Candidate:
    """One of the best candidates.

    Args:
        id: its id.
        rank: from 1.
        belief: the share of the belief that it holds; None where it is not among those that are weighed.
        moved: places up since the answer before (down: below 0); None where it came from far behind, or there was none.
        is_new: whether it came from far behind.
    """

    id: str
    rank: int
    belief: float | None
    moved: int | None
    is_new: bool


class Play:
    """A dialogue with a person as the one who answers.

    Args:
        session: ranks and asks.
        query: what is looked for, in a few words.
        key: names the dialogue.
        target_id: what was shown to the person; None where the person chose secretly.

    Raises:
        ValueError: an empty query.
        DataError: a query that retrieves nothing.

    Example:
        >>> import numpy as np
        >>> from mmembed.interactive.attribute_questioner import AttributeQuestioner
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> from mmembed.interactive.rankers import TextRanker
        >>> from mmembed.search.lexical import LexicalIndex
        >>> index = LexicalIndex.build(["a", "b", "c"], ["mug", "mug", "mug"])
        >>> table = AttributeTable(index.ids, [Slot("colour", ("red", "blue"))], [np.array([0, 1, 1])])
        >>> play = Play(InteractiveSession(TextRanker(index), AttributeQuestioner(table)), "mug", "1", "a")
        >>> play.choose(play.question.options.index("red"))
        >>> play.ranks, play.outcome, play.top(1)[0].id
        ([2.0, 1.0], 'first', 'a')
    """

    def __init__(self, session: InteractiveSession, query: str, key: str, target_id: str | None = None) -> None:
        self.session, self.query, self.key = session, query, key
        self.target_id, self.is_secret = target_id, target_id is None
        self.outcome: Outcome | None = None
        #: Ranks of the target by the query alone and after each answer; empty while nobody knows it.
        self.ranks: list[float] = []
        self._places: dict[str, int] = {}
        self.dialogue: Dialogue = session.start(
            query, key=key, target_id=target_id, success_at=None if target_id is None else 1
        )
        self._note()

    @property
    def question(self) -> Question | None:
        """What is asked now."""
        return None if self.outcome is not None else self.dialogue.question

    @property
    def turns(self) -> list[Turn]:
        """What was asked and answered."""
        return self.dialogue.turns

    @property
    def can_pick(self) -> bool:
        """Whether it can still be said which one it is: while it is played, and while nobody knows it."""
        return self.outcome is None or self.target_id is None

    def choose(self, place: int) -> None:
        """Answer with one of the options; a place that is none changes nothing."""
        question = self.question
        if question is not None and 0 <= place < len(question.options):
            self._answer(question.options[place])

    def say(self, text: str) -> None:
        """Answer in words; an empty text changes nothing."""
        if self.question is not None and text.strip():
            self._answer(text)

    def skip(self) -> None:
        """Answer that one does not know."""
        if self.question is not None:
            self._answer(Answer("", "unknown", "person"))

    def pick(self, id: str) -> bool:
        """Say that this is it.

        Args:
            id: one of the candidates.

        Returns:
            Whether it is: what was shown, or, where the person chose secretly, whatever is picked.
        """
        if not self.can_pick or id not in self.session.rows:
            return False
        if self.target_id is None:
            self.target_id = id
            self.ranks = self._ranks_of(id)
        elif id != self.target_id:
            return False
        self.outcome = "picked"
        return True

    def leave(self) -> None:
        """End it; what was looked for is shown where it is known."""
        self.outcome = self.outcome or "left"

    def top(self, k: int) -> list[Candidate]:
        """The best candidates.

        Args:
            k: how many.
        """
        belief = self.dialogue.belief
        return [
            Candidate(
                id,
                rank,
                float(belief[rank - 1]) if rank <= len(belief) else None,
                self._places[id] - rank if id in self._places else None,
                bool(self._places) and id not in self._places,
            )
            for rank, id in enumerate(self.dialogue.ids(k), 1)
        ]

    def _answer(self, answer: Answer | str) -> None:
        self._places = {id: rank for rank, id in enumerate(self.dialogue.ids(_REMEMBERED), 1)}
        self.dialogue.answer(answer)
        self._note()

    def _note(self) -> None:
        if self.target_id is not None:
            self.ranks.append(self.dialogue.rank_of(self.target_id))
        stopped = self.dialogue.stopped
        if stopped is not None:
            self.outcome = "first" if stopped == "success" else stopped

    def _ranks_of(self, id: str) -> list[float]:
        """The ranks of what is known only now, by playing the same turns again."""
        turns = self.dialogue.turns
        return [
            self.session.start(self.query, key=self.key, turns=turns[:count]).rank_of(id) for count in range(len(turns))
        ] + [self.dialogue.rank_of(id)]
