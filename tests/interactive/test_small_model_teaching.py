"""A small model learns to see two colours, and to ask about them as often as they are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmembed.interactive.preference_trainer import PairCollator
from mmembed.interactive.question_prompt import question_messages
from mmembed.interactive.questions import DialogueState
from mmembed.interactive.small_model_teaching import (
    LabelledPictures,
    TaughtState,
    _Tokens,
    teach_to_ask,
    teach_to_see,
)
from tests.interactive.tiny_questioner import COLOURS, QUESTIONS, colour_pairs, tiny_model, tiny_processor


def pictures(count=40):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    base = np.array(list(COLOURS.values()))[labels]
    pixels = (base[:, None, None, :] + rng.integers(-20, 20, (count, 56, 56, 3))).clip(0, 255).astype(np.uint8)
    return LabelledPictures(pixels, {"colour": labels}, {"colour": list(QUESTIONS.values())})


def states(processor, count=30, shown=5):
    ids = tuple(str(number) for number in range(shown))
    state = DialogueState("a mug", (), ids, np.full(shown, 1 / shown), shown=ids)
    messages = question_messages(state, instructions="Ask.")
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    rng = np.random.default_rng(1)
    return [TaughtState(prompt, tuple(rng.integers(0, 40, shown).tolist())) for _ in range(count)]


def test_it_sees_and_asks_in_proportion():
    model, processor, known = tiny_model(), tiny_processor(), pictures()
    seen = teach_to_see(model, processor, known, steps=25, batch_size=16, show_progress_bar=False)
    assert seen["colour"] > 0.95
    distance = teach_to_ask(
        model, processor, known, states(processor), steps=80, batch_size=8, learning_rate=1e-2, show_progress_bar=False
    )
    assert distance < 0.25
    # of five red pictures "red" is asked about, of five blue ones "blue"
    for row in colour_pairs(2, instructions="Ask.", seed=5):
        batch = PairCollator(processor=processor).torch_call([dict(row)])
        mask = batch.pop("completion_mask")[:, 1:]
        with torch.no_grad():
            scores = torch.log_softmax(model(**batch).logits[:, :-1], -1).gather(2, batch["input_ids"][:, 1:, None])[
                ..., 0
            ]
        chosen, rejected = (scores * mask).sum(1).tolist()
        assert chosen > rejected + 1


def test_prompts_are_tokens_as_the_processor_makes_them():
    processor = tiny_processor()
    (state,) = states(processor, 1, shown=3)
    from PIL import Image

    made = processor(text=[state.prompt], images=[[Image.new("RGB", (56, 56))] * 3], add_special_tokens=False)[
        "input_ids"
    ][0]
    tokens = _Tokens(processor, {"colour": list(QUESTIONS.values())})
    assert tokens.prompt(state.prompt, 3) == made
    assert len(tokens.prompt(state.prompt, 1)) == len(made) - 2 * len(tokens.image)
    row = colour_pairs(1, instructions="Ask.")[0]
    batch = PairCollator(processor=processor).torch_call([dict(row)])
    reply = batch["input_ids"][0][batch["completion_mask"][0].bool()].tolist()
    assert tokens.replies["colour"][0] == reply  # what is taught is what preference training sees


def test_what_is_settled_or_unknown_is_not_taught():
    model, processor = tiny_model(), tiny_processor()
    known = pictures(8)
    known.labels["colour"][:] = -1
    only = [TaughtState(states(processor, 1)[0].prompt, (0, 1, 2, 3, 4), frozenset({"colour"}))]
    assert math.isfinite(teach_to_ask(model, processor, known, only, steps=1, batch_size=1, show_progress_bar=False))


def test_the_same_seed_teaches_the_same():
    found = []
    for _ in range(2):
        model = tiny_model()
        teach_to_see(model, tiny_processor(), pictures(), steps=2, batch_size=4, seed=3, show_progress_bar=False)
        found.append(model.model.connector.modality_projection.proj.weight.detach().clone())
    assert torch.equal(*found)


def test_faults():
    processor = tiny_processor()
    with pytest.raises(ValueError, match="questions about 'colour' begin alike"):
        _Tokens(processor, {"colour": ["Is it red?", "Is it red?", "Is it blue?"]})
    with pytest.raises(ValueError, match="batch_size=0"):
        teach_to_see(tiny_model(), processor, pictures(), steps=1, batch_size=0, show_progress_bar=False)
