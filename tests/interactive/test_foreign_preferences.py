"""Made-up rank logs and pairs of other systems: names of fields, strict pairs by hand, and files with faults."""

from __future__ import annotations

import json
import math

import pytest

from mmembed.data.schema import DataError
from mmembed.interactive.foreign_preferences import read_preference_json, read_rank_log
from mmembed.interactive.preference_filters import PairRule, select_pairs

ONE_SEED = PairRule(min_agreeing_seeds=1)


def lines(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def array(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def log_record(question, before, after, **more):
    return {
        "target": "t.jpg",
        "caption": "a dog",
        "question": question,
        "rank_before": before,
        "rank_after": after,
        **more,
    }


def test_a_rank_log_by_hand(tmp_path):
    records = [
        log_record("Is it brown?", 40, 10, images=["a.jpg", "b.jpg"], answer="yes"),
        log_record("Is there a ball?", 40, 40, images=["a.jpg", "b.jpg"], answer="I don't know."),
        log_record("Is it big?", 40, 60, images=["a.jpg", "b.jpg"]),
        log_record("Is it brown?", 90, 89, images=["c.jpg"]),
    ]
    found = read_rank_log(lines(tmp_path / "log.jsonl", records))
    assert found.records == 4 and [state.rank for state in found.scored] == [40.0, 90.0]
    first = found.scored[0]
    assert [one.question.text for one in first.questions] == ["Is it brown?", "Is there a ball?", "Is it big?"]
    assert [one.score for one in first.questions] == pytest.approx([math.log(4), 0.0, math.log(40 / 60)])
    assert [[answer.label for answer in one.answers] for one in first.questions] == [["value"], ["unknown"], []]
    assert found.states[0].state.query == "a dog" and list(found.states[0].state.shown) == ["a.jpg", "b.jpg"]
    assert found.states[0].key == first.key
    pairs, dropped = select_pairs(found.scored, ONE_SEED)
    assert [(pair.chosen.question.text, pair.rejected.question.text) for pair in pairs] == [
        ("Is it brown?", "Is it big?"),
        ("Is it brown?", "Is there a ball?"),
    ]
    assert select_pairs(found.scored, PairRule())[1]["pairs"].counts["too few answer seeds"] == 2


def test_names_of_fields_and_ranks_from_zero(tmp_path):
    records = [
        {
            "gt_image": "t.jpg",
            "generated_question": "Is it red?",
            "old_rank": 29,
            "new_rank": 9,
            "dialog": ["a mug", "is it big? no"],
        }
    ]
    found = read_rank_log(array(tmp_path / "log.json", records), first_rank=0)
    assert (found.scored[0].rank, found.scored[0].questions[0].ranks) == (30.0, (10.0,))
    state = found.states[0].state
    assert state.query == "a mug" and [(turn.question.text, turn.answer.text) for turn in state.turns] == [
        ("is it big?", "no")
    ]
    records = [{"wanted": "t", "q": "Is it red?", "vorher": 30, "nachher": 10}]
    found = read_rank_log(
        array(tmp_path / "own.json", records),
        fields={"target": "wanted", "rank_before": "vorher", "rank_after": "nachher"},
    )
    assert found.scored[0].questions[0].gain == pytest.approx(math.log(3))


def test_a_question_tried_twice_is_two_seeds(tmp_path):
    records = [log_record("Is it brown?", 40, 10), log_record("Is it brown?", 40, 20), log_record("Is it big?", 40, 40),
               log_record("Is it big?", 40, 15)]  # fmt: skip
    found = read_rank_log(lines(tmp_path / "log.jsonl", records)).scored[0]
    assert found.questions[0].gains == pytest.approx((math.log(4), math.log(2)))
    assert found.questions[0].score == pytest.approx((math.log(4) + math.log(2)) / 2)
    # on the second seed "big" is the better one
    assert select_pairs([found], PairRule(min_margin=0.1, max_rejected=9))[1]["pairs"].counts["seeds disagree"] == 1


def test_states_by_their_own_name(tmp_path):
    records = [log_record("Is it brown?", 40, 10, state_id=7), log_record("Is it big?", 40, 40, state_id=7, caption="other words"),
               log_record("Is it old?", 40, 40, state_id=8)]  # fmt: skip
    assert [len(one.questions) for one in read_rank_log(lines(tmp_path / "log.jsonl", records)).scored] == [2, 1]


def test_strict_pairs_of_a_preference_file(tmp_path):
    """Of eight "pairs" three are strict: the chosen one gained ln 1.5, the rejected one .1 at most, ln 2 between them."""

    def pair(before, chosen, rejected, **more):
        return {"target": f"{before}-{chosen}-{rejected}.jpg", "chosen": "Is it brown?", "rejected": "Is there a ball?",
                "rank_before": before, "chosen_rank": chosen, "rejected_rank": rejected, "images": ["a.jpg"], **more}  # fmt: skip

    records = [
        pair(60, 30, 60),  # ln 2 and 0: strict
        pair(60, 20, 55),  # ln 3 and .087: strict
        pair(60, 40, 90),  # ln 1.5 and −.41: strict
        pair(60, 30, 50),  # the rejected one gained .18
        pair(60, 45, 120),  # the chosen one gained only .29
        pair(60, 40, 60),  # only ln 1.5 between them
        pair(60, 90, 30),  # the wrong way round
        pair(60, 60, 60),  # nothing moved
        {"target": "x.jpg", "chosen": "Is it brown?", "rejected": "Is there a ball?"},  # no ranks
    ]
    found = read_preference_json(array(tmp_path / "dpo.json", records))
    assert (found.records, len(found.scored)) == (9, 6)
    assert dict(found.left_out.counts) == {"no ranks": 1, "the chosen question ranks no better": 2}
    pairs, dropped = select_pairs(found.scored, ONE_SEED)
    assert [pair.state.target_id for pair in pairs] == ["60-30-60.jpg", "60-20-55.jpg", "60-40-90.jpg"]
    assert all(pair.chosen.question.text == "Is it brown?" for pair in pairs)


@pytest.mark.parametrize(
    "chosen",
    [
        "Is it brown?",
        {"from": "gpt", "value": "Is it brown?"},
        [{"role": "assistant", "content": "Is it brown?"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Is it brown?"}]}],
    ],
)
def test_questions_as_messages(tmp_path, chosen):
    records = [{"img": "t", "chosen": chosen, "rejected": "Hm?", "r0": 9, "pos_rank": 3, "neg_rank": 9}]
    found = read_preference_json(array(tmp_path / "dpo.json", records))
    assert found.scored[0].questions[0].question.text == "Is it brown?"


def test_empty_questions_are_left_out_and_counted(tmp_path):
    pair = {"target": "t", "chosen": "Is it brown?", "rejected": "Hm?", "r0": 60, "pos_rank": 20, "neg_rank": 60}
    found = read_preference_json(
        array(tmp_path / "dpo.json", [pair, {**pair, "rejected": ""}, {**pair, "chosen": [{"value": " "}]}])
    )
    assert (found.records, len(found.scored), dict(found.left_out.counts)) == (3, 1, {"an empty question": 2})
    log = read_rank_log(lines(tmp_path / "log.jsonl", [log_record("Is it big?", 3, 2), log_record(" ", 3, 2)]))
    assert (log.records, len(log.scored), dict(log.left_out.counts)) == (2, 1, {"an empty question": 1})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (log_record("Is it?", 0, 3), r":1: field 'rank_before': found integer 0, expected a rank from 1 on"),
        (log_record("Is it?", 3, "2"), "field 'rank_after': found string '2'"),
        (log_record("Is it?", 3, True), "field 'rank_after': found boolean True"),
        (log_record(7, 3, 2), "field 'question': found integer 7, expected a text"),
        (log_record("Is it?", 3, 2, images="a.jpg"), "field 'images': found string 'a.jpg', expected a list of paths"),
        (log_record("Is it?", 3, 2, dialog="a, b"), "field 'dialog': found string"),
        ({"question": "Is it?", "rank_before": 3, "rank_after": 2}, "field 'target': none of target, target_id"),
        (
            {"target": "t", "question": "Is it?", "rank_before": 3, "danach": 2},
            "field 'rank_after': none of .* found .*danach",
        ),
    ],
)
def test_faults_are_told_with_their_line(tmp_path, record, message):
    with pytest.raises(DataError, match=message):
        read_rank_log(lines(tmp_path / "log.jsonl", [record]))


def test_a_later_record_that_lacks_a_field_is_counted(tmp_path):
    records = [
        log_record("Is it?", 3, 2),
        {"target": "t", "question": "Is it red?", "rank_before": 3, "rank_after": None},
    ]
    found = read_rank_log(lines(tmp_path / "log.jsonl", records))
    assert dict(found.left_out.counts) == {"no rank_after": 1} and found.records == 2


def test_unknown_fields_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match="'rank_befor' is none of .* did you mean 'rank_before'"):
        read_rank_log(tmp_path / "x", fields={"rank_befor": "a"})
    with pytest.raises(DataError, match="no records"):
        read_preference_json(array(tmp_path / "dpo.json", []))
    with pytest.raises(DataError):
        read_rank_log(lines(tmp_path / "empty.jsonl", []))
    (tmp_path / "cut.json").write_text('[{"target": "a"')
    with pytest.raises(DataError, match="cut off"):
        read_preference_json(tmp_path / "cut.json")
