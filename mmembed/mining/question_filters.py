"""Which generated questions are no good, and why."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mmembed.search.content_words import own_words, rough_stem
from mmembed.search.lexical_tokens import main_script, tokenise

REASONS = ("placeholder", "not_self_contained", "unanswerable", "duplicate")

# --- no question at all: what a generator says instead of one ---------------------------------------------------------
_PLACEHOLDER = re.compile(
    r"""
      (提出|提问|生成|给出|列出|设计|写出|编写)\s*(以下|下面|如下|下列|一个|一些|几个|两个|三个|多个|若干|哪些|相关)*(的)?\s*(关于.{0,60}的)?\s*(问题|提问)
    | (以下|下面|如下)(是|为)?.{0,12}问题\s*[:：]?\s*$
    | ^\s*(问题|提问|答案|回答)\s*\d*\s*[:：]?\s*$
    | ^\s*(好的|当然|没问题|作为(一个)?(人工智能|ai|语言模型))
    | \b(ask|pose|propose|generate|write|create|formulate|come\s+up\s+with|suggest|provide)\b.{0,30}
      \b(following|a|an|some|one|two|three|several|\d+|these)\s+(more\s+|possible\s+|relevant\s+)?(questions?|quer(y|ies))\b
    | ^\s*(here\s+(is|are)|the\s+following\s+(is|are)|below\s+(is|are))\b.{0,60}\b(questions?|quer(y|ies))\b
    | ^\s*(sure|certainly|of\s+course)\b\s*[,!:.]
    | ^\s*as\s+an\s+ai\b
    | ^\s*(question|query|q|answer|a)\s*\d*\s*[:.]?\s*$
    | \b(зада(ть|йте|й)|состав(ить|ьте|ь)|придума(ть|йте|й)|сформулир(овать|уйте|уй))\b.{0,30}\bвопрос
    | ^\s*(вот|ниже)\b.{0,40}\bвопрос
    | ^\s*(вопрос|ответ)\s*\d*\s*[:.]?\s*$
    | ^\s*(конечно|хорошо)\s*[,!:.]
    | ^\s*(n/?a|none|null|todo|tbd|lorem\ ipsum|нет|无|没有)\s*[.。]?\s*$
    | ^\s*[\[<{(（【《「]\s*(your\s+)?(question|query|问题|提问|вопрос)s?\s*\d*\s*(here)?\s*[\])}>）】》」]\s*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LEAD_IN = re.compile(r"[:：]\s*$")

# --- a question that points at a passage its reader does not see ------------------------------------------------------
_POINTS_AT_PASSAGE = re.compile(
    r"""
      上述|上下文|(根据|依据|基于|按照|结合|阅读|参照|从|由|据|如)\s*(以上|上面|上文|前文|下文|文中|本文|该文|此文|原文|文章|文本|语境|短文|材料)
    | (以上|上面)的?(信息|内容|描述|文字|文本|文章|材料|资料|段落|陈述|所述|提到)
    | (?<![\u4e00-\u9fff])(文中|文内|上文|前文|下文|本文|本段|本篇)(?!化|学|件|字|明|献|物)
    | (原文|文章|文本|短文|段落)(中|里|内|说|讲|认为|指出|提到|提及|描述|介绍|主要|所述|的?标题|的?作者|的?内容)
    | (这|该|此|所给|给定|所提供)的?(一?(个|段|篇|则|份|部分))?的?(文字|文本|文章|段落|短文|材料|内容|片段|资料|信息|报道)
    | (根据|依据|基于|按照)\s*(资料|材料|报道|报告|内容|信息|文字|段落|片段)\s*(内容|信息)?\s*[，,]
    | 作者(认为|指出|提到|觉得|对|在|为什么|为何|如何|是怎么|是如何)
    | \b(according\s+to|based\s+on|in|from|within|per|as\s+(described|stated|mentioned|discussed|introduced)\s+in)\s+
      (the|this|that|these|your)\s+(above\s+|given\s+|provided\s+|following\s+)?
      (text|passage|context|document|article|paragraph|excerpt|extract|snippet|information|content|author|speaker|narrator|description)s?\b(?!\s+of\b)
    | \b(the|this)\s+(above\s+|given\s+|provided\s+)?(text|passage|excerpt|snippet|article|document|paragraph|context)\s+
      (say|state|mention|describe|discuss|explain|suggest|imply|indicate|provide|refer|present|about)\w*
    | \bthe\s+(author|narrator|speaker)(['’]s)?\b(?!\s+of\b)
    | \b(mentioned|described|stated|discussed|given|provided|listed)\s+(above|below|earlier|here)\b
    | \bthe\s+(above|aforementioned|preceding|following)\s+(text|passage|information|statement|paragraph)s?\b
    | \b(в|из|согласно|по|исходя\s+из|на\s+основе|на\s+основании)\s+(этого\s+|данного\s+|этому\s+|данному\s+|этом\s+|данном\s+|приведенн\w+\s+|приведённ\w+\s+)?
      (текст|отрывк|абзац|фрагмент|стать|документ)(е|а|у|и|ом|ей)?\b(?!\s+(закона|договора|конституции|\d))
    | \b(из|согласно|исходя\s+из)\s+контекст(а|у)\b
    | \b(автор|рассказчик)(а|у|ом)?\s+(текста|статьи|отрывка|считает|говорит|утверждает|упоминает)
    | \b(упомянут|описан|указан|приведен|приведён)\w*\s+(выше|ниже|здесь)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A pronoun before anything it could stand for.
_PRONOUN_FIRST = re.compile(
    r"""
      ^\W*(他们|她们|它们|他|她|它|其(?!他|它|余|中|次|实)|这些|那些|这(?!一)|那(?!么)|该(公司|企业|人|国|地区|项目|产品|技术|机构|组织|市)|此(人|事|举|项))
    | ^\W*(who|whom|whose|what|when|where|why|how|which)?\s*(is|are|was|were|did|does|do|has|have|had|will|would|can|could|should)?\s*
      \b(he|she|they|him|her|his|their|theirs|this|these|those)\b(?!\s+(that|who|which|year|century|month|week|day)\b)
    | ^\W*(что|где|когда|почему|зачем|как|кто|кого|кому|сколько|какой|какая|какие|какое|чем)?\s*(ли\s+)?
      \b(он|она|оно|они|это|этот|эта|эти|его|её|ее|их|ему|ей|им)\b(?!\s*[—–-])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_IT = re.compile(r"\b(it|its)\b|\b(это|этого)\b", re.IGNORECASE)

_MARKS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Question:
    """A question that a passage answers.

    Args:
        text: the question, or another query.
        answer: the words of the passage that answer it, where known.
    """

    text: str
    answer: str | None = None


class QuestionFilter:
    """Says of each question in turn whether it is any good; remembers those that were, to know another as their copy.

    Args:
        reasons: which checks are made, out of `REASONS`.
        min_overlap: least share of a question's own words that its passage holds. At .25, questions of XQuAD and CMRC put to
            a passage drawn at random are found out in 94 to 98 of 100 cases, and of true ones 1 to 4 in 100 are lost.
        max_similarity: a question with a larger Jaccard similarity of character trigrams to an earlier one is its copy,
            unless the two differ in a number or a Latin name.

    Example:
        >>> check = QuestionFilter()
        >>> passage = "Nikon made its first camera in 1948 in Tokyo."
        >>> check.reason(Question("When did Nikon make its first camera?"), passage) is None
        True
        >>> [check.reason(Question(text), passage) for text in (
        ...     "when did Nikon make its first camera", "What does the text say about Nikon?", "How tall is Everest?",
        ...     "Here are three questions:")]
        ['duplicate', 'not_self_contained', 'unanswerable', 'placeholder']
    """

    def __init__(
        self, reasons: Collection[str] = REASONS, *, min_overlap: float = 0.25, max_similarity: float = 0.85
    ) -> None:
        unknown = [reason for reason in reasons if reason not in REASONS]
        if unknown or isinstance(reasons, str):
            raise ValueError(f"filters {unknown or reasons!r} are not known; choose out of {REASONS}")
        if not (0 <= min_overlap <= 1 and 0 < max_similarity <= 1):
            raise ValueError(f"min_overlap={min_overlap}, max_similarity={max_similarity}; both are shares of 1")
        self.reasons = frozenset(reasons)
        self.min_overlap = min_overlap
        self.max_similarity = max_similarity
        self._kept = _NearDuplicates(max_similarity)

    def reason(self, question: Question, passage: str) -> str | None:
        """Why a question is no good; None where it is, and then it is remembered.

        Args:
            question: the question.
            passage: the text that answers it.

        Returns:
            One of `REASONS`, the first that holds in their order, or None.
        """
        if "placeholder" in self.reasons and is_placeholder(question.text):
            return "placeholder"
        if "not_self_contained" in self.reasons and not is_self_contained(question.text):
            return "not_self_contained"
        if "unanswerable" in self.reasons and not is_answered(question, passage, min_overlap=self.min_overlap):
            return "unanswerable"
        if "duplicate" in self.reasons and not self._kept.add(question.text):
            return "duplicate"
        return None


def is_placeholder(text: str) -> bool:
    """Whether a text is what a generator says in place of a question: a lead-in, an instruction, an empty slot.

    Args:
        text: what was generated.

    Example:
        >>> [is_placeholder(text) for text in ("根据上下文信息，你可以提出以下问题：", "日本为何重视半导体产业？")]
        [True, False]
    """
    text = unicodedata.normalize("NFKC", text).strip().strip("\"'“”‘’")
    if not any(character.isalpha() for character in text) or _LEAD_IN.search(text):
        return True
    return _PLACEHOLDER.search(text) is not None


def is_self_contained(text: str) -> bool:
    """Whether a question can be understood without the passage it was made of: it neither points at it nor begins with a pronoun.

    Args:
        text: the question.

    Example:
        >>> [is_self_contained(text) for text in ("What does the passage say?", "Why did he leave?", "Why did Nikon leave?")]
        [False, False, True]
    """
    text = unicodedata.normalize("NFKC", text)
    if _POINTS_AT_PASSAGE.search(text) or _PRONOUN_FIRST.search(text):
        return False
    return not (_IT.search(text) and len(own_words(text)) <= 1)


def is_answered(question: Question, passage: str, *, min_overlap: float = 0.25) -> bool:
    """Whether a passage seems to answer a question: it holds the answer, or enough of the question's own words.

    Args:
        question: the question; where its answer is given, the passage must hold it, in whole or three quarters of its words.
        passage: the text.
        min_overlap: least share of the question's own words (its neighbouring characters in Chinese) that the passage holds;
            not asked for where the two are in different scripts, of which words say nothing.

    Example:
        >>> is_answered(Question("When was Nikon founded?", "1917"), "Nikon was founded in 1917.")
        True
        >>> is_answered(Question("When was Nikon founded?", "1931"), "Nikon was founded in 1917.")
        False
    """
    own = {rough_stem(token) for token in own_words(question.text)}
    found = {rough_stem(token) for token in tokenise(passage, "bigram", fold_width=True)}
    if main_script(question.text) == main_script(passage) and len(own & found) < min_overlap * len(own):
        return False
    if question.answer is None:
        return True
    answer, plain = _plain(question.answer), _plain(passage)
    if not answer:
        return False
    wanted = tokenise(question.answer, "bigram", fold_width=True)
    return answer in plain or sum(rough_stem(token) in found for token in wanted) >= 0.75 * max(len(wanted), 4)


def _plain(text: str) -> str:
    return _MARKS.sub("", unicodedata.normalize("NFKC", text).casefold())


class _NearDuplicates:
    """Texts no two of which have a Jaccard similarity of trigrams above a threshold, whatever their number.

    Prefix filtering (Bayardo, Ma and Srikant 2007) finds every pair above the threshold: two sets of similarity t share
    an element among the first |x| - ceil(t |x|) + 1 of each, in any order that is the same for all.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._sets: list[tuple[frozenset[str], list[str]]] = []
        self._of_gram: dict[str, list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a text unless one like it is there; whether it was added."""
        plain = _plain(text)
        grams = frozenset(f"  {plain} "[start : start + 3] for start in range(len(plain) + 1))
        names = sorted(_distinguishing(text))
        prefix = list(_prefix(grams, self.threshold))
        for number in {number for gram in prefix for number in self._of_gram.get(gram, ())}:
            other, other_names = self._sets[number]
            shared = len(grams & other)
            if shared >= self.threshold * (len(grams) + len(other) - shared) and names == other_names:
                return False
        for gram in prefix:
            self._of_gram.setdefault(gram, []).append(len(self._sets))
        self._sets.append((grams, names))
        return True


def _prefix(grams: frozenset[str], threshold: float) -> Iterator[str]:
    # The reversed characters are the order: unlike alphabetical order it does not begin with the texts' common beginnings.
    kept = len(grams) - int(-(-threshold * len(grams) // 1)) + 1
    yield from sorted(grams, key=lambda gram: gram[::-1])[: max(kept, 1)]


def _distinguishing(text: str) -> list[str]:
    """Numbers and, among unspaced scripts, Latin words: what may alone tell two questions apart."""
    text = unicodedata.normalize("NFKC", text).casefold()
    unspaced = bool(re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text))
    return re.findall(r"\d+|[a-z]+" if unspaced else r"\d+", text)
