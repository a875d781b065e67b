"""Which of several questions is asked? Filters, and then a measure of what its answer is worth."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.attribute_questioner import entropy
from mmembed.interactive.query_state import QueryText, joined_text
from mmembed.interactive.question_attribute import AttributeReader
from mmembed.interactive.question_form import sift
from mmembed.interactive.questions import DialogueState, Likelihood, Question

#: "gain": the highest expected information gain; "kl": the smallest Kullback-Leibler divergence, as PlugIR has it; "first".
Measure = Literal["gain", "kl", "first"]
#: A dialogue and questions → which of them can be answered by what was said already.
Answerable = Callable[[DialogueState, Sequence[Question]], Sequence[bool]]

_MOST_TOLD = 20  # questions that a record names


class TextScores(Protocol):
    """Whatever scores candidates by texts, such as `TextLikelihood`."""

    def similarities(self, texts: Sequence[str], ids: Sequence[str]) -> NDArray[np.floating]:
        """(texts, ids), higher is better."""
        ...


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What came of a choice.

    Args:
        question: the question, or None where none survived.
        record: how many there were, what was dropped and why, and what the others measured; plain JSON.
    """

    question: Question | None
    record: dict[str, Any]

    def told(self, about: Mapping[str, Any]) -> Question | None:
        """The question with all of how it came about in its provenance: `about`, the record, and what it knew already."""
        if self.question is None:
            return None
        return dataclasses.replace(self.question, provenance={**about, **self.record, **self.question.provenance})


class QuestionChoice:
    """Chooses among questions that a model asked.

    In this order: questions are linked to attributes; those of bad form, asked before or twice fall out (`sift`); those whose
    answer the belief knows already; those that can be answered from the dialogue alone; those of no gain. Of the rest one is
    chosen.

    Args:
        likelihood: what an answer says of each candidate: `AttributeQuestioner`, `TextLikelihood`, …; needed for "gain".
        reader: links questions to attributes, where `likelihood` goes by them.
        by: the measure. "kl" needs `scores` and asks the question that moves the ranking least, which is what PlugIR does to
            leave out things that the target lacks (Lee et al. 2024, https://arxiv.org/abs/2406.03411); it is no gain.
        scores: of candidates by texts, for "kl".
        context: makes one text of the dialogue, for "kl".
        skip_top: candidates that "kl" leaves out at the top; PlugIR's ten.
        temperature: of the softmax in "kl", in units of the scores; PlugIR's 1.
        max_words: the longest question.
        settled: a question is left out where one of its answers has this probability or more already.
        min_gain: nats; a question that gains less is left out.

    Raises:
        ValueError: a measure without what it needs, or a number out of range.

    Example:
        >>> from mmembed.interactive.attribute_questioner import AttributeQuestioner
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> table = AttributeTable(["a", "b", "c", "d"], [Slot("colour", ("red", "blue")), Slot("kind", ("mug", "lamp"))],
        ...     [np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])])
        >>> choice = QuestionChoice(likelihood=AttributeQuestioner(table), reader=AttributeReader(table))
        >>> state = DialogueState("a thing", (), ("a", "b", "c", "d"), np.full(4, 0.25))
        >>> asked = [Question(text, ("yes", "no")) for text in ("Is it a lamp?", "Is it red?", "Is it a picture?")]
        >>> chosen = choice.choose(state, asked)
        >>> chosen.question.text, round(chosen.question.score, 2), chosen.record["dropped"]
        ('Is it red?', 0.49, {'true_of_all': 1})
    """

    def __init__(
        self,
        *,
        likelihood: Likelihood | None = None,
        reader: AttributeReader | None = None,
        by: Measure | None = None,
        scores: TextScores | None = None,
        context: QueryText = joined_text,
        skip_top: int = 10,
        temperature: float = 1.0,
        max_words: int = 25,
        settled: float = 0.95,
        min_gain: float = 1e-3,
    ) -> None:
        self.by: Measure = by or ("gain" if likelihood is not None else "first")
        if self.by not in ("gain", "kl", "first"):
            raise ValueError(f"by={by!r}; choose 'gain', 'kl' or 'first'")
        if (self.by == "gain" and likelihood is None) or (self.by == "kl" and scores is None):
            raise ValueError(f"by={self.by!r} needs {'a likelihood' if self.by == 'gain' else 'scores of texts'}")
        if skip_top < 0 or not temperature > 0 or max_words < 1 or not 0 < settled <= 1 or not min_gain >= 0:
            raise ValueError(
                f"skip_top={skip_top}, temperature={temperature}, max_words={max_words}, settled={settled}, "
                f"min_gain={min_gain}; from 0, above 0, from 1, above 0 and at most 1, from 0"
            )
        self.likelihood, self.reader, self.scores = likelihood, reader, scores
        self.context, self.skip_top, self.temperature = context, skip_top, temperature
        self.max_words, self.settled, self.min_gain = max_words, settled, min_gain

    def choose(
        self, state: DialogueState, questions: Sequence[Question], *, answerable: Answerable | None = None
    ) -> Chosen:
        """The question that is asked.

        Args:
            state: the dialogue.
            questions: what a model asked, in its order.
            answerable: which questions can be answered by what was said already, such as `answerable_from_dialogue`; it is
                asked about those alone that got through the other filters. None: nobody is asked.

        Returns:
            The question, with its gain as `score` where that was measured, and the record.
        """
        read = self.reader
        linked = [question if read is None else read.read(question, state) for question in questions]
        kept, dropped = sift(linked, [turn.question for turn in state.turns], max_words=self.max_words)
        answers = [self._answers(question, state) for question in kept]
        known = [said is not None and float((said @ state.probabilities).max()) >= self.settled for said in answers]
        dropped += [(question.text, "settled") for question, settled in zip(kept, known) if settled]
        answers = [said for said, settled in zip(answers, known) if not settled]
        kept = [question for question, settled in zip(kept, known) if not settled]
        if answerable is not None and kept:
            answered = list(answerable(state, kept))
            dropped += [(question.text, "answerable") for question, known in zip(kept, answered, strict=True) if known]
            answers = [said for said, known in zip(answers, answered) if not known]
            kept = [question for question, known in zip(kept, answered) if not known]
        gains = [None if said is None else information_gain(state.probabilities, said) for said in answers]
        small = [gain is not None and gain < self.min_gain for gain in gains]
        dropped += [(question.text, "no_gain") for question, less in zip(kept, small) if less]
        gains = [gain for gain, less in zip(gains, small) if not less]
        kept = [question for question, less in zip(kept, small) if not less]
        measures = self._measures(state, kept, gains)
        record = {
            "by": self.by,
            "asked": len(questions),
            "dropped": dict(Counter(reason for _, reason in dropped)),
            "dropped_texts": [list(one) for one in dropped[:_MOST_TOLD]],
            "kept": [[question.text, measure] for question, measure in zip(kept, measures)][:_MOST_TOLD],
        }
        if not kept:
            return Chosen(None, record)
        # What cannot be measured comes after what can; ties are the model's to decide.
        place = min(range(len(kept)), key=lambda place: _order(self.by, measures[place]))
        return Chosen(dataclasses.replace(kept[place], score=gains[place]), record)

    def _answers(self, question: Question, state: DialogueState) -> NDArray[np.float64] | None:
        if self.likelihood is None:
            return None
        return answer_probabilities(question, state.ids, self.likelihood)

    def _measures(
        self, state: DialogueState, questions: Sequence[Question], gains: Sequence[float | None]
    ) -> list[float | None]:
        if self.by == "gain":
            return list(gains)
        if self.by == "first" or self.scores is None or not questions:
            return [None] * len(questions)
        found = divergences(
            questions,
            state,
            self.scores,
            context=self.context,
            skip_top=self.skip_top,
            temperature=self.temperature,
        )
        return found.tolist()


def answer_probabilities(question: Question, ids: Sequence[str], likelihood: Likelihood) -> NDArray[np.float64] | None:
    """How likely each candidate makes each option of a question, given that one of them is the answer.

    Args:
        question: with at least two options that answer something.
        ids: n candidates.
        likelihood: what an answer says of each.

    Returns:
        float64 (options, n), each column sums to 1; None where the likelihood says nothing of the question.
    """
    bare = dataclasses.replace(question, options=())  # with its options, "not sure" is one of them
    told = [option for option in question.options if read_answer(option, bare, source="if").label != "unknown"]
    answers = [read_answer(option, question, source="if") for option in told]
    if len(answers) < 2:
        return None
    said = np.stack([likelihood.likelihood(question, answer, ids) for answer in answers]).astype(np.float64)
    if (said == 1).all():
        return None
    total = said.sum(axis=0)
    return np.where(total > 0, said / np.where(total > 0, total, 1), 1 / len(answers))


def information_gain(probabilities: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    """The entropy of a belief less its expected entropy after an answer, in nats.

    Args:
        probabilities: (n,), the belief.
        answers: (answers, n), how likely each candidate makes each answer; columns sum to 1.

    Returns:
        From 0 on; at most the entropy of the belief, and ln(answers).

    Example:
        >>> information_gain(np.full(4, 0.25), np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])).__round__(3)
        0.693
    """
    return max(float(entropy(answers @ probabilities) - probabilities @ entropy(answers.T)), 0.0)


def divergences(
    questions: Sequence[Question],
    state: DialogueState,
    scores: TextScores,
    *,
    context: QueryText = joined_text,
    skip_top: int = 10,
    temperature: float = 1.0,
) -> NDArray[np.float64]:
    """How much the words of each question alone move the ranking: PlugIR's KL(p_context ‖ p_context+question).

    p is the softmax of the scores of the candidates of the pool, without the first ones.

    Args:
        questions: n questions.
        state: the dialogue.
        scores: of candidates by texts.
        context: makes one text of the dialogue; the question is joined to it by ", ".
        skip_top: candidates left out at the top; where none would be left, none are.
        temperature: of the softmax, in units of the scores.

    Returns:
        float64 (n,), in nats.
    """
    ids = list(state.ids[skip_top:]) or list(state.ids)
    told = context(state.query, state.turns)
    found = np.asarray(
        scores.similarities([told, *(f"{told}, {one.text}" for one in questions)], ids), dtype=np.float64
    )
    logs = found / temperature
    logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return (np.exp(logs[0]) * (logs[0] - logs[1:])).sum(axis=1)


def _order(by: Measure, measure: float | None) -> tuple[bool, float]:
    if measure is None:
        return True, 0.0
    return False, -round(measure, 9) if by == "gain" else round(measure, 12)
