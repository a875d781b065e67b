"""Which questions are no good to ask, whoever is looked for, and which were asked before?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from mmembed.data.keys import normalise_text
from mmembed.interactive.questions import Question
from mmembed.search.content_words import own_words, rough_stem
from mmembed.search.lexical_tokens import main_script, tokenise

#: Why a question is not asked: it is not one question; it is too long; its options are none; it is about nothing; it is
#: answered alike for everything; it is about the pictures that are shown and not about the one that is looked for.
FormFault = Literal["no_question", "too_long", "bad_options", "about_nothing", "true_of_all", "about_candidates"]

_MOST_OPTIONS = 20
_LONGEST = 500  # characters
_MARK = re.compile(r"[?？]")
_ENDING = re.compile(r"[?？][\s\"'”’»)*_`]*$")
_PICTURE = r"(?:image|picture|photo(?:graph)?|item|product|object|thing)"
_TRUE_OF_ALL = re.compile(
    rf"""
      ^(?:is|are)\s(?:it|this|that|there|the\s{_PICTURE}|this\s{_PICTURE})\s(?:a|an|any|the)?\s?
       (?:real\s|single\s|clear\s)?(?:{_PICTURE}s?|something|anything|one|what\syou\s[\w\s]{{1,40}}|correct|right)\W*$
    | ^(?:is|are)\sthere\s(?:something|anything|more|other\sthings)\b[\w\s]{{0,40}}\W*$
    | ^(?:does|do)\s(?:it|this|the\s{_PICTURE})\shave\s(?:a|an|any|some)?\s?
       (?:colou?rs?|shapes?|sizes?|names?|prices?|materials?)\W*$
    | ^(?:can|could|would|will)\syou\b
    | ^(?:do|did|are|have)\syou\b
    | ^(?:what|which)\s(?:else\s)?(?:can|could|do|would|are|did)\syou\b
    | ^(?:这|它|图片|照片)是(?:一?[个张]?)(?:图片|照片|东西|物品|商品)吗\W*$
    | ^(?:你能|您能|你可以|请问你)
    | ^это\s(?:картинка|фото\w*|изображение|товар|предмет|вещь)\W*$
    | ^(?:можете|можешь|могли)\s(?:ли\s)?(?:вы|ты)?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_PARTICLES = re.compile("[吗呢吧嘛它他她这那]")  # of Chinese questions; they would be paired with their neighbours
_SHOWN = r"(?:image|picture|photo(?:graph)?|candidate|option|result)"
_ABOUT_CANDIDATES = re.compile(
    rf"""
      \b{_SHOWN}s?\s?(?:\#|no\.?|number)?\s?(?:\d{{1,3}}|one|two|three|four|five|six)\b(?!\sof\b)
    | \b{_SHOWN}\s[a-f](?=\W*$|\s?[,;)]|\s(?:or|and)\b)
    | \b(?:first|second|third|fourth|fifth|last|left|right|above|shown|other|these|those|provided|given|following)\s
       (?:\d\s|two\s|three\s|four\s|five\s)?{_SHOWN}s?\b
    | \bwhich\s(?:one\s)?(?:{_SHOWN}s?\b|of\s(?:the\s)?{_SHOWN}s\b)
    | \bwhich\s(?:one\s)?of\s(?:these|those|them)(?=\W*$|\s(?:is|are|do|does|best|looks?|matche?s?|shows?|would)\b)
    | \b(?:any|one|all|none|each|either)\sof\s(?:these|those|them|the\s{_SHOWN}s?)\b
    | 哪一?[张幅](?:图|照|画)|第\s?[\d一二三四五六]\s?[张幅个]|[图照]片?\s?[\d一二三四五六](?![定般样些])|这些(?:图|照)|以上(?:图|照)
    | \b(?:на\s)?(?:какой|какая|какое|перв\w+|втор\w+|трет\w+|последн\w+|этих|эти)\s(?:из\s)?(?:картин\w*|фото\w*|изображени\w*|вариант\w*)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def form_fault(question: Question, *, max_words: int = 25) -> FormFault | None:
    """Why a question is no good by its form; None where it is.

    Args:
        question: the question.
        max_words: the longest, in words; where a script has no spaces, two characters count as one.

    Returns:
        The first fault that is found.

    Example:
        >>> faults = [form_fault(Question(text)) for text in (
        ...     "Is the mug striped?", "The mug is striped.", "What is it?", "Is it a picture?", "Is it like image 2?")]
        >>> faults
        [None, 'no_question', 'about_nothing', 'true_of_all', 'about_candidates']
    """
    text = unicodedata.normalize("NFKC", " ".join(question.text[: _LONGEST + 1].split()))
    if len(text) > _LONGEST:
        return "too_long"
    if len(_MARK.findall(text)) != 1 or not _ENDING.search(text):
        return "no_question"
    unspaced = main_script(text) == "unspaced"
    if len(text) > 2 * max_words if unspaced else len(tokenise(text)) > max_words:
        return "too_long"
    told = [normalise_text(option) for option in question.options]
    if len(set(told)) < len(told) or len(told) == 1 or len(told) > _MOST_OPTIONS or not all(told):
        return "bad_options"
    if _TRUE_OF_ALL.search(text):
        return "true_of_all"
    if _ABOUT_CANDIDATES.search(text):
        return "about_candidates"
    about = own_words(text)
    if not about or (unspaced and all(len(word) < 2 for word in about)):
        return "about_nothing"
    return None


def is_repeat(question: Question, earlier: Iterable[Question], *, overlap: float = 0.8) -> bool:
    """Whether a question was asked before, in these words or in others.

    Args:
        question: the question.
        earlier: those that were asked.
        overlap: two questions are one where their own words, down to their stems, have a Jaccard similarity of this and the
            same numbers; with the same attribute they are one in any words.

    Example:
        >>> asked = [Question("Is the mug striped?"), Question("What is its colour?", attribute="colour")]
        >>> [is_repeat(question, asked) for question in (
        ...     Question("Does this mug have stripes?"), Question("Is the mug dotted?"), Question("Which hue?", attribute="colour"))]
        [True, False, True]
    """
    about, text = _about(question.text), normalise_text(question.text)
    for other in earlier:
        if question.attribute is not None and question.attribute == other.attribute:
            return True
        if text == normalise_text(other.text):
            return True
        words = _about(other.text)
        same = len(about & words)
        if same and same >= overlap * len(about | words) and _numbers(about) == _numbers(words):
            return True
    return False


def sift(
    questions: Sequence[Question], asked: Sequence[Question], *, max_words: int = 25, overlap: float = 0.8
) -> tuple[list[Question], list[tuple[str, str]]]:
    """The questions that are good by their form and new.

    Args:
        questions: what is to be chosen from, best first.
        asked: what was asked before.
        max_words: as of `form_fault`.
        overlap: as of `is_repeat`.

    Returns:
        The good ones in their order, and (text, reason) of the others: a `FormFault`, "repeated" for what was asked before,
        "duplicate" for what stands further up.
    """
    kept: list[Question] = []
    dropped: list[tuple[str, str]] = []
    for question in questions:
        reason: str | None = form_fault(question, max_words=max_words)
        if reason is None and is_repeat(question, asked, overlap=overlap):
            reason = "repeated"
        if reason is None and is_repeat(question, kept, overlap=overlap):
            reason = "duplicate"
        if reason is None:
            kept.append(question)
        else:
            dropped.append((question.text, reason))
    return kept, dropped


def _about(text: str) -> frozenset[str]:
    return frozenset(rough_stem(word) for word in own_words(_PARTICLES.sub(" ", text)))


def _numbers(words: frozenset[str]) -> set[str]:
    return {word for word in words if word.isdigit()}
