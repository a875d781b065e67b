"""Passages → questions that they answer: what a generator is, and one that needs no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mmembed.data.keys import content_id
from mmembed.mining.question_filters import Question, is_self_contained
from mmembed.search.content_words import own_words
from mmembed.search.lexical_tokens import main_script


class QuestionGenerator(Protocol):
    """What makes questions of passages: `ExtractiveGenerator`, `LocalGenerator`, `EndpointGenerator`, or your own."""

    @property
    def name(self) -> str:
        """What it is and all that its questions depend on; a log of another name is not continued."""
        ...

    def generate(self, passages: Sequence[str], num_questions: int) -> list[list[Question]]:
        """At most `num_questions` for each passage, the best first; none where it found none."""
        ...


_SENTENCES = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+|\n+")
_CLAUSES = re.compile(r"[，,。；;：:！!？?\n（）()]+|\s-\s|(?<=\w)\s*\.\s")
_CLAUSE_WORDS = (4, 24)  # shortest and longest clause in words; of an unspaced script in characters, times two
_KEYWORDS = 6
_HEADING_CHARACTERS = 80

_UNIT = r"(?:万亿|亿|万|千)?(?:美元|日元|欧元|元|人民币|个百分点|纳米|英寸|毫米|公里|平方米|吨|家|座|人|种|倍|颗|片|台|件|%|％)"
_DEFINITIONS = {
    "unspaced": (re.compile(r"^([^\s，。：、是]{2,16})(?:是指|指的是|是一(?:种|家|个|类|项)|是由|是全球|是世界)(.{4,})$"), "{}是什么？"),
    "cyrillic": (re.compile(r"^([А-ЯЁA-Z][^,.:;—–]{2,50}?)\s*(?:[—–-]\s*это|это|—|–)\s+(.{10,})$"), "Что такое {}?"),
    "latin": (
        re.compile(r"^((?!(?:there|here|it|this|that|these|those|he|she|they|we|i)\b)[^\W\d_][\w'’-]*(?: [\w'’-]+){0,3}) (?:is|was) (?:an?|one of) (.{10,})$", re.I),
        "What is {}?",
    ),
}  # fmt: skip
_NUMBER = re.compile(
    rf"^(.{{6,40}}?)(为|是|达到|达|占|约为|增长|下降|减少|增加)(了|到|至)?(约|近|超过|超|逾)?(\d[\d,.]*\s*{_UNIT})"
)


class ExtractiveGenerator:
    """Makes queries of a passage's own words, with no model: offline, the same every time, in English, Chinese and Russian.

    In this order, as far as a passage has them: a question for what it defines ("X is a …" → "What is X?"); in Chinese a question
    for a figure ("…为43亿美元" → "…为多少？"); its heading; its most telling clause; its key words; further clauses. Clauses and
    key words are told by how rare their words are among all passages (Lee et al. 2019 train retrievers on a sentence and the
    passage around it alone).

    Args:
        passages: the texts whose words are counted; none makes all words equally rare.

    Example:
        >>> generator = ExtractiveGenerator()
        >>> [question.text for question in generator.generate(["Nikon is a maker of cameras, founded in Tokyo in 1917."], 2)[0]]
        ['What is Nikon?', 'Nikon is a maker of cameras']
        >>> generator.generate(["2022年全球半导体设备销售额为1076.5亿美元，同比增长4.9%。"], 1)[0][0]
        Question(text='2022年全球半导体设备销售额为多少？', answer='1076.5亿美元')
    """

    def __init__(self, passages: Sequence[str] = ()) -> None:
        self._count = len(passages)
        self._held = Counter(word for passage in passages for word in set(own_words(passage)))
        self.name = f"extractive 2, {self._count} passages {content_id(*passages)}"

    def generate(self, passages: Sequence[str], num_questions: int) -> list[list[Question]]:
        """Make queries.

        Args:
            passages: texts.
            num_questions: how many of each at most.

        Returns:
            For each passage its queries, each text once, those first that are most like a question.
        """
        made = []
        for passage in passages:
            distinct: dict[str, Question] = {}
            for question in self._questions(passage):
                if len(distinct) == num_questions:
                    break
                if is_self_contained(question.text):
                    distinct.setdefault(question.text, question)
            made.append(list(distinct.values()))
        return made

    def _questions(self, passage: str) -> Iterator[Question]:
        script = main_script(passage)
        sentences = [part.strip() for part in _SENTENCES.split(passage) if part.strip()]
        pattern, template = _DEFINITIONS[script]
        for sentence in sentences:
            found = pattern.match(sentence)
            if found and self._is_rare(found[1]):
                subject = re.sub(r"^(?:The|An|A)\b", lambda article: article[0].lower(), found[1].strip("“”\"' "))
                yield Question(template.format(subject), found[2].strip(" ."))
        if script == "unspaced":
            for sentence in sentences:
                found = _NUMBER.match(sentence)
                if found:
                    yield Question(f"{found[1]}{found[2]}{found[3] or ''}多少？", found[5].strip())
        lines = [line.strip() for line in passage.splitlines() if line.strip()]
        if len(lines) > 1 and len(lines[0]) <= _HEADING_CHARACTERS and lines[0][-1] not in ".。!！?？,，;；:：":
            yield Question(lines[0])
        clauses = self._clauses(passage, script == "unspaced")
        yield from clauses[:1]
        if script != "unspaced":
            yield from self._keywords(passage)
        yield from clauses[1:]

    def _clauses(self, passage: str, unspaced: bool) -> list[Question]:
        shortest, longest = (bound * 2 if unspaced else bound for bound in _CLAUSE_WORDS)
        length: Callable[[str], int] = len if unspaced else lambda clause: len(clause.split())
        clauses = [" ".join(part.split()).strip(' .、"“”') for part in _CLAUSES.split(passage)]
        fitting = [clause for clause in dict.fromkeys(clauses) if shortest <= length(clause) <= longest]
        return [Question(clause) for clause in sorted(fitting, key=self._telling, reverse=True)]

    def _telling(self, clause: str) -> float:
        words = own_words(clause)
        return sum(self._rarity(word) for word in set(words)) / math.sqrt(len(words) + 1)

    def _keywords(self, passage: str) -> Iterator[Question]:
        counts = Counter(word for word in own_words(passage) if len(word) > 2 and not word.isdigit())
        best = sorted(counts, key=lambda word: (-counts[word] * self._rarity(word), word))[:_KEYWORDS]
        if len(best) == _KEYWORDS:
            yield Question(" ".join(word for word in counts if word in best))  # in the order of the passage

    def _is_rare(self, subject: str) -> bool:
        """Whether some word of a subject is in less than a twentieth of the passages: "the paper" is not asked about."""
        words = own_words(subject)
        return bool(words) and (self._count < 20 or min(self._held[word] for word in words) < self._count / 20)

    def _rarity(self, word: str) -> float:
        return math.log(1 + (self._count + 1) / (self._held[word] + 1))
