"""Rewards by hand, and TRL's GRPO with them: the question that finds the target becomes the likelier one."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mmembed.data.schema import DataError
from mmembed.interactive.preference_checks import PreferenceTrainingError
from mmembed.interactive.questions import Answer, Turn
from mmembed.interactive.rank_gain_reward import RankGainReward, rank_gain_trainer
from mmembed.interactive.vision_language_model import VisionLanguageModel
from mmembed.interactive.warm_start import warm_start
from tests.interactive.scripted_world import World, asks, state, views
from tests.interactive.tiny_questioner import colour_pairs, tiny_model, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def reward(states, **options):
    return RankGainReward(states, [World()], World(), **{"targets": 0, **options})


def test_rewards_by_hand():
    asked = Turn(asks("Is it a mug?"), Answer("yes", "yes", "script"))
    found = reward([state("s"), state("t", turns=(asked,))])
    block = [{"role": "assistant", "content": [{"type": "text", "text": "Is it striped?"}]}]
    text = [{"role": "assistant", "content": "Question: Is it striped?"}]
    assert found(None, [block, text, "Is it made of zinc?"], state=["s", "s", "s"]) == pytest.approx(
        [math.log(2), math.log(2), math.log(16 / 15)]
    )
    fined = ["Hello there.", "", "Is it red? Is it striped?", "Is it a picture?"]
    assert found(None, fined, state=["s"] * 4) == [-1.0] * 4
    assert found(None, ["Is it a mug?"] * 2, state=["s", "t"]) == [0.0, -1.0]  # asked before in one of the two
    with pytest.raises(DataError, match="no state 'u'"):
        found(None, ["Is it red?"], state=["u"])


def test_a_reader_links_questions_to_attributes():
    seen = []

    def read(question, given):
        seen.append((question.text, given.query))
        return dataclasses.replace(question, attribute="linked")

    reward([state("s")], read=read).reward("s", "Is it red?")
    assert seen == [("Is it red?", "a mug")]


def test_each_reply_is_measured_once():
    world = World()
    found = RankGainReward([state("s")], [world], World(), targets=0)
    for _ in range(3):
        found.reward("s", "Is it red?")
    assert len(world.asked) == 1


def test_grpo_prefers_what_finds_the_target(tmp_path):
    """A model that knows two questions, red and blue; the answer to one of them moves the target, that to the other does not."""
    processor = tiny_processor()
    model = warm_start(
        tiny_model(), processor, colour_pairs(4, instructions="Ask.", seed=3), output_dir=str(tmp_path / "warm"), use_cpu=True,
        per_device_train_batch_size=4, max_steps=40, learning_rate=5e-3, disable_tqdm=True,
    )  # fmt: skip

    class TwoQuestions(RankGainReward):
        def _measured(self, one, reply):
            return {"Is it red?": 1.0, "Is it blue?": 0.0}.get(reply.strip(), self.no_question)

    states = [state(str(number), seed=number) for number in range(4)]
    trainer = rank_gain_trainer(
        model, processor, states, views(56), TwoQuestions(states, [], World(), no_question=0.0), output_dir=str(tmp_path / "grpo"),
        per_device_train_batch_size=12, num_generations=12, max_steps=6, instructions="Ask.", learning_rate=1e-3, max_completion_length=6, use_cpu=True,
        disable_tqdm=True, logging_steps=1, seed=1,
    )  # fmt: skip
    row = trainer.train_dataset[0]

    def preference():
        sums, _ = VisionLanguageModel(trainer.model, processor).log_probabilities(
            row["prompt"], row["images"], ["Is it red?", "Is it blue?"]
        )
        return sums[0] - sums[1]

    before = preference()
    trainer.train()
    assert preference() > before + 0.2
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    assert len(rewards) == 6 and max(rewards) > 0


def test_grpo_is_refused_what_it_cannot_do(tmp_path):
    with pytest.raises(PreferenceTrainingError, match="no processor of images"):
        rank_gain_trainer(
            tiny_model(), tiny_processor().tokenizer, [state()], views(), reward([]), output_dir=str(tmp_path)
        )
    with pytest.raises(DataError, match="no states to ask in"):
        rank_gain_trainer(tiny_model(), tiny_processor(), [], views(), reward([]), output_dir=str(tmp_path))
