"""Which attribute does a question in words ask about?

A model asks in words; what is known of candidates, and what an answer says of them, goes by attributes. A question that is
linked to one can be weighed by `AttributeQuestioner.likelihood` and answered by an `AttributeAnswerer`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from mmembed.data.keys import normalise_text
from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.attribute_table import AttributeTable
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.questions import DialogueState, Question

_OPEN = re.compile(r"^(?:what|which|how|who|где|что|как\w*|чем|сколько)\b|什么|哪|怎|几|多少", re.IGNORECASE)
_ELSE = {
    "something else",
    "other",
    "others",
    "none",
    "none of these",
    "neither",
    "another",
    "else",
    "其他",
    "都不是",
    "другое",
    "ничего",
}
# "Is the red mug striped?" takes for granted that it is red and a mug.
_GRANTED = re.compile(r"\b(?:the|this|that|these|those|your)\s(?:\w+\s)?$")
_SETTLED = 0.02  # a belief this near to 0 or 1 is not asked about


class AttributeReader:
    """Links questions in words to the attributes of a table.

    Read are the questions of a `Wording`, word for word; questions for yes or no that name one value, which only one slot
    has, or one whose name they say too; questions whose options are values of one slot; and open questions that name a slot,
    which get its likeliest values for options. Where more than one attribute might be meant, none is.

    Args:
        table: what is known of candidates.
        wording: what slots and values are called; None: in English.
        max_options: how many values an open question gets.

    Example:
        >>> import numpy as np
        >>> from mmembed.interactive.attribute_table import Slot
        >>> table = AttributeTable(["a", "b"], [Slot("colour", ("red", "blue")), Slot("size", ("S", "M"))],
        ...     [np.array([0, 1]), np.array([0, 0])])
        >>> reader = AttributeReader(table)
        >>> [reader.read(Question(text, ("yes", "no"))).attribute for text in (
        ...     "Is the shirt red?", "Is its size M?", "Is it nice?")]
        ['colour=red', 'size=M', None]
        >>> reader.read(Question("Which one is it?", ("Blue", "Red", "other"))).provenance["values"]
        ['blue', 'red']
    """

    def __init__(self, table: AttributeTable, wording: Wording | None = None, *, max_options: int = 6) -> None:
        if max_options < 1:
            raise ValueError(f"max_options={max_options}; an open question gets at least one")
        self.table, self.wording, self.max_options = table, wording or Wording(), max_options
        self._phrases: dict[str, str] = {}
        self._places: dict[
            str, list[tuple[str, str]]
        ] = {}  # words of a value → the slots that have it, and its name there
        self._slots: dict[str, list[str]] = {}
        for slot in table.slots:
            self._phrases.setdefault(normalise_text(self.wording.choice_text(slot.name)), slot.name)
            for words in {self.wording.slot_word(slot.name), slot.name}:
                self._slots.setdefault(normalise_text(words), []).append(slot.name)
            for value in slot.values:
                phrase = normalise_text(self.wording.yes_no_text(slot.name, value))
                self._phrases.setdefault(phrase, f"{slot.name}={value}")
                for words in {normalise_text(self.wording.value_word(slot.name, value)), normalise_text(value)}:
                    self._places.setdefault(words, []).append((slot.name, value))
        self._value_pattern = _pattern(self._places)
        self._slot_pattern = _pattern(self._slots)

    def read(self, question: Question, state: DialogueState | None = None) -> Question:
        """The question with its attribute, and with what its answers stand for.

        Args:
            question: as a model asked it; one that names an attribute of the table is left as it is.
            state: what is believed so far: an open question gets options by it, and what is settled is not asked about.

        Returns:
            The same question, or one with `attribute` and, where values are to be chosen from, with `options` and their
            names in `provenance["values"]`.
        """
        table = self.table
        if question.attribute is not None and (
            table.place(question.attribute) is not None or table.slot(question.attribute)
        ):
            return question
        text = normalise_text(question.text)
        known = self._phrases.get(text)
        labels = {read_answer(option, question, source="").label for option in question.options}
        polar = labels == {"yes", "no"} and len(question.options) == 2
        if known is not None and table.place(known) is not None and (polar or not question.options):
            return dataclasses.replace(question, attribute=known, options=question.options or self._polar_options)
        if polar:
            attribute = self._named_value(text, state)
            return question if attribute is None else dataclasses.replace(question, attribute=attribute)
        if question.options:
            return self._chosen(question, text)
        slot = known if known is not None and table.slot(known) else self._named_slot(text)
        return question if slot is None or state is None else self._with_options(question, slot, state)

    @property
    def _polar_options(self) -> tuple[str, str]:
        return self.wording.yes, self.wording.no

    def _named_value(self, text: str, state: DialogueState | None) -> str | None:
        """The attribute that a question for yes or no names."""
        slots = {name for found in self._slot_pattern.findall(text) for name in self._slots[found]}
        named: list[str] = []
        for match in self._value_pattern.finditer(text):
            places = self._places[match[0]]
            if len(places) > 1:
                places = [place for place in places if place[0] in slots]
            if len(places) != 1:
                return None
            attribute = "=".join(places[0])
            granted = _GRANTED.search(text[: match.start()]) and text[match.end() :].strip(" ?？")
            if not granted and not self._is_settled(attribute, state):
                named.append(attribute)
        if not named:  # "Is it for adults only?" of a slot whose values are yes and no
            both = [slot.name for slot in self.table.slots if slot.name in slots and set(slot.values) <= {"yes", "no"}]
            named = [f"{name}=yes" for name in both]
        return named[0] if len(set(named)) == 1 and self.table.place(named[0]) is not None else None

    def _is_settled(self, attribute: str, state: DialogueState | None) -> bool:
        place = self.table.place(attribute)
        if state is None or place is None:
            return False
        share = float(state.probabilities @ self.table.column(place, self.table.rows(state.ids)))
        return not _SETTLED < share < 1 - _SETTLED

    def _chosen(self, question: Question, text: str) -> Question:
        """A question whose options are values of one slot."""
        said = [normalise_text(option) for option in question.options]
        rest = {normalise_text(self.wording.something_else), *_ELSE}
        words = [word for word in said if word not in rest]
        fitting = [
            slot.name
            for slot in self.table.slots
            if words and all(any(name == slot.name for name, _ in self._places.get(word, ())) for word in words)
        ]
        if len(fitting) > 1:
            named = {name for found in self._slot_pattern.findall(text) for name in self._slots[found]}
            fitting = [name for name in fitting if name in named]
        if len(fitting) != 1:
            return question
        values = [next(value for name, value in self._places[word] if name == fitting[0]) for word in words]
        if len(set(values)) < len(values):
            return question
        kept = tuple(option for option, word in zip(question.options, said) if word not in rest)
        return self._linked(question, fitting[0], kept, values)

    def _named_slot(self, text: str) -> str | None:
        if not _OPEN.search(text):
            return None
        named = {name for found in self._slot_pattern.findall(text) for name in self._slots[found]}
        return named.pop() if len(named) == 1 else None

    def _with_options(self, question: Question, name: str, state: DialogueState) -> Question:
        """An open question with the likeliest values for options."""
        slot = self.table.slot(name)
        if slot is None or not slot.exclusive or len(slot.values) < 2:
            return question
        mass = state.probabilities @ self.table.filled(self.table.rows(state.ids))[:, self.table.slices[name]]
        likely = sorted(range(len(mass)), key=lambda place: (-round(float(mass[place]), 9), slot.values[place]))
        values = [slot.values[place] for place in likely[: self.max_options] if mass[place] > 0]
        return self._linked(question, name, self.wording.value_words(name, values)[:-1], values)

    def _linked(self, question: Question, slot: str, options: Sequence[str], values: Sequence[str]) -> Question:
        told = {**question.provenance, "values": list(values)}
        options = (*options, self.wording.something_else)
        return dataclasses.replace(question, attribute=slot, options=options, provenance=told)


def _pattern(words: dict[str, list[str]] | dict[str, list[tuple[str, str]]]) -> re.Pattern[str]:
    """Any of these words, the longest first; in a script with spaces only as whole words."""
    kept = sorted((word for word in words if word and word not in ("yes", "no")), key=len, reverse=True)
    return re.compile("|".join(map(_whole, kept)) if kept else r"(?!)")


def _whole(word: str) -> str:
    before, after = (r"(?<!\w)" if word[0] < "\u2e80" else ""), (r"(?!\w)" if word[-1] < "\u2e80" else "")
    return f"{before}{re.escape(word)}{after}"
