"""Which attribute should be asked about next, and what does its answer say of each candidate?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmembed.data.schema import DataError
from mmembed.interactive.answer_channel import AnswerChannel, choice_probabilities
from mmembed.interactive.attribute_table import AttributeTable
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn

Kind = Literal["yes_no", "choice"]

_DIGITS = 9  # gains that differ less are equal, and the name decides
_KEPT_NUMBERS = 2**23  # of a table up to this size what is reckoned with is kept whole: 64 MiB an array


@dataclass(frozen=True)
class _Pool:
    """What is used of the candidates again and again while they stay the same, in the order of their rows."""

    rows: NDArray[np.int64]
    yes: NDArray[np.float64]  # (candidates, attributes), P(yes | an answer)
    entropy: NDArray[np.float64]  # of these answers


class AttributeQuestioner:
    """Asks what is expected to tell most about which candidate is meant, as a person's answers are known to be.

    The expected information gain of a question whose answers o have P(o | x) for candidate x, under the belief p, is

        EIG = H(Σ_x p(x) P(· | x)) − Σ_x p(x) H(P(· | x)),      times the probability that it is answered at all

    (Lindley 1956; of products, Zou and Kanoulas 2019, https://arxiv.org/abs/1908.11733). Asked are single values ("Is its
    colour red?") and, of slots whose values exclude each other, which one it is. The same state gives the same question;
    equal gains are decided by the attribute's name.

    Args:
        table: what is known of every candidate.
        channel: how people answer about each attribute; None: 5 % of answers are wrong and 5 % of questions get none.
        kinds: what is asked, "yes_no", "choice" or both.
        max_options: values that one choice names; the likeliest are, and "something else" stands behind them.
        min_gain: the gain in nats below which no question is worth asking.
        look_ahead: how many of the best yes-or-no questions are looked at further: by what the best question after each
            of their answers would gain besides. 0 looks at the next answer alone.
        wording: how it speaks; None: in English.

    Raises:
        DataError: a channel that does not fit the table.
        ValueError: an option out of range.

    Example:
        >>> from mmembed.interactive.attribute_table import Slot
        >>> table = AttributeTable(["a", "b", "c", "d"], [Slot("colour", ("red", "blue")), Slot("size", ("S", "M"))],
        ...     [np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])])
        >>> questioner = AttributeQuestioner(table, AnswerChannel.of_noise(4, error=0.0), kinds=("yes_no",))
        >>> state = DialogueState("a shirt", (), ("a", "b", "c", "d"), np.full(4, 0.25))
        >>> question = questioner.ask(state)
        >>> question.text, question.attribute, round(question.score, 2)
        ('Is its colour blue?', 'colour=blue', 0.66)
        >>> questioner.likelihood(question, Answer("yes", "yes", "person"), ["a", "c"]).round(2).tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        table: AttributeTable,
        channel: AnswerChannel | None = None,
        *,
        kinds: Sequence[Kind] = ("yes_no", "choice"),
        max_options: int = 6,
        min_gain: float = 1e-3,
        look_ahead: int = 0,
        wording: Wording | None = None,
    ) -> None:
        if not kinds or set(kinds) - {"yes_no", "choice"}:
            raise ValueError(f"kinds={tuple(kinds)}; choose 'yes_no', 'choice' or both")
        if max_options < 1 or look_ahead < 0 or not min_gain >= 0:
            raise ValueError(
                f"max_options={max_options}, look_ahead={look_ahead}, min_gain={min_gain}; at least 1, 0 and 0"
            )
        self.table = table
        self.channel = channel or AnswerChannel.of_noise(len(table.attributes))
        self.channel.check(table)
        self.kinds, self.max_options, self.min_gain, self.look_ahead = tuple(kinds), max_options, min_gain, look_ahead
        self.wording = wording or Wording()
        self._slot_of = [slot for slot in table.slots for _ in slot.values]
        self._last: _Pool | None = None
        self._whole: _Pool | None = None

    def ask(self, state: DialogueState) -> Question | None:
        """The question with the highest gain, or None where no gain reaches `min_gain`."""
        questions = self.gains(state, most=1)
        return questions[0] if questions else None

    def gains(self, state: DialogueState, most: int | None = None) -> list[Question]:
        """The questions that are worth asking, best first, each with its gain as `score`.

        Args:
            state: the dialogue.
            most: how many; None for all.

        Returns:
            Questions with a gain of at least `min_gain`.
        """
        rows = self.table.rows(state.ids)
        order = np.argsort(rows)
        pool = self._pool(rows[order])
        belief = np.asarray(state.probabilities, dtype=np.float64)[order]
        scored = [*self._yes_no(belief, pool, state.turns, most), *self._choices(belief, pool, state.turns)]
        best = sorted(scored, key=lambda found: (-round(found[0], _DIGITS), found[1], found[2]))
        worth = [found for found in best if found[0] >= self.min_gain and found[0] > 0]
        return [self._question(*found) for found in worth[:most]]

    def likelihood(self, question: Question, answer: Answer, ids: Sequence[str]) -> NDArray[np.float64]:
        """P(answer | candidate), as of `Likelihood`; ones for an answer, or a question, that says nothing of attributes."""
        rows = self.table.rows(ids)
        place = None if question.attribute is None else self.table.place(question.attribute)
        if place is not None and answer.label in ("yes", "no"):
            yes = self._said_yes(place, rows)
            return yes if answer.label == "yes" else 1 - yes
        slot = None if question.attribute is None else self.table.slot(question.attribute)
        if slot is None or answer.label == "unknown":
            return np.ones(len(ids))
        named = [value for value in question.provenance.get("values", question.options) if value in slot.values]
        shown = dict(zip(question.options, [*named, None])) if len(named) + 1 == len(question.options) else {}
        value = shown.get(answer.text, answer.text if answer.label == "value" else None)
        if answer.label == "no":
            value = None
        elif value is not None and value not in named:
            place = self.table.place(f"{slot.name}={value}")  # said freely, and not among the options
            return np.ones(len(ids)) if place is None else self._said_yes(place, rows)
        elif value is None and answer.text not in shown:
            return np.ones(len(ids))
        if not named:
            return np.ones(len(ids))
        options = [slot.values.index(one) for one in named]
        held = self.table.filled_slot(slot.name, rows)
        said = choice_probabilities(held, self.channel, self.table.slices[slot.name], options)
        return said[:, named.index(value) if value is not None else len(named)]

    def _said_yes(self, place: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        holds = self.table.column(place, rows)
        true, false = self.channel.yes_if_true[place], self.channel.yes_if_false[place]
        return false + (true - false) * holds

    def _pool(self, rows: NDArray[np.int64]) -> _Pool:
        if self._last is not None and np.array_equal(self._last.rows, rows):
            return self._last
        if len(self.table) * len(self.table.attributes) <= _KEPT_NUMBERS:
            if self._whole is None:
                self._whole = self._reckoned(np.arange(len(self.table)))
            whole = self._whole
            self._last = _Pool(rows, whole.yes[rows], whole.entropy[rows])
        else:
            self._last = self._reckoned(rows)
        return self._last

    def _reckoned(self, rows: NDArray[np.int64]) -> _Pool:
        yes = self.channel.yes(self.table.filled(rows))
        return _Pool(rows, yes, binary_entropy(yes))

    def _yes_no(
        self, belief: NDArray[np.float64], pool: _Pool, turns: Sequence[Turn], most: int | None
    ) -> Iterator[tuple[float, str, tuple[int, ...]]]:
        """The yes-or-no questions; at least the best `most` of them, with all that equal these."""
        if "yes_no" not in self.kinds:
            return
        gains = self._binary_gains(belief, pool)
        free = self._free(turns)
        if self.look_ahead:
            first = sorted(free, key=lambda place: (-round(float(gains[place]), _DIGITS), self.table.attributes[place]))
            for place in first[: self.look_ahead]:
                if gains[place] > 0:
                    yield gains[place] + self._second(belief, pool, place, free), self.table.attributes[place], ()
            return
        if most is not None and most < len(free):
            least = np.partition(gains[free], len(free) - most)[len(free) - most] - 10.0**-_DIGITS
            free = [place for place in free if gains[place] >= least]
        for place in free:
            yield float(gains[place]), self.table.attributes[place], ()

    def _free(self, turns: Sequence[Turn]) -> list[int]:
        """Attributes that were not asked about and whose slot's value was not said."""
        settled = _settled(turns)
        taken = {place for name in settled if (place := self.table.place(name)) is not None}
        for name in settled:
            slot = self.table.slot(name)
            if slot is not None and slot.exclusive:
                taken |= set(range(self.table.slices[name].start, self.table.slices[name].stop))
        return [place for place in range(len(self.table.attributes)) if place not in taken]

    def _binary_gains(self, belief: NDArray[np.float64], pool: _Pool) -> NDArray[np.float64]:
        """(attributes,): the expected information gain of each yes-or-no question, in nats."""
        answered = 1 - self.channel.unknown
        return answered * np.maximum(binary_entropy(belief @ pool.yes) - belief @ pool.entropy, 0)

    def _second(self, belief: NDArray[np.float64], pool: _Pool, place: int, free: Sequence[int]) -> float:
        """What the best question after each answer to this one gains, on average."""
        silent = self.channel.unknown[place]
        others = np.array([other for other in free if other != place], dtype=np.int64)
        if not len(others):
            return 0.0
        total = 0.0
        for said in (pool.yes[:, place], 1 - pool.yes[:, place]):
            joint = belief * said
            if joint.sum() > 0:
                total += joint.sum() * self._binary_gains(joint / joint.sum(), pool)[others].max()
        return (1 - silent) * total + silent * self._binary_gains(belief, pool)[others].max()

    def _choices(
        self, belief: NDArray[np.float64], pool: _Pool, turns: Sequence[Turn]
    ) -> Iterator[tuple[float, str, tuple[int, ...]]]:
        if "choice" not in self.kinds:
            return
        settled = _settled(turns)
        for slot in self.table.slots:
            places = self.table.slices[slot.name]
            if not slot.exclusive or slot.name in settled or len(slot.values) < 2:
                continue
            held = self.table.filled_slot(slot.name, pool.rows)
            mass = belief @ held
            ranked = sorted(
                range(len(mass)), key=lambda number: (-round(float(mass[number]), _DIGITS), slot.values[number])
            )
            options = tuple(number for number in ranked[: self.max_options] if mass[number] > 0)
            if len(options) < 2:
                continue
            said = choice_probabilities(held, self.channel, places, options)
            gain = float(entropy(belief @ said)) - float(belief @ entropy(said))
            answered = 1 - float(self.channel.unknown[places].mean())
            yield answered * max(gain, 0.0), slot.name, options

    def _question(self, gain: float, attribute: str, options: tuple[int, ...]) -> Question:
        about = {"questioner": "attributes"}
        slot = self.table.slot(attribute) if options else None
        if slot is not None:
            values = [slot.values[number] for number in options]
            text, words = self.wording.choice_text(slot.name), self.wording.value_words(slot.name, values)
            return Question(text, words, attribute, float(gain), {**about, "kind": "choice", "values": values})
        return self.yes_no_question(attribute, float(gain), about)

    def yes_no_question(self, attribute: str, score: float | None, provenance: Mapping[str, Any]) -> Question:
        """The question whether an attribute of the table holds.

        Args:
            attribute: such as "colour=red".
            score: what is expected of it.
            provenance: how it came about.

        Returns:
            The question, in the questioner's words.

        Raises:
            DataError: an attribute that is not in the table.
        """
        place = self.table.place(attribute)
        if place is None:
            raise DataError(f"no attribute {attribute!r} to ask about", file="attributes")
        slot = self._slot_of[place]
        text = self.wording.yes_no_text(slot.name, attribute[len(slot.name) + 1 :])
        options = (self.wording.yes, self.wording.no)
        return Question(text, options, attribute, score, {**provenance, "kind": "yes_no"})


def binary_entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropy in nats of answers that are yes with these probabilities, of the same shape.

    Example:
        >>> binary_entropy(np.array([0.0, 0.5, 1.0])).round(3).tolist()
        [0.0, 0.693, 0.0]
    """
    from scipy.special import entr

    return entr(probabilities) + entr(1 - probabilities)


def entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropy in nats over the last axis.

    Example:
        >>> float(entropy(np.array([0.25, 0.25, 0.5]))).__round__(3)
        1.04
    """
    from scipy.special import entr

    return entr(probabilities).sum(axis=-1)


def _settled(turns: Sequence[Turn]) -> set[str]:
    """Attributes that were asked about, and slots whose value was said."""
    found: set[str] = set()
    for turn in turns:
        if turn.question.attribute is not None:
            found.add(turn.question.attribute)
            if turn.answer.label == "yes":
                found.add(turn.question.attribute.partition("=")[0])
    return found
