"""Each reason for which a question or a pair is dropped, tripped by one that has it and no other."""

from __future__ import annotations

import dataclasses

import pytest

from mmembed.interactive.preference_filters import PairRule, select_pairs, template_of
from mmembed.interactive.preference_scores import ScoredQuestion, ScoredState
from mmembed.interactive.questions import Answer, Question

YES = Answer("yes", "yes", "script")
UNKNOWN = Answer("", "unknown", "script")


def tried(text, score, *, gains=None, answers=(YES, YES), settled=0.6, attribute=None):
    return ScoredQuestion(
        Question(text, ("yes", "no"), attribute=attribute), score, score, gains or (score, score), 0.3, (5.0, 5.0), answers, settled
    )  # fmt: skip


def scored(*questions, key="s", target="t"):
    return ScoredState(key, target, 20.0, tuple(questions))


GOOD, BAD = tried("Is the mug striped?", 1.5), tried("Does it come with lemons?", 0.0)


def counts(dropped):
    return {stage: dict(found.counts) for stage, found in dropped.items() if found.counts}


def test_a_pair_is_a_good_question_and_a_bad_one():
    pairs, dropped = select_pairs([scored(BAD, GOOD)], PairRule())
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs] == [(GOOD, BAD, 1.5)]
    assert counts(dropped) == {}


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (tried("Is the mug striped?", 0.40), tried("Is it sold by weight?", -0.9), "chosen gains too little"),
        (tried("Is the mug striped?", 0.70), tried("Is it sold by weight?", 0.05), "margin"),
        (tried("Is the mug striped?", 1.50), tried("Is it sold by weight?", 0.11), "rejected gains too much"),
        (tried("Is the mug striped?", 1.5, answers=(YES, UNKNOWN)), BAD, "chosen not answered"),
        (tried("Is the mug striped?", 1.5, gains=(3.1, -0.1)), BAD, "seeds disagree"),
        (tried("Is the mug striped?", 1.5, gains=(1.5,)), tried("Is it sold by weight?", 0.0, gains=(0.0,)), "too few answer seeds"),
        (GOOD, tried("Does this mug have stripes?", 0.0), "near-duplicates"),
        (tried("Which?", 1.5, attribute="size"), tried("Which is it of all?", 0.0, attribute="size"), None),
        (GOOD, tried("Is it something that your grandmother would have bought at a market in Provence?", 0.0), "length"),
    ],
)  # fmt: skip
def test_why_two_questions_are_no_pair(chosen, rejected, reason):
    pairs, dropped = select_pairs([scored(chosen, rejected)], PairRule())
    assert pairs == []
    if reason is not None:
        assert counts(dropped) == {"pairs": {reason: 1}}


def test_thresholds_themselves_are_enough():
    rule = PairRule()
    at = rule.max_rejected
    chosen = tried("Is the mug striped?", at + rule.min_margin)
    assert len(select_pairs([scored(chosen, tried("Is it sold by weight?", at))], rule)[0]) == 1


def test_an_unanswered_question_may_be_rejected():
    assert len(select_pairs([scored(GOOD, dataclasses.replace(BAD, answers=(UNKNOWN, UNKNOWN)))], PairRule())[0]) == 1


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (tried("The mug is striped.", 2.0), "no_question"),
        (tried("Is it red? Is it blue?", 2.0), "no_question"),
        (tried("Is it a picture?", 2.0), "true_of_all"),
        (tried("Is the mug striped " + "very " * 25 + "much?", 2.0), "too_long"),
        (tried("Is the mug dotted?", 2.0, settled=0.97), "answerable from the context"),
        (tried("Is the mug wooden?", 2.0), "asked before"),
        (tried("Is the mug dotted?", float("nan")), "no score"),
    ],
)
def test_why_a_question_is_no_good(question, reason):
    asked = {"s": [Question("Is this mug made of wood?"), Question("Is the mug wooden?")]}
    pairs, dropped = select_pairs([scored(question, GOOD, BAD)], PairRule(), asked=asked)
    assert [pair.chosen for pair in pairs] == [GOOD]
    assert counts(dropped) == {"questions": {reason: 1}}


def test_caps_keep_the_largest_margins():
    questions = [tried(f"Is the mug from {place}?", score, attribute=f"place={place}") for place, score in (("Rome", 1.0), ("Oslo", 2.0), ("Bonn", 3.0))]  # fmt: skip
    pairs, dropped = select_pairs([scored(*questions, BAD)], PairRule(max_per_state=2))
    assert [pair.chosen.score for pair in pairs] == [3.0, 2.0]
    assert counts(dropped)["caps"] == {"state": 1}
    pairs, dropped = select_pairs(
        [scored(question, BAD, key=str(number)) for number, question in enumerate(questions)],
        PairRule(max_per_template=1),
    )
    assert [pair.chosen.score for pair in pairs] == [3.0]
    assert counts(dropped)["caps"] == {"template": 2}


def test_balanced_texts_leave_nothing_to_the_text():
    one, other = "Is the mug striped?", "Does it come with lemons?"
    there = [scored(tried(one, 2.0), tried(other, 0.0), key=f"a{number}") for number in range(5)]
    back = [scored(tried(other, 2.0), tried(one, 0.0), key=f"b{number}") for number in range(2)]
    pairs, dropped = select_pairs([*there, *back], PairRule(balance_texts=True))
    assert sorted(pair.chosen.question.text for pair in pairs) == [other, other, one, one]
    assert counts(dropped)["caps"] == {"balance of texts": 3}


def test_templates():
    assert template_of(Question("Is it red?", attribute="colour=red")) == "colour"
    assert template_of(Question("Which size?", attribute="size")) == "size"
    assert template_of(Question("Are there people?")) == template_of(Question("Are there dogs?")) == "are there"


@pytest.mark.parametrize("change", [{"min_margin": 0.0}, {"max_per_state": 0}, {"overlap": 0.0}, {"max_per_template": 0},
                                    {"settled": 1.5}, {"max_length_difference": -1}])  # fmt: skip
def test_rules_out_of_range(change):
    with pytest.raises(
        ValueError, match=next(iter(change)) if "max_per" not in next(iter(change)) else "counted at least 1"
    ):
        PairRule(**change)
