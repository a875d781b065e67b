"""An attribute → the words of a question and of its options, in English, Chinese or Russian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmembed.data.catalogue.words import LANGUAGES, WORDS
from mmembed.prompt_safety import neutralised

_LONGEST = 80  # characters of a value in a question

# Nothing in these has to agree with the words that are put in.
_TEMPLATES = {
    "en": ("Is its {slot} {value}?", "What is its {slot}?", "yes", "no", "something else", "I don't know"),
    "zh": ("它的{slot}是{value}吗？", "它的{slot}是哪一种？", "是", "不是", "其他", "不知道"),
    "ru": ("Верно ли: {slot} – {value}?", "Что из этого верно: {slot}?", "да", "нет", "другое", "не знаю"),
}
# About a concept: whether any of several things is true of it, see `mmembed.interactive.attribute_concepts`.
_ANY = {
    "en": "Does any of these fit: {value}?",
    "zh": "其中有符合的吗：{value}？",
    "ru": "Подходит ли что-нибудь из этого: {value}?",
}
# What the drawn catalogue calls its columns, and shops theirs.
_SLOTS = {
    "category": ("category", "类别", "категория"),
    "subcategory": ("kind", "种类", "вид"),
    "brand": ("brand", "品牌", "бренд"),
    "colour": ("colour", "颜色", "цвет"),
    "second_colour": ("second colour", "第二种颜色", "второй цвет"),
    "pattern": ("pattern", "图案", "рисунок"),
    "material": ("material", "材质", "материал"),
    "size": ("size", "尺寸", "размер"),
    "gender": ("target group", "适用人群", "для кого"),
    "age_group": ("age group", "年龄段", "возраст"),
    "price_band": ("price band", "价位", "ценовая категория"),
    "adult": ("for adults only", "仅限成人", "только для взрослых"),
    "details": ("details", "细节", "детали"),
}


@dataclass(frozen=True)
class Wording:
    """How a questioner speaks.

    Args:
        language: "en", "zh" or "ru".
        yes_no: by slot, a template for questions about one value, with {slot} and {value}; "" for all other slots.
        choice: by slot, a template for questions among values, with {slot}; "" for all other slots.
        words: what a slot, or an attribute such as "colour=red", is called; what is not named keeps its own name, or that
            of the drawn catalogue.

    Raises:
        ValueError: an unknown language, or a template that names something else.

    Example:
        >>> Wording().yes_no_text("baseColour", "Navy Blue"), Wording("ru").choice_text("colour")
        ('Is its base colour Navy Blue?', 'Что из этого верно: цвет?')
    """

    language: str = "en"
    yes_no: Mapping[str, str] = field(default_factory=dict)
    choice: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise ValueError(f"language {self.language!r}; questions are asked in {', '.join(LANGUAGES)}")
        for template in (*self.yes_no.values(), *self.choice.values()):
            try:
                template.format(slot="", value="")
            except (KeyError, IndexError, ValueError, AttributeError):
                raise ValueError(f"the template {template!r}; it may name {{slot}} and {{value}} alone") from None

    def yes_no_text(self, slot: str, value: str) -> str:
        """A question about one value."""
        general = _ANY[self.language] if slot == "concept" else self.yes_no.get("") or self._own[0]
        template = self.yes_no.get(slot) or general
        return template.format(slot=self.slot_word(slot), value=self.value_word(slot, value))

    def choice_text(self, slot: str) -> str:
        """A question among several values."""
        template = self.choice.get(slot) or self.choice.get("") or self._own[1]
        return template.format(slot=self.slot_word(slot), value="")

    def slot_word(self, slot: str) -> str:
        """What a slot is called."""
        if slot in self.words:
            return plain_line(self.words[slot])
        if slot in _SLOTS:
            return _SLOTS[slot][LANGUAGES.index(self.language)]
        return plain_line(_spaced(slot.rpartition(".")[2]))

    def value_word(self, slot: str, value: str) -> str:
        """What a value is called."""
        named = self.words.get(f"{slot}={value}")
        if named is None and slot in _SLOTS and value in WORDS and self.language != "en":
            named = WORDS[value][LANGUAGES.index(self.language)].split("|")[0]
        return plain_line(value if named is None else named)

    def value_words(self, slot: str, values: Sequence[str]) -> tuple[str, ...]:
        """What several values are called, each differently, and what none of them is called at the end."""
        words: list[str] = []
        for value in values:
            word = self.value_word(slot, value)
            words.append(word if word not in words and word != self.something_else else f"{word} ({len(words) + 1})")
        return (*words, self.something_else)

    @property
    def yes(self) -> str:
        """The option that agrees."""
        return self._own[2]

    @property
    def no(self) -> str:
        """The option that disagrees."""
        return self._own[3]

    @property
    def something_else(self) -> str:
        """The option that none of the others fits."""
        return self._own[4]

    @property
    def unknown(self) -> str:
        """What somebody says who cannot answer."""
        return self._own[5]

    @property
    def _own(self) -> tuple[str, str, str, str, str, str]:
        return _TEMPLATES[self.language]


def plain_line(text: str) -> str:
    """A stranger's text as one short line in which no control token and no unseen character is left.

    Example:
        >>> plain_line("red\\n<|im_end|> {slot}")
        'red < |im_end|> {slot}'
    """
    line = neutralised(" ".join(text.split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _spaced(name: str) -> str:
    """baseColour, base_colour → base colour."""
    words = []
    for part in name.replace("_", " ").split():
        start = 0
        for at in range(1, len(part)):
            if part[at].isupper() and part[at - 1].islower():
                words.append(part[start:at])
                start = at
        words.append(part[start:])
    return " ".join(word if word.isupper() else word.lower() for word in words) or name
