"""Scores of questions against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.preference_scores import belief_ranks, score_questions, several_questions
from mmembed.interactive.questions import DialogueState
from tests.interactive.scripted_world import IDS, Asks, World, asks, state

# The target is the last of 16. "striped" is true of the last eight: it then stands 8th. "red" is true of 4 … 11, not of the
# target: of the eight others it is the last, so 8th too. "mug" is true of all: nothing moves.
STRIPED, MUG, RED, ZINC = (
    asks(text) for text in ("Is it striped?", "Is it a mug?", "Is it red?", "Is it made of zinc?")
)


def test_gains_of_the_target_alone():
    found = score_questions(state(), [STRIPED, MUG, RED, ZINC], [World()], World(), targets=0, gain_weight=0)
    assert found.rank == 16
    assert [one.ranks for one in found.questions] == [(8.0,), (16.0,), (8.0,), (15.0,)]
    assert [round(one.gain, 6) for one in found.questions] == [
        round(value, 6) for value in (math.log(2), 0.0, math.log(2), math.log(16 / 15))
    ]
    assert all(one.score == one.gain for one in found.questions)


def test_a_wrong_answer_loses_rank_and_no_answer_changes_nothing():
    target = IDS[15]
    answerers = [World(wrong={(target, "Is it striped?")}), World(silent={(target, "Is it striped?")})]
    found = score_questions(state(), [STRIPED], answerers, World(), targets=0, gain_weight=0).questions[0]
    # "no" leaves the first eight before it and it among the other eight, whose order is kept: still 16th
    assert found.ranks == (16.0, 16.0)
    assert [answer.label for answer in found.answers] == ["no", "unknown"]
    worse = score_questions(state(target=IDS[8]), [STRIPED], [World(wrong={(IDS[8], "Is it striped?")})], World(), targets=0,
                            gain_weight=0).questions[0]  # fmt: skip
    assert worse.ranks == (9.0,) and worse.gain == 0.0
    best = score_questions(state(target=IDS[0]), [STRIPED], [World(wrong={(IDS[0], "Is it striped?")})], World(), targets=0,
                           gain_weight=0).questions[0]  # fmt: skip
    assert best.ranks == (9.0,) and best.gain == pytest.approx(-math.log(9))


def test_the_mean_is_over_drawn_targets_and_seeds():
    one = state()
    belief = np.asarray(one.state.probabilities)
    found = score_questions(one, [STRIPED], [World(), World()], World(), targets=4000, gain_weight=0, seed=1).questions[
        0
    ]
    ranks = np.arange(1, 17)
    after = np.array(
        [rank if rank <= 8 else rank - 8 for rank in ranks]
    )  # "no" keeps the first eight, "yes" lifts the rest
    expected = float((belief * np.log(ranks / after)).sum())
    assert found.gain == pytest.approx(expected, abs=0.03)
    assert found.gains[0] == found.gains[1] == pytest.approx(found.gain)
    again = score_questions(one, [STRIPED], [World(), World()], World(), targets=4000, gain_weight=0, seed=1).questions[
        0
    ]
    assert again == found
    other = score_questions(one, [STRIPED], [World(), World()], World(), targets=40, gain_weight=0, seed=2).questions[0]
    assert other.gain != found.gain


def test_the_true_target_always_counts():
    world = World()
    score_questions(state(), [STRIPED], [world], World(), targets=0)
    assert world.asked == [(IDS[15], "Is it striped?")]


def test_the_information_gain_is_mixed_in():
    one = state()
    belief = np.asarray(one.state.probabilities)
    found = score_questions(one, [STRIPED, MUG, RED], [World()], World(), targets=0, gain_weight=0.4).questions

    def entropy(share):
        return -share * math.log(share) - (1 - share) * math.log(1 - share)

    gains = [entropy(belief[8:].sum()), 0.0, entropy(belief[4:12].sum())]
    assert [one.information_gain for one in found] == pytest.approx(gains)
    assert found[0].score == pytest.approx(0.6 * math.log(2) + 0.4 * gains[0] / max(gains))
    assert found[1].score == pytest.approx(0.0)
    assert found[0].settled == pytest.approx(max(belief[8:].sum(), belief[:8].sum()))
    assert found[1].settled == pytest.approx(1.0)


def test_ties_share_the_mean_of_their_places():
    assert belief_ranks(np.array([0.25, 0.25, 0.25, 0.25])).tolist() == [2.5] * 4
    assert belief_ranks(np.array([0.1, 0.1 + 1e-15, 0.8])).tolist() == [2.5, 2.5, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"targets": -1}, "targets=-1"), ({"gain_weight": 1.5}, "gain_weight=1.5"), ({"answerers": []}, "0 answerers")],
)
def test_numbers_out_of_range(change, message):
    arguments = {"answerers": [World()], **change}
    with pytest.raises(ValueError, match=message):
        score_questions(state(), [STRIPED], likelihood=World(), **arguments)


def test_a_target_outside_the_pool():
    with pytest.raises(DataError, match="'zz' of state 's' is not in its pool"):
        score_questions(state(target="zz"), [STRIPED], [World()], World())


def test_each_question_is_asked_with_a_seed_of_its_own():
    questioner = Asks(["Is it red?", None, "Is it red?", "Is it striped?"])
    found = several_questions(questioner, state(seed=4).state, 4)
    assert questioner.seeds == [4, 5, 6, 7]
    assert [question.text for question in found] == ["Is it red?", "Is it striped?"]


def test_a_questioner_that_lists_its_gains_gives_good_and_bad_ones():
    table = AttributeTable(
        ["a", "b", "c", "d"],
        [Slot("colour", ("red", "blue")), Slot("size", ("s", "m", "l"))],
        [np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])],
    )
    questioner = AttributeQuestioner(table, kinds=("yes_no",))
    belief = DialogueState("x", (), ("a", "b", "c", "d"), np.full(4, 0.25))
    listed = questioner.gains(belief)
    found = several_questions(questioner, belief, 3)
    assert found[0] == listed[0] and found[-1] == listed[-1] and len(found) == 3
