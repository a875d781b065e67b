"""What somebody typed or chose → an answer."""

from __future__ import annotations

from mmembed.data.keys import normalise_text
from mmembed.interactive.questions import Answer, AnswerLabel, Question

_YES = {"yes", "y", "yeah", "yep", "true", "是", "是的", "对", "有", "да", "ага", "верно"}
_NO = {"no", "n", "nope", "not", "false", "不", "不是", "否", "没有", "нет", "неверно"}
_UNKNOWN = {
    "", "?", "unknown", "i don't know", "don't know", "dont know", "i dont know", "dunno", "i dunno", "idk", "no idea", "i have no idea",
    "no clue", "not sure", "i'm not sure", "cannot tell", "can't tell", "i cannot tell", "i can't tell",
    "不知道", "不清楚", "не знаю", "неизвестно", "без понятия", "понятия не имею",
}  # fmt: skip
_LONGEST = 500  # characters of an answer that are kept


def read_answer(text: str, question: Question, *, source: str) -> Answer:
    """Read an answer given in words.

    Args:
        text: what was said. One of the question's options, whatever the case; yes, no or "don't know" in English, Chinese or
            Russian, alone or at the beginning ("no, it is blue"); anything else is a value.
        question: the question.
        source: who said it.

    Returns:
        The answer; an option's text is that of the option.

    Example:
        >>> colour = Question("What is its colour?", ("red", "blue", "something else"), "colour")
        >>> read_answer(" Blue ", colour, source="person")
        Answer(text='blue', label='value', source='person')
        >>> [read_answer(text, Question("Is it red?"), source="person").label for text in ("No, blue.", "no idea", "cork")]
        ['no', 'unknown', 'value']
    """
    plain = " ".join(text.split())[:_LONGEST]
    said = normalise_text(plain).strip(" .!")
    polar = normalise_text(plain).replace("，", ",").partition(",")[0].strip(" .!。")
    first = said.split(" ")[0].strip(".,;!")
    for option in question.options:
        if normalise_text(option) == said:
            return Answer(option, _polar(normalise_text(option)) or "value", source)
    if _says_nothing(said.replace("’", "'"), polar.replace("’", "'")):
        return Answer(plain, "unknown", source)
    label = _polar(said) or _polar(polar) or (_polar(first) if len(question.options) in (0, 2) else None)
    for option in question.options:
        if label is not None and _polar(normalise_text(option)) == label:
            return Answer(option if said in (polar, first) else plain, label, source)
    return Answer(plain, label or "value", source)


def _says_nothing(said: str, before_comma: str) -> bool:
    if said.rstrip("?") in _UNKNOWN or before_comma in _UNKNOWN - {""}:
        return True
    return any(
        said.startswith(f"{phrase} ") for phrase in _UNKNOWN if " " in phrase
    )  # "no idea what that is" is no "no"


def _polar(word: str) -> AnswerLabel | None:
    return "yes" if word in _YES else "no" if word in _NO else None
