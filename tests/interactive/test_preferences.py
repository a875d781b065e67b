"""From states to pairs: who is left out, how parts are split, what is refused, and what a killed run keeps."""

from __future__ import annotations

import json

import pytest

from mmembed.data.schema import DataError
from mmembed.data.splits import split_bucket
from mmembed.interactive.preference_filters import PairRule
from mmembed.interactive.preference_log import TriedQuestions
from mmembed.interactive.preference_report import preference_table, write_preference_report
from mmembed.interactive.preferences import TargetLeakError, build_preference_pairs, why_left_out
from tests.interactive.scripted_world import IDS, Asks, World, state, views

TEXTS = ["Is it striped?", "Is it a mug?", "Does it glow in the dark?", "Is it red?"]
FAST = {"targets": 0, "gain_weight": 0.0, "show_progress_bar": False}
RULE = PairRule(min_margin=0.5)


def build(states, questioner=None, answerers=None, **options):
    return build_preference_pairs(
        states,
        questioner or Asks(TEXTS),
        answerers or [World(), World()],
        World(),
        views(),
        **{"rule": RULE, **FAST, "questions": 4, "top_k": 5, **options},
    )


def test_pairs_of_a_state_by_hand():
    found = build([state()], test_percent=0)
    # "striped" and "red" both take the target from 16 to 8 (ln 2); "mug" and "name" are answered alike for all candidates
    dropped = found.figures["dropped"]
    assert dropped["questions"]["answerable from the context"]["count"] == 2
    assert len(found.train) == len(found.test) == 0
    found = build([state()], test_percent=0, rule=PairRule(min_margin=0.5, settled=1.0), questioner=Asks([*TEXTS[:1], "Is it made of zinc?"]),
                  questions=2)  # fmt: skip
    row = found.train[0]
    assert len(found.train) == 1
    assert row["chosen"][0]["content"][0]["text"] == "Is it striped?"
    assert row["rejected"][0]["content"][0]["text"] == "Is it made of zinc?"
    assert (row["rank_before"], row["chosen_ranks_after"], row["rejected_ranks_after"]) == (
        16.0,
        [8.0, 8.0],
        [15.0, 15.0],
    )
    assert row["chosen_score"] == pytest.approx(0.693147, abs=1e-6)
    assert row["rejected_score"] == pytest.approx(0.064539, abs=1e-6)
    assert (row["state"], row["target"], row["query"], row["round"], row["seed"]) == ("s", IDS[15], "a mug", 0, 0)
    assert row["shown"] == list(IDS[:5]) and len(row["images"]) == 5 and not row["target_shown"]
    assert json.loads(row["chosen_provenance"]) == {"questioner": "script"}
    assert row["chosen_answers"] == ["yes", "yes"]


@pytest.mark.parametrize(
    ("target", "options", "reason"),
    [
        (IDS[3], {}, "target found already"),
        (IDS[4], {}, "target found already"),
        (IDS[5], {}, None),
        (IDS[15], {"max_rank": 15}, "target too far down"),
        (IDS[14], {"max_rank": 15}, None),
        ("elsewhere", {}, "target not in the pool"),
    ],
)
def test_which_states_are_left_out(target, options, reason):
    assert why_left_out(state(target=target), top_k=5, **options) == reason


def test_left_out_states_are_counted_and_cost_nothing():
    questioner = Asks(TEXTS)
    found = build([state("a", IDS[0]), state("b", "elsewhere"), state("c")], questioner)
    assert found.figures["states"] == {
        "given": 3,
        "left out": {"target found already": 1, "target not in the pool": 1},
        "tried": 1,
        "without a question": 0,
    }
    assert len(questioner.seeds) == 4


def many_states():
    return [
        state(f"{target}-{number}", target, seed=number) for target in IDS[8:] for number in (0, 4)
    ]  # two states a target


def test_parts_share_no_target_image():
    keys = {target: f"image{int(target[1:]) // 2}" for target in IDS}  # neighbours are the same image
    rule = PairRule(min_chosen=0.1, min_margin=0.01, settled=1.0)
    found = build(
        many_states(),
        test_percent=50,
        target_keys=keys,
        rule=rule,
        questioner=Asks([*TEXTS, "Is it made of zinc?"]),
        questions=5,
    )
    train, test = ({*part["target_key"]} for part in (found.train, found.test))
    assert train and test and not train & test
    assert all(split_bucket(key) < 50 for key in test) and all(split_bucket(key) >= 50 for key in train)
    assert found.figures["pairs"]["test"]["targets"] == len(test)
    assert set(found.figures["text baselines"]) == {"text", "template", "length"}


def test_a_target_of_the_evaluation_set_is_refused():
    with pytest.raises(TargetLeakError, match=r"1 of 8 targets is also in the evaluation set, first 'c09'") as caught:
        build(many_states(), evaluation_ids=["x", "c09"])
    assert caught.value.exit_status == 3
    with pytest.raises(TargetLeakError):  # another id of the same image
        build([state()], evaluation_ids=["twin"], target_keys={"c15": "k", "twin": "k"})
    with pytest.raises(TargetLeakError):  # the key itself
        build([state()], evaluation_ids=["k"], target_keys={"c15": "k"})
    build([state()], evaluation_ids=["c14"])


def test_two_states_of_one_key_and_too_few_answerers():
    with pytest.raises(DataError, match="two states have the key 's'"):
        build([state(), state()])
    with pytest.raises(ValueError, match="1 answerers for a rule that asks 2"):
        build([state()], answerers=[World()])
    with pytest.raises(ValueError, match="questions=1"):
        build([state()], questions=1)


def test_no_state_is_no_pair():
    found = build([])
    assert len(found.train) == len(found.test) == 0
    assert found.train.column_names == found.test.column_names
    assert "states" in preference_table(found.figures)


def test_a_killed_run_goes_on_and_gives_the_same(tmp_path):
    whole = build(many_states(), log=tmp_path / "whole.jsonl")

    class Killed(Exception):
        pass

    class Dies(Asks):
        def ask(self, given):
            if len(self.seeds) == 17:
                raise Killed
            return super().ask(given)

    with pytest.raises(Killed):
        build(many_states(), Dies(TEXTS), log=tmp_path / "cut.jsonl")
    with open(tmp_path / "cut.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "half a li')
    questioner = Asks(TEXTS)
    resumed = build(many_states(), questioner, log=tmp_path / "cut.jsonl")
    assert len(questioner.seeds) == (len(many_states()) - 4) * 4  # four states of four questions were kept
    assert resumed.figures == whole.figures
    assert resumed.train[:] == whole.train[:]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\n", "not JSON"),
        ("[1]\n", "no file of tried questions"),
        ("hello", "no file of tried questions"),
        ('{"format": "mmembed-tried-questions", "version": 9, "configuration": {}}\n', "version"),
        ('{"format": "mmembed-tried-questions", "version": 1, "configuration": {"a": 2}}\n', 'a was 2 and is 1'),
        ('{"format": "mmembed-tried-questions", "version": 1, "configuration": {"a": 1}}\n{"key": "s"}\n', ":2: no tried state"),
        ('{"format": "mmembed-tried-questions", "version": 1, "configuration": {"a": 1}}\n{"key": "s", "target_id": "t", "rank": 3,'
         ' "questions": [{"question": {"options": 3}, "answers": [], "gains": [], "ranks": []}]}\n', ":2: no tried state"),
    ],
)  # fmt: skip
def test_a_log_of_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "log.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        TriedQuestions(path, {"a": 1})
    assert path.read_text(encoding="utf-8") == content


def test_the_report_says_what_was_dropped(tmp_path):
    found = build(many_states(), test_percent=50, rule=PairRule(min_chosen=0.1, min_margin=0.01, max_per_state=1))
    path = write_preference_report(tmp_path, found.figures)
    text = path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found.figures))
    assert "answerable from the context" in text and "text" in text
    table = preference_table(found.figures)
    assert f"{len(found.train)}" in table
