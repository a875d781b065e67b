"""What is asked and what is answered: the words that questioners, answerers and sessions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

#: "yes" and "no" of a question without options; "value": one of the options, or free text; "unknown": no answer.
AnswerLabel = Literal["yes", "no", "value", "unknown"]


@dataclass(frozen=True)
class Question:
    """One question to whoever looks for something.

    Args:
        text: as it is shown.
        options: the answers that may be chosen, such as ("yes", "no") or the values of an attribute; empty: free text.
        attribute: what of a candidate it asks about, such as "colour" or "colour=red"; None where that is not known.
        score: what the questioner expects of it, in nats of information gain where it is one; None where it does not say.
        provenance: how it came about: the questioner, its seed, the images it saw, what it was chosen from.

    Example:
        >>> Question("Is it red?", ("yes", "no"), attribute="colour=red", score=0.6).options
        ('yes', 'no')
    """

    text: str
    options: tuple[str, ...] = ()
    attribute: str | None = None
    score: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        text: as it was given.
        label: what it amounts to.
        source: who gave it: "oracle", "held out", "replay", "person", a model's name, …

    Example:
        >>> Answer("red", "value", "person").label
        'value'
    """

    text: str
    label: AnswerLabel
    source: str


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: Question
    answer: Answer


@dataclass(frozen=True)
class DialogueState:
    """Where a dialogue stands when the next question is to be asked.

    Args:
        query: what was asked for first: a caption or a query.
        turns: the questions and answers so far.
        ids: the pool of candidates, best first.
        probabilities: float64 (len(ids),), the belief over the pool; sums to 1.
        shown: ids of the candidates that are shown with the next question, some of `ids`.
        seed: of every draw that this state's question makes.

    Example:
        >>> DialogueState("a red mug", (), ("a", "b"), np.array([0.7, 0.3])).round
        0
    """

    query: str
    turns: tuple[Turn, ...]
    ids: Sequence[str]
    probabilities: NDArray[np.float64]
    shown: Sequence[str] = ()
    seed: int = 0

    @property
    def round(self) -> int:
        """How many questions were answered."""
        return len(self.turns)


class Questioner(Protocol):
    """Whatever asks: `AttributeQuestioner`, `VisionLanguageQuestioner`, `EndpointQuestioner`."""

    def ask(self, state: DialogueState) -> Question | None:
        """The next question, or None where none is worth asking."""
        ...


class Answerer(Protocol):
    """Whatever answers for a target: an oracle, a replay, a model that sees it, a person."""

    def answer(self, target_id: str, question: Question) -> Answer:
        """What the one who looks for `target_id` would say; "unknown" where that cannot be known."""
        ...


class Likelihood(Protocol):
    """What an answer says of each candidate."""

    def likelihood(self, question: Question, answer: Answer, ids: Sequence[str]) -> NDArray[np.float64]:
        """P(answer | candidate), float64 (len(ids),); ones where the answer says nothing."""
        ...
