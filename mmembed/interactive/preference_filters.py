"""Which two questions of a state make a pair, and which pairs are kept?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmembed.interactive.preference_scores import ScoredQuestion, ScoredState
from mmembed.interactive.question_form import form_fault, is_repeat
from mmembed.interactive.questions import Question

_SEEN = 5  # examples of each reason that are kept
_ROUNDING = 1e-9  # from rank 60 to 30 is ln 2


@dataclass(frozen=True)
class PairRule:
    """When two questions of a state are a pair.

    Args:
        min_chosen: least score of the chosen question, in nats.
        min_margin: least difference of the two scores.
        max_rejected: largest score of the rejected question.
        min_agreeing_seeds: answer seeds that must there be, and all of them find the chosen one better; 1 asks for no second, 0 for none.
        max_words: the longest question.
        max_length_difference: of the two, in words.
        overlap: questions whose words have this Jaccard similarity are near-duplicates, see `is_repeat`.
        settled: a question is answerable from the context where one of its answers has this probability already.
        max_per_state: pairs of one state.
        max_per_template: pairs whose chosen question is of one template, see `template_of`; None: any number.
        balance_texts: keep as many pairs of two texts in one direction as in the other, so that nothing is learnt from the
            texts alone.

    Raises:
        ValueError: a number out of range.
    """

    min_chosen: float = math.log(1.5)
    min_margin: float = math.log(2.0)
    max_rejected: float = 0.1
    min_agreeing_seeds: int = 2
    max_words: int = 25
    max_length_difference: int = 8
    overlap: float = 0.8
    settled: float = 0.95
    max_per_state: int = 2
    max_per_template: int | None = 1000
    balance_texts: bool = False

    def __post_init__(self) -> None:
        counts = [self.max_words, self.max_per_state]
        counts += [] if self.max_per_template is None else [self.max_per_template]
        if min(counts) < 1 or min(self.max_length_difference, self.min_agreeing_seeds) < 0 or not self.min_margin > 0:
            raise ValueError(
                f"{self}: min_margin is above 0, max_length_difference and min_agreeing_seeds from 0 on, what is counted at least 1"
            )
        if not (0 < self.overlap <= 1 and 0 < self.settled <= 1):
            raise ValueError(f"overlap={self.overlap}, settled={self.settled}; shares above 0 and at most 1")


@dataclass(frozen=True)
class PreferencePair:
    """The better and the worse of two questions in one state.

    Args:
        state: where they were tried.
        chosen: the better one.
        rejected: the worse one.
    """

    state: ScoredState
    chosen: ScoredQuestion
    rejected: ScoredQuestion

    @property
    def margin(self) -> float:
        """The difference of their scores, in nats."""
        return self.chosen.score - self.rejected.score


class Dropped:
    """What was left out, by the reason, with a few examples of each.

    Example:
        >>> dropped = Dropped()
        >>> dropped.add("margin", "s1: Is it red? / Is it big?")
        >>> dict(dropped.counts), dropped.examples["margin"]
        ({'margin': 1}, ['s1: Is it red? / Is it big?'])
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, what: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        if len(self.examples[reason]) < _SEEN:
            self.examples[reason].append(what)


def select_pairs(
    states: Iterable[ScoredState], rule: PairRule, *, asked: Mapping[str, Sequence[Question]] | None = None
) -> tuple[list[PreferencePair], dict[str, Dropped]]:
    """The pairs of scored states.

    Questions first fall out by their form, as copies of what was asked before, as answerable from the context, or because
    the target's answer was "unknown" (a rejected one may stay so). Then two and two are held against the thresholds, the
    seeds, each other's words and lengths; then come the caps, of larger margins first.

    Args:
        states: what was tried where.
        rule: the thresholds.
        asked: by a state's key, the questions of its dialogue so far.

    Returns:
        The pairs, in the order of the states and of their margins, and by stage ("questions", "pairs", "caps") what was
        dropped.
    """
    dropped = {stage: Dropped() for stage in ("questions", "pairs", "caps")}
    pairs: list[PreferencePair] = []
    for state in states:
        questions = list(_good(state, rule, (asked or {}).get(state.key, ()), dropped["questions"]))
        found = []
        for chosen in questions:
            for rejected in questions:
                if chosen.score > rejected.score:
                    pair = PreferencePair(state, chosen, rejected)
                    reason = _fault(pair, rule)
                    if reason is None:
                        found.append(pair)
                    else:
                        dropped["pairs"].add(reason, _told(pair))
        found.sort(key=lambda pair: (-pair.margin, pair.chosen.question.text, pair.rejected.question.text))
        for pair in found[rule.max_per_state :]:
            dropped["caps"].add("state", _told(pair))
        pairs += found[: rule.max_per_state]
    if rule.max_per_template is not None:
        pairs = _capped(pairs, rule.max_per_template, dropped["caps"])
    if rule.balance_texts:
        pairs = _balanced(pairs, dropped["caps"])
    return pairs, dropped


def template_of(question: Question) -> str:
    """What kind of question it is: the attribute that it asks about without its value, else its first two words.

    Example:
        >>> template_of(Question("Is it red?", attribute="colour=red")), template_of(Question("Are there people?"))
        ('colour', 'are there')
    """
    if question.attribute:
        return question.attribute.partition("=")[0]
    return " ".join(question.text.casefold().split()[:2])


def _good(state: ScoredState, rule: PairRule, asked: Sequence[Question], dropped: Dropped) -> Iterator[ScoredQuestion]:
    for found in state.questions:
        reason: str | None = form_fault(found.question, max_words=rule.max_words)
        if reason is None and is_repeat(found.question, asked, overlap=rule.overlap):
            reason = "asked before"
        if reason is None and found.settled is not None and found.settled >= rule.settled:
            reason = "answerable from the context"
        if reason is None and not math.isfinite(found.score):
            reason = "no score"
        if reason is None:
            yield found
        else:
            dropped.add(reason, f"{state.key}: {found.question.text}")


def _fault(pair: PreferencePair, rule: PairRule) -> str | None:
    chosen, rejected = pair.chosen, pair.rejected
    if chosen.score < rule.min_chosen - _ROUNDING:
        return "chosen gains too little"
    if pair.margin < rule.min_margin - _ROUNDING:
        return "margin"
    if rejected.score > rule.max_rejected + _ROUNDING:
        return "rejected gains too much"
    if any(answer.label == "unknown" for answer in chosen.answers):
        return "chosen not answered"
    if min(len(chosen.gains), len(rejected.gains)) < rule.min_agreeing_seeds:
        return "too few answer seeds"
    if rule.min_agreeing_seeds > 1 and not all(a > b for a, b in zip(chosen.gains, rejected.gains, strict=True)):
        return "seeds disagree"
    if is_repeat(rejected.question, [chosen.question], overlap=rule.overlap):
        return "near-duplicates"
    if abs(_words(chosen) - _words(rejected)) > rule.max_length_difference:
        return "length"
    return None


def _capped(pairs: list[PreferencePair], most: int, dropped: Dropped) -> list[PreferencePair]:
    by_template: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        by_template[template_of(pair.chosen.question)].append(number)
    out = set()
    for template, numbers in by_template.items():
        for number in sorted(numbers, key=lambda number: (-pairs[number].margin, number))[most:]:
            out.add(number)
            dropped.add("template", f"{template}: {_told(pairs[number])}")
    return [pair for number, pair in enumerate(pairs) if number not in out]


def _balanced(pairs: list[PreferencePair], dropped: Dropped) -> list[PreferencePair]:
    directions: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, pair in enumerate(pairs):
        texts = pair.chosen.question.text, pair.rejected.question.text
        directions[min(texts, texts[::-1])][texts[0] > texts[1]].append(number)
    kept = set()
    for one, other in directions.values():
        kept.update([*one[: min(len(one), len(other))], *other[: min(len(one), len(other))]])
    for number, pair in enumerate(pairs):
        if number not in kept:
            dropped.add("balance of texts", _told(pair))
    return [pair for number, pair in enumerate(pairs) if number in kept]


def _words(found: ScoredQuestion) -> int:
    return len(found.question.text.split())


def _told(pair: PreferencePair) -> str:
    one, other = pair.chosen, pair.rejected
    return f"{pair.state.key}: {one.question.text} ({one.score:.2f}) / {other.question.text} ({other.score:.2f})"


def describe_rule(rule: PairRule) -> dict[str, Any]:
    """The rule as plain JSON."""
    import dataclasses

    return dataclasses.asdict(rule)
